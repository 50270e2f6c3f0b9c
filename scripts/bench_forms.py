"""A ResNet-50 of random weights at half of ALL its MACs, all schemes, by the layers' output errors: time, memory, what it costs.

The images are random too: the run shows that the networks of today are within reach, how long that takes and in how much memory; its
accuracy would mean nothing. ``--images DIR`` takes an LMDB of 224x224 or larger images instead.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from enc_caffe import pipeline
from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.caffemodel import expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import write_lmdb

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "prototxt" / "resnet50" / "deploy.prototxt"


def random_weights(out: Path) -> None:
    """Weights that keep a signal's size; batch normalisation and scale do nothing."""
    network, rng = pipeline.load(MODEL).network, np.random.default_rng(0)

    def blobs(layer: object) -> list[np.ndarray]:
        channels = layer.bottom_shapes[0][1]  # type: ignore[attr-defined]
        if layer.type == "BatchNorm":  # type: ignore[attr-defined]
            return [np.zeros(channels, np.float32), np.ones(channels, np.float32), np.ones(1, np.float32)]
        if layer.type == "Scale":  # type: ignore[attr-defined]
            return [np.ones(channels, np.float32), np.zeros(channels, np.float32)]
        shapes = expected_shapes(layer)  # type: ignore[arg-type]
        fan_in = int(np.prod(shapes[0][1:]))
        # Singular values that fall, as trained weights have them.
        weight = rng.standard_normal((shapes[0][0], fan_in)) * np.exp(-3 * np.arange(fan_in) / fan_in)
        weight = weight[:, rng.permutation(fan_in)] * np.sqrt(2 / fan_in) / np.sqrt(np.mean(weight**2))
        return [weight.reshape(shapes[0]).astype(np.float32), *(np.zeros(s, np.float32) for s in shapes[1:])]

    layers = [x for x in network.layers if x.has_weights or x.type in ("BatchNorm", "Scale")]
    with open(out, "wb") as handle:
        write_caffemodel(handle, network.name, (layer_record(x.name, x.type, blobs(x)) for x in layers))


def main() -> None:
    """Make the files, compress, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=20, help="random images (default: 20)")
    parser.add_argument("--lmdb", type=Path, help="images instead of random ones")
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        random_weights(base / "resnet50.caffemodel")
        lmdb = args.lmdb or base / "lmdb"
        if args.lmdb is None:
            # Smooth images: noise of single pixels would make all directions of a window alike.
            small = np.random.default_rng(1).integers(0, 256, (args.number, 3, 14, 14), dtype=np.uint8)
            images = np.repeat(np.repeat(small, 16, axis=2), 16, axis=3)
            write_lmdb(lmdb, sources.from_arrays(images, np.full(args.number, -1))[1])
        command = [
            sys.executable, "-m", "enc_caffe", "compress", "--model", str(MODEL), "--weights", str(base / "resnet50.caffemodel"), "--lmdb", str(lmdb),
            "--target_flops", str(args.target), "--schemes", "all", "--method", "model", "--metric", "output", "--decomposition", "weighted",
            "--mean_value", "128", "--scale", "0.0078125", "--workers", str(args.workers), "--store", str(base / "store.sqlite"),
            "--out", str(base / "out"),
        ]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"ResNet-50 at {args.target}: {time.perf_counter() - start:.0f} s; the largest process took {peak:.0f} MiB"
        )


if __name__ == "__main__":
    main()
