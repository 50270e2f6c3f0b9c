"""A runtime's process: networks go in by file, nanoseconds come out."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.errors import RuntimeRefusal, UsageError
from enc_caffe.runtimes.known import Runtime, interpreter
from enc_caffe.runtimes.patience import Patience, spoken
from enc_caffe.workers.blas import blas_environment
from enc_caffe.workers.executor import last_words
from enc_caffe.workers.parent import die_with_parent

WORKER = Path(__file__).resolve().parent / "worker.py"
#: Seconds of a step after which a person is told what is waited for, and again whenever it has doubled.
TELL = 60.0
#: Lines of what a runtime says that are kept.
LINES = 200
#: Bytes of text of the networks that are converted as one.
BUNDLE = 1 << 15


@dataclass(frozen=True)
class Model:
    """A network's files, and the shapes of its inputs."""

    prototxt: Path
    caffemodel: Path
    inputs: Mapping[str, Sequence[int]]


def _said(name: str, model: Model) -> dict[str, Any]:
    """A network in the words of the worker."""
    return {
        "name": name, "prototxt": str(model.prototxt), "caffemodel": str(model.caffemodel),
        "inputs": {n: list(s) for n, s in model.inputs.items()},
    }  # fmt: skip


def _bundles(models: Mapping[str, Model]) -> list[list[str]]:
    """Names of networks to convert as one, in their order: within so much text, since a pass makes ready for all of them."""
    found: list[list[str]] = []
    room = 0
    for name, model in models.items():
        size = model.prototxt.stat().st_size
        if size > room:
            found.append([])
            room = BUNDLE
        found[-1].append(name)
        room -= size
    return found


class RuntimeProcess:
    """A runtime in a process of its own, started when it is needed and again where a network ended it.

    Parameters
    ----------
    runtime : Runtime
    threads : int
    python : Path, optional
        The Python that has it.
    notice : callable of a line that a person should read
        Hears what is waited for, where that takes long.
    on_step : callable of words
        Hears what the runtime begins to do.

    Attributes
    ----------
    subject : str
        What the networks are of that are loaded and timed next, such as a layer: for these words.

    Raises
    ------
    UsageError
        If the runtime is not there.
    """

    def __init__(
        self, runtime: Runtime, threads: int = 1, python: Optional[Path] = None,
        notice: Callable[[str], None] = lambda line: None, on_step: Callable[[str], None] = lambda words: None,
    ) -> None:  # fmt: skip
        self.runtime, self.threads, self._python = runtime, threads, interpreter(runtime, python)
        self.subject, self._notice, self._on_step = "the network", notice, on_step
        self._patience, self._passes = Patience(), dict[str, float]()
        self._process: Optional[subprocess.Popen[str]] = None
        self._said: collections.deque[str] = collections.deque(maxlen=LINES)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._models: dict[str, Model] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="enc-caffe-runtime-")
        self._made, self._folders = 0, dict[str, Path]()
        self.version = self._start()

    def _start(self) -> str:
        own = {**blas_environment(self.threads), "GLOG_minloglevel": "2"}
        own["PATH"] = f"{self._python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        command = [str(self._python), str(WORKER), str(self.runtime.adapter), str(self.threads)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                env={**os.environ, **own}, cwd=self._folder.name, start_new_session=True, preexec_fn=die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
        except OSError as exc:
            raise UsageError(
                f"--runtime_python {self._python}: cannot be run ({exc.strerror}); name a Python that has {self.runtime.name}"
            ) from None
        self._said.clear()
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        try:
            first = self._answer("start", f"starting {self._python}")
        except RuntimeRefusal as exc:
            raise UsageError(f"--runtime {self.runtime.name}: {exc}") from None
        if first is None or "absent" in first:
            why = first["absent"] if first else last_words("\n".join(self._said))
            raise UsageError(
                f"--runtime {self.runtime.name}: {self._python} cannot use it ({why}); in an environment of its own: "
                f"{self.runtime.install}"
            )
        return str(first["version"])

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with contextlib.suppress(ValueError, OSError):
            for line in process.stderr:
                self._said.append(line.rstrip("\n"))

    def _read(self, process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in process.stdout:
                lines.put(line)
        # The end of the process.
        lines.put("")

    def _answer(self, kind: str, doing: str, size: float = 1.0, expected: float = 0.0) -> Optional[dict[str, Any]]:
        """The next answer; None where the process has ended.

        Raises
        ------
        RuntimeRefusal
            If it does not come in many times what such a step took before; the process is ended then.
        """
        assert self._process is not None
        try:
            line = self._line(self._patience.limit(kind, size, expected), kind, doing, size)
        except BaseException:
            # Nobody will read the answer; whoever tidies up must not wait for it.
            self._end()
            raise
        if not line:
            self._process.wait()
            # Its last words.
            self._listener.join(60)
            return None
        try:
            return json.loads(line)  # type: ignore[no-any-return]
        except ValueError:
            # Not the worker: another program than Python was named.
            self._kill(self._process)
            self._said.append(f"it answers {line.strip()[:60]!r}, which no worker does; is it a Python?")
            return None

    def _line(self, limit: float, kind: str, doing: str, size: float) -> str:
        """The next line; an interruption (Ctrl-C, SIGTERM) comes through at once."""
        self._on_step(f"{self.runtime.name}: {doing}")
        begun, tell = time.monotonic(), TELL
        while True:
            passed = time.monotonic() - begun
            if passed >= limit:
                raise RuntimeRefusal(
                    f"its process gave no answer for {spoken(limit)} while {doing}{self._patience.words(kind)}, and was ended"
                )
            try:
                line = self._lines.get(timeout=max(0.0, min(tell, limit) - passed))
            except queue.Empty:
                if tell < limit:
                    self._notice(
                        f"{self.runtime.name}: {doing} has taken {spoken(tell)} so far{self._patience.words(kind)}; it is ended after "
                        f"{spoken(limit)}, or at once by Ctrl-C"
                    )
                    tell *= 2
                continue
            if line:
                self._patience.took(kind, time.monotonic() - begun, size)
            return line

    def _kill(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            # With what it has started, such as a converter.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _end(self) -> None:
        if self._process is not None:
            self._kill(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._process = None

    def _ask(self, doing: str, size: float = 1.0, expected: float = 0.0, **words: Any) -> dict[str, Any]:
        """The answer; :class:`RuntimeRefusal` where the process ends over it, or gives none."""
        if self._process is None:
            self._start()
            for name in list(self._models):
                self._load(name)
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
        found = self._answer(str(words["do"]), doing, size, expected)
        if found is None:
            status, self._process = self._process.returncode, None
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise RuntimeRefusal(f"its process ended by {how}: {last_words(chr(10).join(self._said))}")
        return found

    def _load(self, name: str) -> None:
        model = self._models[name]
        self._folders[name] = folder = self._new_folder()
        said = self._ask(
            f"converting {self.subject} as {name}", model.caffemodel.stat().st_size, do="load", folder=str(folder),
            **_said(name, model),
        )  # fmt: skip
        if "refused" in said:
            raise RuntimeRefusal(str(said["refused"]))
        self._passes[name] = float(said["seconds"])

    def _new_folder(self) -> Path:
        self._made += 1
        folder = Path(self._folder.name) / str(self._made)
        folder.mkdir()
        return folder

    def load(self, name: str, model: Model) -> None:
        """Convert a network by the runtime's own importer.

        Raises
        ------
        RuntimeRefusal
            With the importer's last words, where it or the runtime does not take the network; the others stay.
        """
        self._models[name] = model
        try:
            self._load(name)
        except RuntimeRefusal:
            del self._models[name]
            raise

    def load_all(self, models: Mapping[str, Model]) -> dict[str, str]:
        """Load networks, small ones of a runtime that converts them together as one; why it refuses others, by name."""
        refused: dict[str, str] = {}
        for names in _bundles(models) if self.runtime.together else [[name] for name in models]:
            if len(names) > 1 and self._loaded_as_one({name: models[name] for name in names}):
                continue
            for name in names:
                try:
                    self.load(name, models[name])
                except RuntimeRefusal as exc:
                    refused[name] = str(exc)
        return refused

    def _loaded_as_one(self, models: Mapping[str, Model]) -> bool:
        """False where the runtime does not take them so: one by one it says which."""
        folder = self._new_folder()
        try:
            said = self._ask(
                f"converting {self.subject} in {len(models)} forms", sum(m.caffemodel.stat().st_size for m in models.values()),
                do="load_all", nets=[_said(n, m) for n, m in models.items()], folder=str(folder),
            )  # fmt: skip
        except RuntimeRefusal:
            return False
        if "refused" in said:
            return False
        self._models.update(models)
        self._folders.update(dict.fromkeys(models, folder))
        self._passes.update(zip(models, said["seconds"]))
        return True

    def time(self, names: Sequence[str], rounds: int, seconds: float, sweep: int = 0) -> np.ndarray:
        """Nanoseconds of a pass, shape (names, rounds): in each round every network has its turn of about so many seconds.

        ``sweep``: bytes that are read before every pass, so that weights are not where the pass before has left them.
        """
        # Each turn is a pass before it, and as many as fill its time, at least one.
        expected = sum(
            3 * self._passes.get(n, 0.0) + (rounds + 1) * (2 * self._passes.get(n, 0.0) + seconds) for n in names
        )
        found = self._ask(
            f"timing {self.subject} in {len(names)} form{'s' if len(names) != 1 else ''}", rounds * len(names), expected, do="time",
            names=list(names), rounds=rounds, seconds=seconds, sweep=sweep,
        )  # fmt: skip
        return np.array(found["ns"], dtype=float)

    def outputs(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a network by the names that the runtime gives them."""
        given, made = (Path(self._folder.name) / f for f in ("inputs.npz", "outputs.npz"))
        np.savez(given, **inputs)  # type: ignore[arg-type]
        self._ask(f"running {name}", do="run", name=name, inputs=str(given), outputs=str(made))
        with np.load(made) as data:
            return {n: data[n] for n in data.files}

    def folder(self, name: str) -> Path:
        """Where a network's converted files are."""
        return self._folders[name]

    def drop(self, names: Sequence[str]) -> None:
        """Forget networks."""
        for name in names:
            self._models.pop(name, None)
            shutil.rmtree(self._folders.pop(name), ignore_errors=True)
        if self._process is not None:
            self._ask("dropping networks", do="drop", names=list(names))

    def close(self) -> None:
        """End the process."""
        self._end()
        self._folder.cleanup()

    def __enter__(self) -> RuntimeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
