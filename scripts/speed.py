"""``make bench``: how fast networks run here, original and compressed, in one table that can be held against other machines'.

Each network is measured forward, and forward and backward, by Caffe's own kernels (``ENC_CAFFE_CONV=caffe``), by those that this
build takes, by another Caffe (``--against PREFIX``: a folder of scripts/build_caffe.sh, or one whose ``python`` folder holds pycaffe),
and by PyTorch (``--torch PYTHON``). Each side is a process that does nothing while another one is measured; they take turns, round by
round. Weights and images are random: times do not depend on them.

What is measured is kept in ``--out`` at once, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

import bench_conv
from bench_conv import Side
from speed_networks import PARTS, Subject, sources, subjects

from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.files.output import atomic_file
from enc_caffe.installation import find_caffe
from enc_caffe.terminal.tables import print_table
from enc_caffe.workers.blas import blas_environment
from enc_caffe.workers.kernels import conv_speed

CAFFE, OURS, AGAINST, TORCH = "Caffe", "this build", "against", "PyTorch"


class TorchSide:
    """A process of speed_torch.py."""

    def __init__(self, python: Path, subject: Subject, threads: int, clock: str) -> None:
        command = [str(python), str(Path(__file__).with_name("speed_torch.py")), str(threads), clock]
        self.child = subprocess.Popen(
            command, env={**os.environ, **blas_environment(threads)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.name = self._ask(json.dumps(torch_layers(subject)))

    def _ask(self, line: str) -> str:
        assert self.child.stdin is not None and self.child.stdout is not None and self.child.stderr is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise RuntimeError(self.child.stderr.read().strip().rsplit("\n", 1)[-1])
        return answer.strip()

    def image_time(self, repeat: int) -> float:
        """Seconds that an image takes."""
        return float(self._ask(f"time {repeat}"))

    def close(self) -> None:
        """End the process."""
        self.child.communicate()


def torch_layers(subject: Subject) -> dict[str, Any]:
    """A network's layers as speed_torch.py takes them."""
    layers, shape = [], None
    for layer in from_text(subject.text).layer:
        if layer.type == "Input":
            shape = shape or (list(layer.input_param.shape[0].dim) if layer.name != "label" else None)
            continue
        conv, pool = layer.convolution_param, layer.pooling_param

        def axes(several: Any, low: int, high: int, default: int) -> list[int]:
            values = list(several) or ([low, high] if low or high else [default])
            return values if len(values) == 2 else values * 2

        parameters: dict[str, Any] = {}
        if layer.type == "Convolution":
            parameters = {
                "num_output": conv.num_output, "group": conv.group, "bias": conv.bias_term,
                "kernel": axes(conv.kernel_size, conv.kernel_h, conv.kernel_w, 1), "stride": axes(conv.stride, conv.stride_h, conv.stride_w, 1),
                "pad": axes(conv.pad, conv.pad_h, conv.pad_w, 0), "dilation": axes(conv.dilation, 0, 0, 1),
            }  # fmt: skip
        elif layer.type == "InnerProduct":
            parameters = {"num_output": layer.inner_product_param.num_output}
        elif layer.type == "Pooling":
            parameters = {
                "average": pool.pool == 1, "global": pool.global_pooling, "kernel": pool.kernel_size, "stride": pool.stride, "pad": pool.pad,
            }  # fmt: skip
        layers.append(
            {"type": layer.type, "bottoms": list(layer.bottom), "tops": list(layer.top), "parameters": parameters}
        )
    assert shape is not None
    return {"layers": layers, "input": [subject.batch, *shape[1:]], "backward": subject.backward}


def measure(subject: Subject, args: argparse.Namespace) -> tuple[dict[str, list[float]], list[str]]:
    """Seconds of an image, by side and round; and a line for each side that could not run it."""
    sides: dict[str, Any] = {}
    missing = []
    clock = "cpu" if args.cpu else "wall"
    bench_conv.CLOCK = clock
    try:
        for name in (CAFFE, OURS):
            sides[name] = Side(
                "caffe" if name == CAFFE else "", subject.text, subject.batch, subject.backward, 1, args.threads
            )
        if args.against:
            sides[AGAINST] = Side("caffe", subject.text, subject.batch, subject.backward, 1, args.threads, args.against)
        if args.torch:
            try:
                sides[TORCH] = TorchSide(args.torch, subject, args.threads, clock)
            except RuntimeError as exc:
                missing.append(f"{subject.key}: {TORCH} cannot run it: {exc}")
        # One warm pass says how many make a measurement.
        repeats = {n: max(1, round(args.seconds / (s.image_time(1) * subject.batch))) for n, s in sides.items()}
        times: dict[str, list[float]] = {n: [] for n in sides}
        for _ in range(args.rounds):
            for name, side in sides.items():
                times[name].append(side.image_time(repeats[name]))
    finally:
        for side in sides.values():
            side.close()
    return times, missing


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the times depend on, beside the networks."""
    caffe = find_caffe()
    speed = conv_speed(caffe)
    torch = None
    if args.torch:
        done = subprocess.run([str(args.torch), "-c", "import torch; print(torch.__version__)"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)  # fmt: skip
        torch = done.stdout.strip() if done.returncode == 0 else None
    return {
        "machine": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
        "kernels": speed[0] if speed else "none", "caffe": caffe.about, "against": str(args.against or ""), "torch": torch,
        "threads": args.threads, "clock": "CPU time" if args.cpu else "wall clock", "rounds": args.rounds,
    }  # fmt: skip


def processor() -> str:
    """The CPU's name."""
    try:
        names = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().split("\n") if x.startswith("model name")]  # fmt: skip
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def milliseconds(times: Optional[list[float]]) -> str:
    """Median, lowest and highest."""
    if not times:
        return "-"
    low, middle, high = (f"{t * 1e3:.3g}" for t in (min(times), statistics.median(times), max(times)))
    return f"{middle} ({low} to {high})"


def ratio(over: Optional[list[float]], under: Optional[list[float]]) -> str:
    """Median of the rounds' ratios."""
    return f"{statistics.median(a / b for a, b in zip(over, under)):.2f}" if over and under else "-"


def table(wanted: list[Subject], every: list[Subject], kept: dict[str, Any], sides: list[str]) -> list[list[str]]:
    """A row for each network that is wanted and was measured; ``every`` has the originals too."""
    rows = []
    for subject in wanted:
        times = kept.get(subject.key)
        if times is None:
            continue
        whole = next((s for s in every if (s.name, s.backward, s.part) == (subject.name, subject.backward, 1)), subject)
        rows.append([
            subject.name, "training" if subject.backward else "forward", f"{subject.macs / whole.macs:.2f}", str(subject.batch),
            *(milliseconds(times.get(s)) for s in sides), *(ratio(times.get(s), times.get(OURS)) for s in sides if s != OURS),
            ratio(times.get(OURS), kept.get(whole.key, {}).get(OURS)),
        ])  # fmt: skip
    return rows


def has_torch(python: Path) -> bool:
    """Whether a Python has PyTorch."""
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return subprocess.run([str(python), "-c", find], stderr=subprocess.DEVNULL, check=False).returncode == 0


def parsed(argv: Optional[list[str]]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", help="names that begin so, separated by commas (default: all)")
    parser.add_argument("--parts", default=",".join(f"{p:g}" for p in PARTS), help="of the MACs (default: %(default)s)")
    parser.add_argument("--passes", default="forward,training", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1, help="of a measurement, about (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--cpu", action="store_true", help="CPU time instead of the clock's, for a machine that does other work too"
    )
    parser.add_argument(
        "--against", type=Path, metavar="PREFIX", help="another Caffe, as Debian ships it or an older build"
    )
    parser.add_argument(
        "--torch", type=Path, metavar="PYTHON", help="a Python with PyTorch (default: this one, where it has it)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bench"), help="folder of what was measured (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    known = {"forward", "training"}
    if not set(args.passes.split(",")) <= known:
        parser.error(f"--passes {args.passes}: forward, training or both are needed")
    known_parts = {f"{p:g}": p for p in PARTS}
    if not set(args.parts.split(",")) <= set(known_parts):
        parser.error(f"--parts {args.parts}: numbers from {', '.join(known_parts)} are needed")
    args.parts = [known_parts[p] for p in args.parts.split(",")]
    if args.against and not (args.against / "python" / "caffe").is_dir():
        parser.error(f"--against {args.against}: there is no python/caffe in this folder")
    if args.torch is None:
        args.torch = Path(sys.executable) if has_torch(Path(sys.executable)) else None
    elif not args.torch.is_file() or not has_torch(args.torch):
        parser.error(f"--torch {args.torch}: no Python with PyTorch (pip install torch)")
    return args


def main(argv: Optional[list[str]] = None) -> int:
    """Measure what is missing, and print all."""
    args = parsed(argv)
    facts = about(args)
    # Other kernels, threads or rounds: another table.
    state = args.out / (hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12] + ".json")
    kept: dict[str, Any] = json.loads(state.read_text())["times"] if state.exists() else {}
    every: list[Subject] = []
    lines = [] if args.torch else ["PyTorch: not installed here (--torch PYTHON names a Python that has it)"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (path, *batches) in sources(folder).items():
            if args.networks and not name.lower().startswith(tuple(n.lower() for n in args.networks.split(","))):
                continue
            found, missing = subjects(name, path, (batches[0], batches[1]), folder)
            lines += missing
            every += found
    passes = {"training": True, "forward": False}
    backward = {passes[p] for p in args.passes.split(",")}
    wanted = [s for s in every if s.part in args.parts and s.backward in backward]
    if not wanted:
        print(f"--networks {args.networks}: none of them begins so", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    load = []
    try:
        for at, subject in enumerate(wanted, 1):
            if subject.key in kept:
                continue
            print(f"{at} of {len(wanted)}: {subject.key}", file=sys.stderr, flush=True)
            kept[subject.key], missing = measure(subject, args)
            load.append(os.getloadavg()[0])
            lines += missing
            with atomic_file(state) as file:
                file.write(json.dumps({"about": facts, "times": kept}, indent=1).encode())
    except KeyboardInterrupt:
        lines.append("stopped; the same command goes on where this one was")
    sides = [CAFFE, OURS, *([AGAINST] if args.against else []), *([TORCH] if args.torch else [])]
    ratios = [f"{s} / ours" for s in sides if s != OURS]
    print_table(
        f"Milliseconds an image by {facts['clock']}: median of {args.rounds} rounds (lowest to highest)",
        ["network", "pass", "MACs", "batch", *sides, *ratios, "time / original's"], table(wanted, every, kept, sides), left=2,
    )  # fmt: skip
    print(
        f"{facts['machine']}, {facts['cores']} cores, {args.threads} thread a process; this build: {facts['kernels']}"
    )
    if args.against:
        print(f"against: {args.against}")
    if facts["torch"]:
        print(f"PyTorch {facts['torch']}: forward by torch.jit.optimize_for_inference")
    if load:
        print(f"load of the machine meanwhile (1 minute, mean): {statistics.mean(load):.1f}")
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
