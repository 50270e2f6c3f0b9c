"""The paper's experiments on AlexNet and VGG-16: their networks, settings, and the search from metrics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.complexity import network_complexity

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The script as make calls it."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), **({"ENC_CAFFE_DATA": str(data)} if data else {})}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "experiment.py"), *arguments], capture_output=True, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "macs", "weights", "layers"), [("vgg16", 15_470_264_320, 138_344_128, 16), ("alexnet", 724_406_816, 60_954_656, 8)]
)  # fmt: skip
def test_networks_have_the_known_sizes(folder: str, macs: int, weights: int, layers: int) -> None:
    for name, shape in (("deploy", None), ("train_val", (3, 256, 256))):
        loaded = pipeline.load(ROOT / "prototxt" / folder / f"{name}.prototxt", None, shape, True)
        whole = network_complexity(loaded.network, {}, loaded.policy.schemes, "exact", "all")
        assert (whole.macs, whole.parameters, len(loaded.policy.schemes)) == (macs, weights, layers)


@pytest.mark.caffe
def test_stock_caffe_runs_the_smaller_one(tmp_path: Path) -> None:
    from enc_caffe.runtime.tool import caffe_time

    assert caffe_time(ROOT / "prototxt" / "alexnet" / "deploy.prototxt", 1, tmp_path / "log").forward_ms > 0


@pytest.mark.parametrize(("method", "exact_layers"), [("map", 11), ("model", 0)])
def test_vgg16_from_metrics_beside_the_published_ranks(
    shared_data: Path, tmp_path: Path, method: str, exact_layers: int
) -> None:
    done = run("vgg16-25", "--method", method, "--metrics", str(shared_data / "metrics" / "vgg16.json"), "--out",
               str(tmp_path), data=shared_data)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("conv")]
    assert len(rows) == 13 and sum(r[4] == "0" for r in rows) >= exact_layers
    if method == "model":
        ratio = next(line for line in done.stdout.splitlines() if line.startswith("objective of the published"))
        assert float(ratio.split()[-1]) <= 1
    assert (tmp_path / "ranks.json").exists() and "no network is emitted" in done.stdout


def test_words_that_are_unknown(tmp_path: Path) -> None:
    done = run("vgg16-26")
    assert done.returncode == 2 and "vgg16-25" in done.stderr
    done = run("vgg16-25", "--out", str(tmp_path / "o"))
    assert done.returncode == 2 and "convert_imageset" in done.stderr and not (tmp_path / "o").exists()
