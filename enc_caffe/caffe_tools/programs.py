"""Caffe's own programs: ``caffe train``, ``caffe test`` and ``caffe time``, as processes without a shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from enc_caffe.caffe_io.datum import MAX_PIXELS
from enc_caffe.errors import CaffeError
from enc_caffe.installation import find_caffe
from enc_caffe.workers.blas import blas_environment
from enc_caffe.workers.executor import last_words
from enc_caffe.workers.parent import die_with_parent

#: Seconds that an interrupted caffe train has: an iteration of VGG-16 on a few CPU cores takes a minute.
PATIENCE = 300

_ITERATION = re.compile(r"Iteration (\d+)(?: \([^)]*\))?, loss = (\S+)")
_TEST_START = re.compile(r"Iteration (\d+), Testing net")
_TEST_OUTPUT = re.compile(r"Test net output #\d+: (\S+) = (\S+)")
_AVERAGE = re.compile(r"\] (\S+) = ([-+.\deE]+|nan|inf)(?: \(|$)")
_FORWARD = re.compile(r"Average Forward pass: ([\d.]+) ms")
_LAYER_TIME = re.compile(r"\]\s+(\S+)\s+forward: ([\d.]+) ms")


def run_caffe(
    arguments: list[str], log: Path, on_line: Callable[[str], None] = lambda line: None, threads: Optional[int] = None
) -> str:
    """Run the ``caffe`` program, its output to a log file and line by line to ``on_line``; returns the output.

    An interruption (Ctrl-C, SIGTERM) is passed on, and ``caffe train`` has :data:`PATIENCE` seconds to finish its
    iteration and write a snapshot; a second one stops it at once.

    Raises
    ------
    CaffeError
        With Caffe's own last line, if it ends with an error.
    """
    command = [str(find_caffe().tool("caffe")), *arguments]
    env = {**os.environ, **blas_environment(threads), "GLOG_logtostderr": "1", "GLOG_minloglevel": "0"}
    env["PYTHONPATH"] = _python_path()
    # The limit for encoded images holds for Caffe's own decoding too.
    env.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    lines = []
    with open(log, "a", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                out.write(line)
                lines.append(line)
                on_line(line)
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            if arguments[0] == "train":
                print("caffe train finishes its iteration and writes a snapshot", file=sys.stderr)
            late = threading.Timer(PATIENCE, process.kill)
            late.start()
            try:
                # Caffe would wait for ever where nobody reads what it says.
                out.writelines(process.stdout)
                process.wait()
            finally:
                late.cancel()
            raise
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    text = "".join(lines)
    if status:
        raise CaffeError(f"caffe {arguments[0]} stopped ({_status(status)}): {last_words(text)} (log: {log})")
    return text


def _python_path() -> str:
    """Where the Python inside the program finds modules of Python layers: where the user says, then pycaffe and what is installed here, of
    which it knows nothing by itself."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([*given, str(find_caffe().python_dir), *filter(None, sys.path)]))


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


@dataclass(frozen=True)
class TrainingPoint:
    """One line of ``caffe train``: a training loss, or outputs of the test net."""

    iteration: int
    loss: Optional[float] = None
    test: Optional[dict[str, float]] = None


def parse_training(text: str) -> list[TrainingPoint]:
    """Losses and test outputs of a ``caffe train`` log, in order."""
    points: list[TrainingPoint] = []
    for line in text.splitlines():
        if match := _ITERATION.search(line):
            points.append(TrainingPoint(int(match.group(1)), loss=float(match.group(2))))
        elif match := _TEST_START.search(line):
            points.append(TrainingPoint(int(match.group(1)), test={}))
        elif (output := test_output(line)) is not None and points and points[-1].test is not None:
            points[-1].test[output[0]] = output[1]
    return points


def test_output(line: str) -> Optional[tuple[str, float]]:
    """Name and value of an output of the test net, where a line of ``caffe train`` tells one."""
    match = _TEST_OUTPUT.search(line)
    return None if match is None else (match.group(1), float(match.group(2)))


def caffe_test(
    model: Path, weights: Path, iterations: int, log: Path, gpu: str = "", threads: Optional[int] = None
) -> dict[str, float]:
    """Outputs of stock ``caffe test``, averaged over ``iterations`` batches of the prototxt's own data layer."""
    arguments = ["test", "-model", str(model), "-weights", str(weights), "-iterations", str(iterations)]
    text = run_caffe(arguments + (["-gpu", gpu] if gpu else []), log, threads=threads)
    averages = {}
    for line in text.splitlines():
        if ", " not in line and (match := _AVERAGE.search(line)):
            averages[match.group(1)] = float(match.group(2))
    return averages


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a forward pass of one batch: in all, and per layer."""

    forward_ms: float
    layers_ms: dict[str, float]


def caffe_time(model: Path, iterations: int, log: Path, gpu: str = "", threads: Optional[int] = None) -> Timing:
    """Forward time of stock ``caffe time`` on a prototxt."""
    arguments = ["time", "-model", str(model), "-iterations", str(iterations), "-phase", "TEST"]
    text = run_caffe(arguments + (["-gpu", gpu] if gpu else []), log, threads=threads)
    found = _FORWARD.search(text)
    if found is None:
        raise CaffeError(f"caffe time printed no 'Average Forward pass' (log: {log})")
    layers = {m.group(1): float(m.group(2)) for m in map(_LAYER_TIME.search, text.splitlines()) if m}
    return Timing(float(found.group(1)), layers)
