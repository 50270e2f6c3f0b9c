"""How long PCA metrics, ENC-Map and emission take, and how much memory: ResNet-56-like and VGG-16-like networks.

VGG-16 gets random weights (a 553 MB caffemodel, written by stock Caffe's layout). Every step runs in a process of its own,
so that the peak memory is that step's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESNET = ROOT / "prototxt" / "resnet56" / "train_val.prototxt"
VGG = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P", 512, 512, 512, "P", 512, 512, 512, "P")


def vgg16_prototxt() -> str:
    """VGG-16's deploy prototxt."""
    text = 'name: "VGG-16"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }\n'
    bottom, stage, index = "data", 1, 1
    for item in VGG:
        if item == "P":
            name = f"pool{stage}"
            text += f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}" pooling_param {{ kernel_size: 2 stride: 2 }} }}\n'
            stage, index = stage + 1, 1
        else:
            name = f"conv{stage}_{index}"
            text += (
                f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
                f"convolution_param {{ num_output: {item} kernel_size: 3 pad: 1 }} }}\n"
                f'layer {{ name: "relu{stage}_{index}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
            )
            index += 1
        bottom = name
    for name, outputs in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        text += f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" inner_product_param {{ num_output: {outputs} }} }}\n'
        bottom = name
    return text + f'layer {{ name: "prob" type: "Softmax" bottom: "{bottom}" top: "prob" }}\n'


def random_caffemodel(prototxt: Path, out: Path) -> None:
    """Weights of the right shapes, normally distributed."""
    from enc_caffe import pipeline
    from enc_caffe.caffe_io.caffemodel import expected_shapes, layer_record, write_caffemodel

    network = pipeline.load(prototxt).network
    rng = np.random.default_rng(0)
    with open(out, "wb") as handle:
        write_caffemodel(
            handle, network.name,
            (layer_record(layer.name, layer.type, [0.01 * rng.standard_normal(s, np.float32) for s in expected_shapes(layer)])
             for layer in network.weighted),
        )  # fmt: skip


def work(prototxt: Path, caffemodel: Path, out: Path) -> None:
    """One measured run: metrics, ENC-Map at half the MACs, emission."""
    from enc_caffe import pipeline
    from enc_caffe.pipeline.planning import search_plan
    from enc_caffe.search.options import SearchOptions

    start = time.perf_counter()
    loaded = pipeline.load(prototxt, None, (3, 32, 32) if "resnet" in str(prototxt) else None)
    table = pipeline.pca_metrics(loaded, caffemodel)
    metrics = time.perf_counter()
    plan = search_plan(table, SearchOptions("map", "pca", 0.5)).plan
    search = time.perf_counter()
    pipeline.emit(loaded, caffemodel, plan, out)
    end = time.perf_counter()
    # Not ru_maxrss: across fork and exec it keeps the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    size = os.path.getsize(caffemodel) / 2**20
    print(
        f"{loaded.network.name}: metrics {metrics - start:.2f} s, ENC-Map {search - metrics:.3f} s, emission {end - search:.2f} s, "
        f"in all {end - start:.2f} s; peak memory {peak:.0f} MiB, {peak / size:.1f} times the caffemodel's {size:.0f} MiB"
    )


def main() -> None:
    """Measure both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=3, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        work(*args.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "vgg16.prototxt").write_text(vgg16_prototxt())
        for prototxt in (RESNET, base / "vgg16.prototxt"):
            caffemodel = base / "random.caffemodel"
            if prototxt == RESNET:
                copy = base / "resnet56.prototxt"
                copy.write_text(RESNET.with_name("deploy.prototxt").read_text())
                prototxt = copy
            random_caffemodel(prototxt, caffemodel)
            command = [
                sys.executable,
                __file__,
                "--run",
                str(prototxt),
                str(caffemodel),
                str(base / f"out-{prototxt.stem}"),
            ]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
