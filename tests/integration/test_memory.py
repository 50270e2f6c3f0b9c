"""The memory that measuring takes: VGG-16 with random weights at 224 x 224."""

from __future__ import annotations

import importlib.util
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.subject import MEMORY, layer_counts
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent.parent


def peak() -> int:
    """Peak resident bytes of this process, a worker."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.caffe
def test_vgg16_stays_within_the_default_budget(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bench_emit", ROOT / "scripts" / "bench_emit.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench_emit"] = bench
    spec.loader.exec_module(bench)
    prototxt, weights = tmp_path / "vgg.prototxt", tmp_path / "vgg.caffemodel"
    prototxt.write_text(bench.vgg16_prototxt())
    bench.random_caffemodel(prototxt, weights)
    rng = np.random.default_rng(0)
    write_lmdb(
        tmp_path / "lmdb", from_arrays(rng.integers(0, 256, (10, 3, 224, 224)).astype(np.uint8), np.arange(10))[1]
    )
    loaded = pipeline.load(prototxt, tmp_path / "lmdb")
    with Workers(1).executor() as executor:
        made = images_of(loaded, weights, tmp_path / "lmdb", executor)
        found = layer_counts(made, [("conv5_3", Form("spatial", (r,))) for r in (77, 192)])
        used = executor.result(executor.submit(peak))
    assert found["conv5_3", Form("spatial", (77,))].images == 10
    # The worker holds the weights in its net, and sees the file that they come from.
    assert used <= MEMORY + 2 * weights.stat().st_size, f"{used / 2**20:.0f} MiB"
