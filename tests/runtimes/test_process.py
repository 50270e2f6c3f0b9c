"""A runtime's process: what it refuses, what ends it, and that the others go on."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from enc_caffe.errors import RuntimeRefusal, UsageError
from enc_caffe.measuring.contexts import empty, random_model
from enc_caffe.runtimes import worker
from enc_caffe.runtimes.known import RUNTIMES, Runtime, interpreter, runtime_for
from enc_caffe.runtimes.process import Model, RuntimeProcess
from enc_caffe.runtimes.worker import reader


def test_a_network_that_the_importer_refuses_leaves_the_others(tmp_path: Path) -> None:
    good = random_model(empty((1, 8, 6, 6), 1), tmp_path, "good")
    (tmp_path / "bad.prototxt").write_text(good.prototxt.read_text().replace("Pooling", "Nonsense"))
    with RuntimeProcess(RUNTIMES["opencv"]) as process:
        process.load("good", good)
        with pytest.raises(RuntimeRefusal, match="Nonsense"):
            process.load("bad", Model(tmp_path / "bad.prototxt", good.caffemodel, good.inputs))
        times = process.time(["good"], 3, 0.0005)
        assert times.shape == (1, 3) and np.all(times > 100)
        assert process.version.startswith("4.")


def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    adapter = tmp_path / "ending.py"
    adapter.write_text(
        "import os\ndef version():\n    return '1'\nclass Net:\n    def __init__(self, prototxt, caffemodel, folder, inputs, threads):\n"
        "        if prototxt.endswith('end.prototxt'):\n            os.write(2, b'Check failed: all is lost')\n            os._exit(9)\n"
        "    def run(self):\n        return None\n"
    )

    class Ending(Runtime):
        @property
        def adapter(self) -> Path:
            return adapter

    good = random_model(empty((1, 4), 1), tmp_path, "good")
    with RuntimeProcess(Ending("ending", (), "pip install nothing")) as process:
        process.load("good", good)
        with pytest.raises(RuntimeRefusal, match="its process ended by status 9: Check failed: all is lost"):
            process.load("end", Model(tmp_path / "end.prototxt", good.caffemodel, good.inputs))
        # The good one is loaded again.
        assert process.time(["good"], 2, 0.0001).shape == (1, 2)


def test_runtimes_that_are_not_there_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--runtime tflite: known are caffe, opencv, mnn, ncnn, openvino, onnxruntime"):
        runtime_for("tflite")
    monkeypatch.setattr("enc_caffe.runtimes.known.cache_folder", lambda: tmp_path)
    absent = Runtime("mnn", ("no_such_module_of_mnn",), "pip install MNN==3.6.1", ("mnn-",))
    with pytest.raises(
        UsageError, match=r"--runtime mnn: it is not installed here.*pip install MNN==3\.6\.1.*--runtime_python"
    ):
        interpreter(absent)
    # What make deploy-test installed is found, once it is whole.
    python = tmp_path / "converters" / "mnn-3.6.1-ab" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(UsageError, match="not installed"):
        interpreter(absent)
    (python.parent.parent / ".ready").touch()
    assert interpreter(absent) == python
    with pytest.raises(UsageError, match="--runtime_python .*nowhere: no such file"):
        interpreter(absent, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"cannot use it \(ModuleNotFoundError: .*MNN.*pip install MNN"):
        RuntimeProcess(RUNTIMES["mnn"], 1, Path(sys.executable))


@pytest.mark.parametrize(
    ("name", "message"),
    [("chatty", r"chatty cannot use it \(it answers 'hello', which no worker does; is it a Python\?\)"),
     ("plain", r"--runtime_python .*plain: cannot be run \(Permission denied\); name a Python that has mnn"),
     ("folder", "--runtime_python .*folder: a folder without bin/python"), ("nowhere", "--runtime_python .*nowhere: no such file")],
)  # fmt: skip
def test_what_is_no_python_is_said(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("nothing")
    (tmp_path / "chatty").write_text("#!/bin/sh\necho hello\nexec cat\n")
    (tmp_path / "chatty").chmod(0o755)
    with pytest.raises(UsageError, match=message):
        RuntimeProcess(RUNTIMES["mnn"], 1, tmp_path / name)


#: Hangs over what is called so, with a program that it has started; both hold the pipe.
HANGING = """
import os, subprocess, sys, threading
def version():
    return "1"
class Net:
    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        if prototxt.endswith("hang.prototxt"):
            pipe = os.open(os.path.join(os.path.dirname(prototxt), "pipe"), os.O_WRONLY)
            subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"], pass_fds=[pipe])
            os.write(pipe, b"x")
            threading.Event().wait()
    def run(self):
        return None
"""
SCRIPT = """
import sys
from pathlib import Path
from enc_caffe.measuring.clock import time_models
from enc_caffe.runtimes.process import Model, RuntimeProcess
from enc_caffe.terminal.stopping import stoppable
from tests.runtimes.test_process import Made
folder = Path(sys.argv[1])
with RuntimeProcess(Made("hanging", (), "", file=folder / "hanging.py")) as process:
    models = {n: Model(folder / f"{n}.prototxt", folder / "good.caffemodel", {"data": (1, 4)}) for n in ("good", "hang")}
    sys.exit(stoppable("test", lambda: time_models(process, models, 2)))
"""


@dataclass(frozen=True)
class Made(Runtime):
    """A runtime of a test's own."""

    file: Path = Path()

    @property
    def adapter(self) -> Path:
        return self.file


#: Converts several networks as one.
TOGETHER = """
def version():
    return "1"
class Net:
    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        if prototxt.endswith("bad.prototxt"):
            raise RuntimeError("no such layer")
    def run(self):
        return None
def together(networks, folder, threads):
    return [Net(prototxt, caffemodel, folder, inputs, threads) for prototxt, caffemodel, inputs in networks]
"""


def test_networks_are_converted_as_one_and_one_by_one_where_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "as_one.py").write_text(TOGETHER)
    models = {n: random_model(empty((1, 4), 1), tmp_path, n) for n in ("first", "second", "third", "bad")}
    # Three of them have room.
    monkeypatch.setattr("enc_caffe.runtimes.process.BUNDLE", 3 * models["first"].prototxt.stat().st_size)
    with RuntimeProcess(Made("as_one", (), "", together=True, file=tmp_path / "as_one.py")) as process:
        good = {n: models[n] for n in ("first", "second", "third")}
        assert process.load_all({**good, "fourth": models["first"]}) == {}
        assert len({process.folder(n) for n in good}) == 1 and process.folder("fourth") != process.folder("first")
        assert process.time([*good, "fourth"], 2, 0.0001).shape == (4, 2)
        process.drop([*good, "fourth"])
        given = {n: models[n] for n in ("first", "bad", "third")}
        assert process.load_all(given) == {"bad": "RuntimeError: no such layer"}
        assert process.folder("first") != process.folder("third")
        assert process.time(["first", "third"], 2, 0.0001).shape == (2, 2)


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "hang.prototxt").touch()
    os.mkfifo(tmp_path / "pipe")
    random_model(empty((1, 4), 1), tmp_path, "good")
    return tmp_path


def test_what_hangs_is_told_and_ended_with_what_it_started(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lines, steps = random_model(empty((1, 4), 1), hanging, "good"), [], []
    # The first conversion has all the time that it needs; the second one ten times what that took.
    monkeypatch.setattr("enc_caffe.runtimes.patience.LEAST", 0.2)
    monkeypatch.setattr("enc_caffe.runtimes.process.TELL", 0.01)
    with RuntimeProcess(
        Made("hanging", (), "", file=hanging / "hanging.py"), 1, None, lines.append, steps.append
    ) as process:
        process.subject = "layer 'c1'"
        process.load("good", model)
        reader = os.open(hanging / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        with pytest.raises(
            RuntimeRefusal,
            match=r"gave no answer for .* seconds while converting layer 'c1' as hang \(before, .* at most\), and was ended",
        ):
            process.load("hang", Model(hanging / "hang.prototxt", model.caffemodel, model.inputs))
        # The end of the pipe comes when all who hold it have ended.
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read() == b"x"
        assert any("hanging: converting layer 'c1' as hang has taken 0.01 seconds so far" in line for line in lines)
        assert steps[1:3] == ["hanging: converting layer 'c1' as good", "hanging: converting layer 'c1' as hang"]
        assert process.time(["good"], 2, 0.0001).shape == (1, 2)


def test_an_interruption_ends_what_hangs_at_once(hanging: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(hanging)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2],
        # A shell without job control starts background commands, and so perhaps this test, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        with open(hanging / "pipe", "rb") as pipe:
            assert pipe.read(1) == b"x"
            process.send_signal(signal.SIGINT)
            assert pipe.read() == b""
        assert process.stderr is not None and process.stderr.read() == "test: interrupted\n"
        assert process.wait() == 130


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="only there denormal numbers are slow"
)
@pytest.mark.parametrize("flushes", [True, False])
def test_denormal_numbers_count_as_zero_where_an_adapter_asks_for_it(tmp_path: Path, flushes: bool) -> None:
    adapter = tmp_path / "tiny.py"
    adapter.write_text(
        f"import threading\nimport numpy as np\nFLUSH_DENORMALS = {flushes}\ndef version():\n    return '1'\nclass Net:\n"
        "    def __init__(self, *given):\n        pass\n    def run(self):\n        pass\n"
        "    def outputs(self, inputs):\n        found = {'here': inputs['x'] * np.float32(1e-10)}\n"
        "        other = threading.Thread(target=lambda: found.update(other=inputs['x'] * np.float32(1e-10)))\n"
        "        other.start()\n        other.join()\n        return found\n"
    )

    class Tiny(Runtime):
        @property
        def adapter(self) -> Path:
            return adapter

    with RuntimeProcess(Tiny("tiny", (), "pip install nothing"), 2) as process:
        process.load("net", random_model(empty((1, 4), 1), tmp_path, "net"))
        found = process.outputs("net", {"x": np.full(8, 1e-30, np.float32)})
    for value in found.values():
        assert np.all((value == 0) == flushes)
    assert set(found) == {"here", "other"}
    # Nothing of it is left in this process.
    assert np.all(np.full(8, 1e-30, np.float32) * np.float32(1e-10) > 0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_is_read_between_passes_is_read_by_all_threads_at_once(threads: int) -> None:
    meeting, readers = threading.Barrier(threads), set()

    class Numbers(np.ndarray):
        def sum(self, *args, **kwargs):
            # One that read alone would wait here for the others.
            meeting.wait(timeout=600)
            readers.add(threading.get_ident())
            return np.asarray(self).sum()

    numbers = np.arange(100.0).view(Numbers)
    assert reader(numbers, threads)() == 4950 and len(readers) == threads
    assert reader(np.ones(0), threads)() == 0


@pytest.mark.parametrize(("long", "passes"), [(-1.0, 2 + 3), (1e9, 2 + 3 * 2)])
def test_a_network_of_long_passes_is_not_run_twice_in_a_turn(
    long: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted:
        def __init__(self) -> None:
            self.number = 0

        def run(self) -> None:
            self.number += 1

    monkeypatch.setattr(worker, "LONG", long)
    nets = worker.Nets(SimpleNamespace(Net=Counted), 1)
    nets._nets["one"] = net = Counted()
    assert len(nets.time({"names": ["one"], "rounds": 3, "seconds": 0.0, "sweep": 0})["ns"][0]) == 3
    assert net.number == passes
