"""Times from another machine: the small networks go out with a script, and their times come back as a CSV file.

A network is known by a digest of its prototxt, so a file fits the network, schemes and ranks that it was exported with, and no others.
"""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from typing import Any, Mapping, Optional

from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.errors import MetricsError, NetworkError, RuntimeRefusal
from enc_caffe.measuring.clock import Timing, Timings, median
from enc_caffe.measuring.contexts import random_model
from enc_caffe.measuring.store import digest_of
from enc_caffe.runtimes.known import Runtime
from enc_caffe.runtimes.process import WORKER, RuntimeProcess

LIST, TIMES, SCRIPT = "networks.csv", "times.csv", "time_networks.py"
COLUMNS = ("network", "what", "form", "sweep", "inputs", "runtime")
#: Nanoseconds of a pass at most: ten days.
LONGEST = 1e15


def key_of(net: Any) -> str:
    """What a network is known by."""
    return digest_of(to_text(net))[:16]


class Exporter:
    """Writes networks into a folder in place of timing them.

    Parameters
    ----------
    folder : Path
        It gets the networks, their list, and a script that times them where the runtime is.
    runtime : Runtime
    process : RuntimeProcess, optional
        The runtime here, whose importer converts them too.
    """

    def __init__(self, folder: Path, runtime: Runtime, process: Optional[RuntimeProcess] = None) -> None:
        self.runtime, self.about = runtime, {"runtime": runtime.name}
        self._folder, self._process, self._rows = folder, process, dict[str, list[str]]()
        (folder / "networks").mkdir()
        sources = {"worker.py": WORKER, "adapter.py": runtime.adapter, SCRIPT: WORKER.parent / "board.py"}
        if runtime.shared:
            sources[runtime.shared] = runtime.adapter.parent / runtime.shared
        for name, source in sources.items():
            shutil.copyfile(source, folder / name)

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> Timings:
        """Write them; the times mean nothing."""
        found = {}
        for name, net in nets.items():
            key = key_of(net)
            if key not in self._rows:
                try:
                    model = random_model(net, self._folder / "networks", key)
                except NetworkError:
                    continue
                self._convert(key, model)
                inputs = ";".join(f"{n}={'x'.join(map(str, s))}" for n, s in model.inputs.items())
                self._rows[key] = [key, what, name, str(sweep), inputs, self.runtime.name]
            found[name] = Timing(1.0, 0.0)
        return found

    def _convert(self, key: str, model: Any) -> None:
        if self._process is None:
            return
        try:
            self._process.load(key, model)
        except RuntimeRefusal:
            return
        for path in self._process.folder(key).iterdir():
            if path.is_file():
                shutil.copyfile(path, self._folder / "networks" / f"{key}{''.join(path.suffixes)}")
        self._process.drop([key])

    def finish(self) -> int:
        """Write the list; how many networks there are."""
        with open(self._folder / LIST, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([COLUMNS, *self._rows.values()])
        return len(self._rows)


class Imported:
    """Times of a CSV file with the columns ``network`` and ``nanoseconds``; several rows of a network are rounds.

    Where nanoseconds are ``refused`` the runtime did not take the network. A first line that begins with ``#`` may say ``runtime``,
    ``version``, ``machine`` and ``threads``, as ``# runtime=mnn; version=3.6.1``.

    Raises
    ------
    MetricsError
        Naming the line, if a time is no number above 0.
    """

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self._path, self.runtime = path, runtime
        self.about: dict[str, Any] = {
            "runtime": runtime.name,
            "machine": f"that of {path.name}",
            "version": "unknown",
            "threads": 1,
        }
        self._samples: dict[str, list[float]] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as exc:
            raise MetricsError(f"{path}: cannot be read ({exc.strerror})") from None
        except UnicodeDecodeError:
            raise MetricsError(
                f"{path}: is no text; a CSV file with the columns 'network' and 'nanoseconds' is needed"
            ) from None
        at = 0
        while at < len(lines) and lines[at].startswith("#"):
            said = dict(part.strip().split("=", 1) for part in lines[at].lstrip("# ").split(";") if "=" in part)
            self.about.update(
                {k: int(v) if k == "threads" and v.isdigit() else v for k, v in said.items() if k in self.about}
            )
            at += 1
        rows = csv.DictReader(lines[at:])
        if not {"network", "nanoseconds"} <= set(rows.fieldnames or ()):
            raise MetricsError(
                f"{path}: the columns 'network' and 'nanoseconds' are needed; it has {', '.join(rows.fieldnames or ()) or 'none'}"
            )
        for row in rows:
            text = (row["nanoseconds"] or "").strip()
            own = self._samples.setdefault((row["network"] or "").strip(), [])
            if text != "refused":
                own.append(self._number(text, at + rows.line_num))
        if self.about["runtime"] != runtime.name:
            raise MetricsError(f"{path}: its times are of {self.about['runtime']}, and --runtime says {runtime.name}")

    def _number(self, text: str, line: int) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= LONGEST:
            raise MetricsError(
                f"{self._path}: line {line}: nanoseconds '{text}': a number above 0 is needed, or the word refused"
            )
        return value

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> Timings:
        """Times by name, as the file has them."""
        keys = {name: key_of(net) for name, net in nets.items()}
        missing = [n for n, k in keys.items() if k not in self._samples]
        if missing and what != "the network":
            raise MetricsError(
                f"{self._path}: no time of {what} as {missing[0]} (network {keys[missing[0]]}; {len(missing)} of its {len(nets)} are "
                "missing); was it exported with the same --model, --schemes, --ranks, --batch and --stride_placement? Its row may say refused"
            )
        return {n: median(self._samples[k]) for n, k in keys.items() if self._samples.get(k)}
