"""Whole networks on the GPU, held against the CPU: outputs, the gradients of a training step, and the commands' results."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli import main
from tests.conftest import ROOT
from tests.gpu.check_layers import Pair, of_both
from tests.measuring.nets import LOSS, TAIL, conv, grouped, normalised, residual, simple, write_images, write_net

pytestmark = pytest.mark.caffe


def depthwise() -> str:
    """MobileNet's blocks: depthwise 3x3 of strides 1 and 2, then 1x1."""
    text, last, channels = conv("c0", "data", 16, bias=False) + normalised("c0"), "c0", 16
    for i, stride in enumerate((1, 2, 1)):
        text += conv(f"d{i}", last, channels, groups=channels, bias=False, stride=stride) + normalised(f"d{i}")
        channels *= 2
        text += conv(f"p{i}", f"d{i}", channels, kernel=1, bias=False) + normalised(f"p{i}")
        last = f"p{i}"
    return text + TAIL.format(last=last) + LOSS


def upsampled() -> str:
    """Deconvolutions, one of them depthwise (bilinear upsampling), and a dilated convolution."""
    up = 'convolution_param {{ num_output: {} kernel_size: 4 stride: 2 pad: 1 group: {} weight_filler {{ type: "{}" }} }}'
    dilated = 'convolution_param { num_output: 12 kernel_size: 3 pad: 2 dilation: 2 weight_filler { type: "msra" } }'
    return (
        conv("c0", "data", 12, stride=2) + simple("r0", "ReLU", "c0") + simple("u0", "Deconvolution", "c0", "u0", up.format(8, 1, "msra"))
        + simple("r1", "ReLU", "u0") + simple("u1", "Deconvolution", "u0", "u1", up.format(8, 8, "bilinear"))
        + simple("dilated", "Convolution", "u1", "dilated", dilated) + TAIL.format(last="dilated") + LOSS
    )  # fmt: skip


def fed_by_arrays(text: str, shape: tuple[int, ...], label: str = "label") -> str:
    """The net without its data layers, its images and labels in Input layers."""
    net: Any = read_net_text(text)
    kept = [x for x in net.layer if x.type not in ("Data", "Input", "HDF5Data", "ImageData")]
    dims = " ".join(f"dim: {d}" for d in shape)
    head = (
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
        f'layer {{ name: "{label}" type: "Input" top: "{label}" input_param {{ shape {{ dim: {shape[0]} }} }} }}\n'
    )
    del net.layer[:]
    net.layer.extend(kept)
    return head + str(net)


def read_net_text(text: str) -> Any:
    """A NetParameter from text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(text)
        return read_net(path)


def training_step(text: str, weights: str, seed: int, scale: float) -> tuple[float, dict[str, np.ndarray]]:
    """Loss of a step in the TRAIN phase, and all gradients of weights (in a worker); Dropout draws nothing in these nets."""
    import caffe

    from enc_caffe.workers.pycaffe import _set_device

    _set_device(None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(text)
        net = caffe.Net(str(path), caffe.TRAIN, weights=weights) if weights else caffe.Net(str(path), caffe.TRAIN)
    rng = np.random.default_rng(seed)
    if not weights:
        for blobs in net.params.values():
            for blob in blobs:
                fan = max(1, int(np.prod(blob.data.shape[1:])))
                blob.data[...] = rng.standard_normal(blob.data.shape) * (2 / fan) ** 0.5 if blob.data.ndim > 1 else 0.5
    net.blobs["data"].data[...] = rng.standard_normal(net.blobs["data"].data.shape) * scale
    label = net.blobs["label"]
    label.data[...] = rng.integers(0, 5, label.data.shape)
    net.clear_param_diffs()
    loss = sum(float(v.sum()) for k, v in net.forward().items() if "loss" in k)
    net.backward()
    found = {f"{n} {i}": np.array(b.diff) for n, blobs in net.params.items() for i, b in enumerate(blobs)}
    return loss, found


def same_step(workers: Pair, text: str, weights: str, scale: float = 1.0) -> None:
    """Of each blob, the difference of the gradients is at most a thousandth of the gradient."""
    (loss, gradients), (wanted, references) = of_both(workers, training_step, text, weights, 1, scale)
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert gradients.keys() == references.keys() and any(np.abs(g).max() > 0 for g in references.values())
    largest = max(float(np.linalg.norm(g)) for g in references.values())
    for name, gradient in gradients.items():
        size = float(np.linalg.norm(references[name]))
        # A bias before BatchNorm has no gradient but what rounding leaves.
        assert np.linalg.norm(gradient - references[name]) <= max(1e-3 * size, 1e-6 * largest), name


@pytest.mark.parametrize("net", [residual, grouped, depthwise, upsampled])
def test_a_training_step(workers: Pair, net: Any) -> None:
    same_step(workers, fed_by_arrays(net(), (8, 3, 12, 12)), "")


def test_a_training_step_of_resnet_56(workers: Pair, shared_data: Path) -> None:
    text = (ROOT / "prototxt" / "resnet56" / "train_val.prototxt").read_text()
    same_step(workers, fed_by_arrays(text, (32, 3, 32, 32)), str(shared_data / "res56.caffemodel"))


def test_a_training_step_of_squeezenet(workers: Pair, shared_data: Path) -> None:
    folder = shared_data / "squeezenet"
    text = re.sub(
        r"dropout_ratio: *[0-9.]+", "dropout_ratio: 1e-30", (folder / "squeezenet_v1.1_train_val.prototxt").read_text()
    )
    same_step(workers, fed_by_arrays(text, (2, 3, 227, 227)), str(folder / "squeezenet_v1.1.caffemodel"), 60.0)


def test_evaluate(gpu: int, shared_data: Path, cifar_test_lmdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ROOT / "prototxt" / "resnet56" / "train_val.prototxt"
    said = []
    for extra in ([], ["--gpu", str(gpu)]):
        arguments = [
            "evaluate",
            "--model",
            str(model),
            "--weights",
            str(shared_data / "res56.caffemodel"),
            "--lmdb",
            str(cifar_test_lmdb),
        ]
        assert main(arguments + extra) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if "accuracy" in line or "entropy" in line])
    assert said[0] == said[1] and len(said[0]) == 2


def test_metrics(gpu: int, tmp_path: Path) -> None:
    model, weights = write_net(tmp_path, residual())
    lmdb = write_images(tmp_path / "lmdb", 200)
    found = []
    for extra in ([], ["--gpu", str(gpu)]):
        out = tmp_path / f"metrics{len(extra)}.json"
        arguments = [
            "metrics",
            "--model",
            str(model),
            "--weights",
            str(weights),
            "--lmdb",
            str(lmdb),
            "--samples",
            "0.3,0.7",
            "--out",
            str(out),
        ]
        assert main([*arguments, "--store", str(tmp_path / f"store{len(extra)}.sqlite"), *extra]) == 0
        found.append(json.loads(out.read_text()))
    cpu, on_gpu = (numbers(x["layers"]) for x in found)
    assert len(cpu) > 50 and cpu == pytest.approx(on_gpu, rel=1e-3, abs=1e-4)


def numbers(value: Any) -> list[float]:
    """All numbers of a JSON value, in order."""
    if isinstance(value, dict):
        return [n for k in sorted(value) for n in numbers(value[k])]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []
