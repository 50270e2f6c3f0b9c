"""Fuzzing of what enc-caffe reads: prototxt text, caffemodel bytes, metrics and ranks JSON, LMDB datums.

Inputs are valid ones that the project makes itself, changed by a seeded generator that knows the format's structure
(scripts/fuzz_mutators.py); input number i of a seed is the same on every machine. Each is read in a worker process. A finding
is any exception but an EncError, more than 5 s of processor time, more than 1 GiB of memory, a dead process, or a
message of more than three lines. Findings are saved with what they did; ``--replay FILE --format NAME`` reads one again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Before OpenBLAS and OpenCV are loaded: one worker is one core.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import fuzz_formats  # noqa: E402

#: Seconds of processor time for one input, seconds of any kind (a busy machine makes everything wait), bytes beyond the start.
SECONDS, WALL, MEMORY = 5.0, 60.0, 2**30
#: Seconds after which a worker that does not come back (it is stuck outside of Python) is killed.
STUCK = 90.0


class Hang(BaseException):
    """An input took too long; no handler of the code under test may catch it."""


def _late(number: int, frame: Any) -> None:
    raise Hang


def input_of(form: fuzz_formats.Format, name: str, seed: int, number: int) -> bytes:
    """Input ``number`` of a seed; the valid ones come first."""
    if number < len(form.seeds):
        return form.seeds[number]
    return form.mutate(random.Random(f"{name} {seed} {number}"))


def resident() -> int:
    """Bytes that this process has in memory at most until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_limited(form: fuzz_formats.Format, data: bytes) -> tuple[str, str]:
    """What became of an input (accepted, refused, or a kind of finding), and the words of a finding."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL)
    try:
        found = fuzz_formats.run_one(form, data), ""
    except Hang:
        found = "hang", "".join(traceback.format_exc().splitlines(True)[-6:])
    except MemoryError:
        found = "memory", traceback.format_exc()
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        found = type(exc).__name__, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return found


def work(name: str, seed: int, start: int, stop: int, step: int) -> None:
    """Read inputs start, start + step, ... and say so line by line."""
    signal.signal(signal.SIGALRM, _late)
    signal.signal(signal.SIGPROF, _late)
    made, folder = fuzz_formats.made_in([name])
    form = made[name]
    with folder:
        for data in form.seeds:
            status, words = read_limited(form, data)
            assert status != "hang" and not words, words
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        # Address space: what is asked for counts, whether it is touched or not.
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resident()
        for number in range(start, stop, step):
            data = input_of(form, name, seed, number)
            print(f"start {number}", flush=True)
            begin = time.process_time()
            status, words = read_limited(form, data)
            took, grown = time.process_time() - begin, resident() - before
            print(
                json.dumps({"number": number, "status": status, "seconds": took, "grown": grown, "words": words}),
                flush=True,
            )


@dataclass
class Summary:
    """What happened to the inputs of one format."""

    name: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    slowest: float = 0.0
    grown: int = 0
    findings: dict[str, list[int]] = field(default_factory=dict)

    def line(self) -> str:
        """One line of the table."""
        number = sum(len(v) for v in self.findings.values())
        return (
            f"{self.name:11s} {self.inputs:8d} inputs {self.refused:8d} refused {self.accepted:8d} accepted  slowest "
            f"{self.slowest:6.3f} s  memory +{self.grown / 2**20:.0f} MiB  {number} findings of {len(self.findings)} kinds"
        )


class Worker:
    """One process that reads every ``step``-th input; begun again behind an input that it died of."""

    def __init__(self, name: str, seed: int, start: int, stop: int, step: int) -> None:
        self.name, self.seed, self.next, self.stop, self.step = name, seed, start, stop, step
        self.begun: Optional[int] = None
        self._begin()

    def _begin(self) -> None:
        command = [
            sys.executable,
            __file__,
            "--work",
            self.name,
            *map(str, (self.seed, self.next, self.stop, self.step)),
        ]
        # A file: image libraries write a line for every damaged image, and a pipe that nobody reads would stop them.
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.said)
        self.buffer, self.heard = b"", time.monotonic() + 60.0
        self.begun = None

    def events(self) -> Iterator[dict[str, Any]]:
        """Results that are there; where the process died or is stuck, the input that it had."""
        assert self.process.stdout is not None
        ended = False
        if select.select([self.process.stdout], [], [], 0.05)[0]:
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            ended = not piece
            self.buffer += piece
            self.heard = max(self.heard, time.monotonic()) if not piece else time.monotonic()
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"start "):
                self.begun = int(line[6:])
            else:
                event = json.loads(line)
                self.next, self.begun = event["number"] + self.step, None
                yield event
        stuck = time.monotonic() - self.heard > STUCK
        if not ended and not stuck:
            return
        if stuck:
            self.process.kill()
        self.process.communicate()
        self.said.seek(0)
        error = self.said.read().decode(errors="replace")[-3000:]
        if self.begun is None:
            if self.next < self.stop:
                raise SystemExit(f"fuzz: a worker ended between two inputs ({self.process.returncode}): {error}")
            return
        status = "stuck" if stuck else f"died ({self.process.returncode})"
        yield {"number": self.begun, "status": status, "seconds": STUCK if stuck else 0.0, "grown": 0, "words": error}
        self.next = self.begun + self.step
        if self.next < self.stop:
            self._begin()

    @property
    def done(self) -> bool:
        """Whether all inputs were read."""
        return self.next >= self.stop and self.process.poll() is not None

    def end(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.communicate()


def fuzz(
    name: str, inputs: int, seconds: float, seed: int = 0, workers: int = 1, out: Optional[Path] = None, show: bool = False,
    first: int = 0,
) -> Summary:  # fmt: skip
    """Inputs of one format, at most so many and so long; ``out`` is where findings go."""
    summary, until, said = Summary(name), time.monotonic() + seconds, time.monotonic()
    crew = [Worker(name, seed, first + i, first + inputs, workers) for i in range(workers)]
    try:
        while crew and time.monotonic() < until:
            for worker in crew:
                for event in worker.events():
                    _note(summary, event, seed, out)
            crew = [w for w in crew if not w.done]
            if show and time.monotonic() - said > 5:
                said = time.monotonic()
                print(summary.line(), file=sys.stderr, flush=True)
    finally:
        for worker in crew:
            worker.end()
    return summary


def _note(summary: Summary, event: dict[str, Any], seed: int, out: Optional[Path]) -> None:
    status = event["status"]
    summary.inputs += 1
    summary.slowest = max(summary.slowest, event["seconds"])
    summary.grown = max(summary.grown, event["grown"])
    if status in ("accepted", "refused"):
        setattr(summary, status, getattr(summary, status) + 1)
        return
    places = [line.strip() for line in event["words"].splitlines() if line.strip().startswith("File")]
    last = event["words"].strip().splitlines()[-1:] or [""]
    kind = re.sub(r"\d+", "N", f"{status}: {last[0][:100]}") + f" at {places[-1] if places else '?'}"
    own = summary.findings.setdefault(kind, [])
    own.append(event["number"])
    if out is not None and len(own) <= 3:
        out.mkdir(parents=True, exist_ok=True)
        text = f"{kind}\n{event['words']}\n".encode("utf-8", "backslashreplace")
        (out / f"{summary.name}-{seed}-{event['number']}.txt").write_bytes(text)
        made, folder = fuzz_formats.made_in([summary.name])
        with folder:
            data = input_of(made[summary.name], summary.name, seed, event["number"])
        (out / f"{summary.name}-{seed}-{event['number']}.bin").write_bytes(data)


def replay(name: str, path: Path) -> str:
    """Read a saved finding again in this process; what is wrong is raised."""
    made, folder = fuzz_formats.made_in([name])
    with folder:
        return fuzz_formats.run_one(made[name], path.read_bytes())


def main() -> int:
    """Run; status 1 where anything was found."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], *map(int, sys.argv[3:7]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--format", choices=fuzz_formats.NAMES, action="append", help="default: all of them, one after the other"
    )
    parser.add_argument(
        "--inputs", type=int, default=100_000, metavar="N", help="inputs of each format (default: 100000)"
    )
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="time for each format at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input (default: 0)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs") / "fuzz", metavar="DIR", help="where findings are saved"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read a saved input of --format instead")
    args = parser.parse_args()
    names = args.format or list(fuzz_formats.NAMES)
    if args.replay:
        print(replay(names[0], args.replay))
        return 0
    found = [fuzz(n, args.inputs, args.seconds, args.seed, args.workers, args.out, True, args.first) for n in names]
    for summary in found:
        print(summary.line())
        for kind, numbers in summary.findings.items():
            print(f"    {len(numbers)} x {kind}; first input {numbers[0]} of seed {args.seed}")
    return 1 if any(s.findings for s in found) else 0


if __name__ == "__main__":
    sys.exit(main())
