"""Kills (kill -9) of compress, metrics, finetune and report at random moments, then the same command again.

The second run must succeed, its outputs must be those of a run that nobody disturbed (byte by byte, but for the seconds of a
search), and nothing half-written may be left beside them. The network is the digits' with random weights and 40 random
images; a fine-tuning's snapshots fall on whole epochs, so that one that goes on meets the images in the same order.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from enc_caffe.caffe_io.caffemodel import expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import array_records, write_lmdb
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("compress", "best", "metrics", "finetune", "report")
IMAGES, BATCH = 40, 10
#: Fields of JSON files that differ from run to run.
TIMES = ("search_seconds",)


class Kit:
    """The inputs of all commands, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.model, self.weights = folder / "train_val.prototxt", folder / "net.caffemodel"
        self.lmdb, self.solver = folder / "lmdb", folder / "solver.prototxt"
        text = (ROOT / "prototxt" / "digits" / "train_val.prototxt").read_text()
        for width, narrow in (("32", "8"), ("48", "8"), ("64", "8")):
            text = text.replace(f"num_output: {width}", f"num_output: {narrow}")
        self.model.write_text(
            text.replace("batch_size: 64", f"batch_size: {BATCH}").replace("batch_size: 45", f"batch_size: {BATCH}")
        )
        solver = (ROOT / "prototxt" / "digits" / "solver.prototxt").read_text()
        self.solver.write_text(solver.replace("base_lr: 0.02", "base_lr: 0.001"))
        rng, buffer = np.random.default_rng(0), io.BytesIO()
        images = rng.integers(0, 17, (IMAGES, 1, 8, 8)).astype(np.uint8)
        write_lmdb(self.lmdb, array_records(images, rng.integers(0, 10, IMAGES)), force=True)
        network = describe(read_net(self.model), (1, 8, 8))
        arrays = [
            [rng.standard_normal(s, np.float32) / np.float32(np.sqrt(np.prod(s[1:]) + 1)) for s in expected_shapes(x)]
            for x in network.weighted
        ]
        write_caffemodel(buffer, "digits", [layer_record(x.name, x.type, a) for x, a in zip(network.weighted, arrays)])
        self.weights.write_bytes(buffer.getvalue())

    def command(self, name: str, out: Path) -> tuple[list[str], Path]:
        """The words of a command that writes into a folder, and its output there."""
        inputs = ["--model", self.model, "--weights", self.weights, "--lmdb", self.lmdb]
        store = ["--store", out / "store" / "results.sqlite"]
        epoch = IMAGES // BATCH
        result = out / {"metrics": "metrics.json"}.get(name, name)
        words = {
            "compress": ["compress", *inputs, "--target_flops", "0.5", *store],
            "best": ["compress", *inputs, "--target_flops", "0.5", "--quality", "best", "--refine", "2", *store],
            "metrics": ["metrics", *inputs, *store],
            "finetune": ["finetune", "--solver", self.solver, "--model", self.model, "--weights", self.weights, "--train_lmdb", self.lmdb,
                         "--test_lmdb", self.lmdb, "--max_iter", 60 * epoch, "--snapshot", 5 * epoch],
            "report": ["report", self.folder / "reported"],
        }[name]  # fmt: skip
        return [sys.executable, "-m", "enc_caffe", *map(str, words), "--out", str(result)], result


@dataclass
class Tally:
    """What became of the kills of one command."""

    name: str
    seconds: float
    kills: int = 0
    early: int = 0
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line of the table."""
        return f"{self.name:9s} {self.kills:4d} kills ({self.early} after its end) of runs of {self.seconds:.1f} s, {len(self.failures)} failures"


def environment() -> dict[str, str]:
    """One BLAS thread: sums come out the same, and a busy machine is not made to wait for itself."""
    paths = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths}


def content(path: Path, out: Path) -> str:
    """Digest of a file, without what differs from run to run: its folder's name, and seconds."""
    data = path.read_bytes().replace(str(out).encode(), b"OUT")
    if path.suffix == ".json":
        entry = json.loads(data)
        for name in TIMES:
            entry.pop(name, None)
        data = json.dumps(entry, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def outputs(out: Path) -> dict[str, str]:
    """Everything in a folder but stores and logs, by name; a solverstate names its folder and so has another length."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith("store/"):
            found[name] = "" if path.suffix in (".log", ".solverstate") else content(path, out)
    return found


def run(command: list[str]) -> tuple[int, str, float]:
    """Status, standard error and seconds of a command that runs to its end."""
    begin = time.monotonic()
    done = subprocess.run(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    return done.returncode, done.stderr, time.monotonic() - begin


def undisturbed(kit: Kit, name: str, out: Path) -> tuple[Tally, dict[str, str]]:
    """A run from begin to end, and its outputs."""
    out.mkdir(parents=True)
    status, error, seconds = run(kit.command(name, out)[0])
    if status:
        raise SystemExit(f"kill_runs: {name} fails without any kill: {error}")
    if name == "compress" and not (kit.folder / "reported").exists():
        shutil.copytree(out / "compress", kit.folder / "reported")
    return Tally(name, seconds), outputs(out)


def kill_once(kit: Kit, tally: Tally, wanted: dict[str, str], out: Path, wait: float) -> None:
    """One kill after so many seconds, the same command again, and what is wrong then."""
    out.mkdir(parents=True)
    command, result = kit.command(tally.name, out)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(wait)
        tally.early += 1
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    tally.kills += 1
    final = result / "finetuned.caffemodel" if tally.name == "finetune" else result
    if tally.name == "metrics" or not final.exists():
        status, error, _ = run(command)
        if status:
            tally.failures.append(
                f"{tally.name}, killed after {wait:.2f} s: the second run failed ({status}): {error.strip()}"
            )
            return
        found = outputs(out)
    else:
        # It was whole already. Only the lock's file may be there yet: the next command takes it over.
        found = {n: d for n, d in outputs(out).items() if not n.endswith(".lock")}
    if found != wanted:
        differ = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
        tally.failures.append(
            f"{tally.name}, killed after {wait:.2f} s: other outputs than undisturbed: {', '.join(differ)}"
        )


def kill_runs(folder: Path, kills: int, seed: int, names: tuple[str, ...] = COMMANDS, seconds: float = 1e9, show: bool = False) -> list[Tally]:  # fmt: skip
    """Kills of some commands by turns; what was made for a kill that went well is removed."""
    rng, kit, until = random.Random(seed), Kit(folder / "kit"), time.monotonic() + seconds
    if "report" in names and "compress" not in names:
        undisturbed(kit, "compress", folder / "undisturbed-compress")
    known = [undisturbed(kit, n, folder / f"undisturbed-{n}") for n in names]
    for i in range(kills):
        if time.monotonic() > until:
            break
        tally, wanted = known[i % len(names)]
        out, before = folder / f"kill-{i}", len(tally.failures)
        kill_once(kit, tally, wanted, out, rng.uniform(0.05, 1.02) * tally.seconds)
        if len(tally.failures) == before:
            shutil.rmtree(out)
        if show:
            print(f"{i + 1} of {kills}: {tally.line()}", file=sys.stderr, flush=True)
    return [tally for tally, _ in known]


def main() -> int:
    """Kill; status 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="over all commands (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="begin no kill after so many seconds")
    parser.add_argument("--command", choices=COMMANDS, action="append", help="default: all of them")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where runs that failed are kept (default: a temporary folder)"
    )
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="enc-caffe-kills-", dir=args.out))
    tallies = kill_runs(folder.absolute(), args.kills, args.seed, tuple(args.command or COMMANDS), args.seconds, True)
    for tally in tallies:
        print(tally.line())
        for failure in tally.failures:
            print(f"    {failure}")
    if any(t.failures for t in tallies):
        print(f"kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
