"""Caffe's own convolutions against oneDNN's: whole networks and single layers, in one run (A B A B), as ratios.

Each side is a process of its own that does nothing while the other is measured: one with ``ENC_CAFFE_CONV=caffe``, one without.
Weights and images are random; times do not depend on them. ``--processes N`` lets N processes of a side work at once, each with
one thread, as the toolkit's workers do. ``--against PREFIX`` takes another build of Caffe as the first side. What is printed: the median time of an image, its spread, and Caffe's time over oneDNN's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

from enc_caffe.caffe_io.fold import fold
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.pipeline.loading import load
from enc_caffe.terminal.tables import print_table
from enc_caffe.workers.blas import blas_environment

ROOT = Path(__file__).resolve().parent.parent
PROTOTXT = ROOT / "prototxt"
SIDES = ("caffe", "onednn")
CLOCK = "wall"

CHILD = """
import statistics, sys, tempfile, time
import numpy as np
import caffe
batch, backward = int(sys.argv[1]), sys.argv[2] == "backward"
clock = time.process_time if sys.argv[3] == "cpu" else time.perf_counter
with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
    file.write(sys.stdin.readline().encode().decode("unicode_escape"))
    file.flush()
    net = caffe.Net(file.name, caffe.TRAIN if backward else caffe.TEST)
rng = np.random.default_rng(0)
for blobs in net.params.values():
    fan_in = max(1, blobs[0].data[0].size if blobs[0].data.ndim > 1 else 1)
    if blobs[0].data.ndim > 1:
        blobs[0].data[...] = rng.standard_normal(blobs[0].data.shape) * (2 / fan_in) ** 0.5
for name in net.inputs:
    blob = net.blobs[name]
    blob.reshape(batch, *blob.data.shape[1:])
    blob.data[...] = 0 if blob.data.ndim == 1 else rng.standard_normal(blob.data.shape)
net.reshape()
def once():
    net.forward()
    if backward:
        net.backward()
def layers(repeat):
    best = {}
    for _ in range(repeat):
        for i, name in enumerate(net._layer_names):
            start = clock()
            net._forward(i, i)
            best[name] = min(best.get(name, 1e9), clock() - start)
            if backward:
                start = clock()
                net._backward(i, i)
                best[name + " backward"] = min(best.get(name + " backward", 1e9), clock() - start)
    return best
once()
print("ready", flush=True)
for line in sys.stdin:
    word, number = line.split()
    start = clock()
    if word == "layers":
        print(repr(layers(int(number))), flush=True)
        continue
    for _ in range(int(number)):
        once()
    print((clock() - start) / int(number) / batch, flush=True)
"""


class Side:
    """Processes that hold one net and run it on request."""

    def __init__(self, conv: str, text: str, batch: int, backward: bool, processes: int, threads: int, against: Optional[Path] = None) -> None:  # fmt: skip
        env = {**os.environ, **blas_environment(threads), "ENC_CAFFE_CONV": conv, "GLOG_minloglevel": "2"}
        if against is not None and conv == "caffe":
            env["PYTHONPATH"] = str(against / "python")
        command = [sys.executable, "-c", CHILD, str(batch), "backward" if backward else "forward", CLOCK]
        self.children = [
            subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write(text.encode("unicode_escape").decode() + "\n")
            child.stdin.flush()
        self._answers()

    def _answers(self) -> list[str]:
        return [child.stdout.readline() for child in self.children if child.stdout is not None]

    def ask(self, words: str) -> list[str]:
        """What each process answers."""
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write(words + "\n")
            child.stdin.flush()
        return self._answers()

    def image_time(self, repeat: int) -> float:
        """Seconds of the wall clock that an image takes, all processes together."""
        times = [float(answer) for answer in self.ask(f"time {repeat}")]
        return 1 / sum(1 / t for t in times)

    def close(self) -> None:
        """End the processes."""
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()


def deploy(path: Path, folded: bool = False) -> str:
    """A shipped network for inference; ``folded``: without BatchNorm, as the toolkit measures it."""
    net = read_net(path)
    out = deploy_net(net, load(path).network, 1)
    return str(to_text(fold(out)[0] if folded else out))


def training(path: Path, data: tuple[int, ...]) -> str:
    """A train_val network whose images come from Input layers."""
    net, out = read_net(path), caffe_pb2().NetParameter(force_backward=False)
    for name, shape in (("data", (1, *data)), ("label", (1,))):
        layer = out.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=shape)
    for layer in net.layer:
        if layer.type != "Data" and layer.type != "Accuracy":
            out.layer.add().CopyFrom(layer)
    return str(to_text(out))


def mobilenet() -> str:
    """The layers of MobileNet v1 at 224 x 224, a ReLU after each."""
    text = 'name: "MobileNet" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }\n'
    last, wide = "data", 3

    def conv(name: str, out: int, kernel: int, stride: int, group: int) -> None:
        nonlocal text, last, wide
        text += (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{last}" top: "{name}" convolution_param {{ num_output: {out} '
            f"kernel_size: {kernel} stride: {stride} pad: {kernel // 2} group: {group} }} }}\n"
            f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
        )
        last, wide = name, out

    conv("conv1", 32, 3, 2, 1)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for at, (out, stride) in enumerate(plan):
        conv(f"dw{at + 1}", wide, 3, stride, wide)
        conv(f"pw{at + 1}", out, 1, 1, 1)
    return text


def networks() -> dict[str, tuple[str, int, bool]]:
    """Prototxt, batch and whether backward too, by name."""
    resnet = PROTOTXT / "resnet56"
    found = {
        "ResNet-56, folded": (deploy(resnet / "deploy.prototxt", folded=True), 50, False),
        "ResNet-56, training": (training(resnet / "train_val.prototxt", (3, 32, 32)), 100, True),
        "MobileNet's shape": (mobilenet(), 4, False),
        "AlexNet": (deploy(PROTOTXT / "alexnet" / "deploy.prototxt"), 8, False),
        "VGG-16": (deploy(PROTOTXT / "vgg16" / "deploy.prototxt"), 2, False),
    }
    folder = data_folder()
    squeeze = folder / "squeezenet" / "squeezenet_v1.1_deploy.prototxt" if folder else None
    if squeeze is not None and squeeze.exists():
        found["SqueezeNet v1.1"] = (deploy(squeeze), 8, False)
    return found


def compare(name: str, text: str, batch: int, backward: bool, processes: int, threads: int, rounds: int, against: Optional[Path]) -> list[str]:  # fmt: skip
    """A row of the table."""
    sides = {conv: Side(conv, text, batch, backward, processes, threads, against) for conv in SIDES}
    try:
        start = time.perf_counter()
        sides["caffe"].image_time(1)
        repeat = max(1, round(1.0 / (time.perf_counter() - start)))
        times: dict[str, list[float]] = {conv: [] for conv in SIDES}
        for _ in range(rounds):
            for conv in SIDES:
                times[conv].append(sides[conv].image_time(repeat))
    finally:
        for side in sides.values():
            side.close()
    ratios = [a / b for a, b in zip(times["caffe"], times["onednn"])]
    middle = {conv: statistics.median(t) * 1e3 for conv, t in times.items()}
    spread = {conv: f"{min(t) * 1e3:.2f} to {max(t) * 1e3:.2f}" for conv, t in times.items()}
    return [
        f"{name}, batch {batch}", f"{processes} x {threads}", f"{middle['caffe']:.2f} ({spread['caffe']})",
        f"{middle['onednn']:.2f} ({spread['onednn']})", f"{1e3 / middle['onednn']:.0f}", f"{statistics.median(ratios):.2f}",
    ]  # fmt: skip


def layer_table(text: str, batch: int, backward: bool, against: Optional[Path]) -> list[list[str]]:
    """Each layer's best time on both sides."""
    sides = {conv: Side(conv, text, batch, backward, 1, 1, against) for conv in SIDES}
    best: dict[str, dict[str, float]] = {conv: {} for conv in SIDES}
    try:
        for _ in range(3):
            for conv, side in sides.items():
                answer: dict[str, float] = eval(side.ask("layers 2")[0], {"__builtins__": {}})
                best[conv] = {k: min(v, best[conv].get(k, v)) for k, v in answer.items()}
    finally:
        for side in sides.values():
            side.close()
    return [
        [
            layer,
            f"{t / batch * 1e6:.1f}",
            f"{best['onednn'][layer] / batch * 1e6:.1f}",
            f"{t / best['onednn'][layer]:.2f}",
        ]
        for layer, t in best["caffe"].items()
    ]


def main(argv: Optional[list[str]] = None) -> Any:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="networks whose name begins so")
    parser.add_argument("--batch", type=int)
    parser.add_argument(
        "--against", type=Path, metavar="PREFIX", help="a folder of scripts/build_caffe.sh with another Caffe"
    )
    parser.add_argument("--layers", action="store_true", help="the layers one by one, instead")
    parser.add_argument(
        "--cpu", action="store_true", help="CPU time instead of the clock's, for a machine that does other work too"
    )
    args = parser.parse_args(argv)
    global CLOCK
    CLOCK = "cpu" if args.cpu else "wall"
    rows = []
    for name, (text, batch, backward) in networks().items():
        if args.only and not name.lower().startswith(args.only.lower()):
            continue
        batch = args.batch or batch
        if args.layers:
            print_table(
                f"{name}, batch {batch}: microseconds an image",
                ["layer", "Caffe", "oneDNN", "ratio"],
                layer_table(text, batch, backward, args.against),
            )
        else:
            rows.append(compare(name, text, batch, backward, args.processes, args.threads, args.rounds, args.against))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    if rows:
        print_table(
            "Milliseconds an image: median (lowest to highest)",
            ["network", "processes x threads", "Caffe ms", "oneDNN ms", "images/s", "ratio"],
            rows,
        )


if __name__ == "__main__":
    main()
