"""What the network is fed is said, and is a part of what results are kept by; with real Caffe."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli import main
from enc_caffe.measuring.store import ResultStore
from tests.measuring import nets

pytestmark = pytest.mark.caffe
FLAGS = ("--mean_value", "128", "--scale", "0.0078125")
INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n'


def deploy_of(text: str) -> str:
    """The same network as a deploy file that says nothing of its images."""
    lines = [line for line in text.splitlines(True) if 'type: "Data"' not in line and "SoftmaxWithLoss" not in line]
    return lines[0] + INPUT + "".join(lines[1:]) + 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'


@pytest.fixture
def kit(tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """train_val, deploy, weights and images of one network."""
    model, weights = nets.write_net(tmp_path, nets.residual())
    deploy = tmp_path / "deploy.prototxt"
    deploy.write_text(deploy_of(nets.residual()))
    return model, deploy, weights, nets.write_images(tmp_path / "lmdb", 30)


def test_a_deploy_file_with_flags_is_fed_as_the_train_val(kit: tuple[Path, ...], tmp_path: Path, capsys) -> None:
    model, deploy, weights, lmdb = kit
    found = {}
    for name, prototxt, flags in (("train_val", model, ()), ("deploy", deploy, ()), ("flags", deploy, FLAGS)):
        out = tmp_path / name
        assert main(["compress", "--model", str(prototxt), "--weights", str(weights), "--lmdb", str(lmdb), "--out", str(out),
                     "--target_flops", "0.6", "--quality", "best", "--refine", "0", "--store", str(tmp_path / "s"), *flags]) == 0  # fmt: skip
        found[name] = (json.loads((out / "evaluation.json").read_text()), capsys.readouterr().err)
    assert found["flags"][0]["divergence"] == found["train_val"][0]["divergence"] != found["deploy"][0]["divergence"]
    assert found["flags"][0]["compressed"] == found["train_val"][0]["compressed"]
    assert (
        "fed 3x12x12 (channels x height x width): (value - 128) * 0.0078125, by layer 'data' of"
        in found["train_val"][1]
    )
    assert "(value - 128) * 0.0078125, by the flags; from -1 to 0.9922" in found["flags"][1]
    assert "WARNING" not in found["flags"][1] + found["train_val"][1]
    assert "values as they are, since nothing says otherwise; from 0 to 255" in found["deploy"][1]
    assert f"WARNING: images are fed as 0 to 255, since {deploy} has no data layer" in found["deploy"][1]
    assert "BatchNorm layer 'c0_bn'" in found["deploy"][1] and "which does not fit" in found["deploy"][1]
    # The emitted train_val says what the network was fed.
    for name in ("train_val", "flags"):
        net = read_net(tmp_path / name / "train_val.prototxt")
        params = [x.transform_param for x in net.layer if x.type == "Data"]
        assert [(list(p.mean_value), p.scale) for p in params] == [([128], 0.0078125)] * 2
    for file in ("deploy", "train_val"):
        text = (tmp_path / "flags" / f"{file}.prototxt").read_text()
        assert "# What the network was fed: --mean_value 128 --scale 0.0078125\n" in text
    assert not read_net(tmp_path / "deploy" / "train_val.prototxt").layer[0].HasField("transform_param")
    # Compressed again from what was emitted, it is fed the same.
    assert main(["evaluate", "--model", str(tmp_path / "flags" / "train_val.prototxt"), "--weights",
                 str(tmp_path / "flags" / "compressed.caffemodel"), "--lmdb", str(lmdb), "--json", str(tmp_path / "e.json")]) == 0  # fmt: skip
    again = json.loads((tmp_path / "e.json").read_text())
    assert again["cross_entropy"] == pytest.approx(found["flags"][0]["compressed"]["cross_entropy"], rel=1e-5)


def test_results_of_other_values_are_not_taken(kit: tuple[Path, ...], tmp_path: Path) -> None:
    _, deploy, weights, lmdb = kit
    for number, flags in enumerate([(), FLAGS, (*FLAGS, "--channel_order", "rgb"), FLAGS]):
        assert main(["metrics", "--model", str(deploy), "--weights", str(weights), "--lmdb", str(lmdb), "--samples", "0.5",
                     "--store", str(tmp_path / "s"), "--out", str(tmp_path / f"{number}.json"), *flags]) == 0  # fmt: skip
    texts = [(tmp_path / f"{i}.json").read_text() for i in range(4)]
    assert texts[1] == texts[3] and len(set(texts)) == 3
    with ResultStore(tmp_path / "s") as store:
        assert sorted(c.about["fed"] for c in store.contexts()) == [
            "(value - 128) * 0.0078125", "(value - 128) * 0.0078125, channels turned round to RGB", "values as they are",
        ]  # fmt: skip


def test_batchnorm_says_whether_the_values_are_those_of_the_training(tmp_path: Path, capsys) -> None:
    text = deploy_of(nets.HEAD.format(name="first") + nets.simple("norm", "BatchNorm", "data", "n") + nets.conv("c", "n", 6)
                     + nets.TAIL.format(last="c") + nets.LOSS)  # fmt: skip
    model, weights = nets.write_net(tmp_path, text)
    lmdb = nets.write_images(tmp_path / "lmdb", 30)
    images = ImageLmdb(lmdb)
    pixels = np.stack([i.pixels for i in images.images()]).astype(np.float64)
    images.close()
    # As after a training on (value - 128) / 128, its sums weighted by 2 as Caffe's moving averages are.
    scaled = ((pixels - 128) / 128).transpose(1, 0, 2, 3).reshape(3, -1)
    rng = np.random.default_rng(0)
    with open(weights, "wb") as handle:
        write_caffemodel(handle, "first", [
            layer_record("norm", "BatchNorm", [2 * scaled.mean(axis=1), 2 * scaled.var(axis=1), np.array([2.0])]),
            layer_record("c", "Convolution", [rng.standard_normal((6, 3, 3, 3)), np.zeros(6)]),
            layer_record("fc", "InnerProduct", [rng.standard_normal((5, 6)), np.zeros(5)]),
        ])  # fmt: skip
    command = ["evaluate", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb)]
    assert main([*command, *FLAGS]) == 0
    assert "WARNING" not in capsys.readouterr().err
    assert main(command) == 0
    raw = capsys.readouterr().err
    assert "'norm' have 1.6" in raw and "e+04 times the variance" in raw and "which does not fit" in raw
    # Nearly right: the warning stays, since nothing says it, but so does what BatchNorm says.
    assert main([*command, "--scale", "0.0078125"]) == 0
    assert "WARNING" not in capsys.readouterr().err
    # Flags that are far from the training are told of, though they were given.
    assert main([*command, "--scale", "1"]) == 0
    assert "WARNING: The inputs of BatchNorm layer 'norm'" in capsys.readouterr().err


def encoded(path: Path, images: list[np.ndarray]) -> Path:
    """An LMDB of PNGs of these images (H, W) or (H, W, 3)."""
    pb = caffe_pb2()
    write_lmdb(path, [
        (f"{i:04d}".encode(), pb.Datum(data=cv2.imencode(".png", x)[1].tobytes(), encoded=True, label=i % 5).SerializeToString())
        for i, x in enumerate(images)
    ])  # fmt: skip
    return path


def test_gray_images_are_decoded_in_colour_where_the_data_layer_says_so(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    gray = encoded(tmp_path / "gray", [rng.integers(0, 256, (12, 12)).astype(np.uint8) for _ in range(20)])
    plain, weights = nets.write_net(tmp_path, nets.residual())
    model = tmp_path / "colour.prototxt"
    model.write_text(nets.residual().replace("transform_param { ", "transform_param { force_color: true "))
    command = [
        "metrics",
        "--weights",
        str(weights),
        "--lmdb",
        str(gray),
        "--samples",
        "0.5",
        "--store",
        str(tmp_path / "s"),
    ]
    assert main([*command, "--model", str(model), "--out", str(tmp_path / "a.json")]) == 0
    assert "decoded in colour" in capsys.readouterr().err
    assert main([*command, "--model", str(plain), "--force_color", "--out", str(tmp_path / "b.json")]) == 0
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    capsys.readouterr()
    assert main([*command, "--model", str(plain), "--out", str(tmp_path / "c.json")]) == 1
    assert "--force_color and --force_gray say how encoded images are decoded" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["channels", "sizes"])
@pytest.mark.parametrize("name", ["evaluate", "metrics"])
def test_an_image_that_is_not_like_the_others_is_named(tmp_path: Path, capsys, kind: str, name: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (12, 12, 3)).astype(np.uint8) for _ in range(20)]
    images[17] = images[17][:, :, 0] if kind == "channels" else images[17][:9]
    model, weights = nets.write_net(tmp_path, nets.residual())
    command = [
        name,
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--lmdb",
        str(encoded(tmp_path / "lmdb", images)),
    ]
    out = (
        ["--out", str(tmp_path / "o.json"), "--store", str(tmp_path / "s"), "--samples", "0.5"]
        if name == "metrics"
        else []
    )
    assert main([*command, *out]) == 1
    said = capsys.readouterr().err
    shape = "(1, 12, 12)" if kind == "channels" else "(3, 9, 12)"
    assert f"key b'0017': the image becomes {shape} (C, H, W), but the network needs (3, 12, 12); --" in said
    assert len([line for line in said.splitlines() if "0017" in line]) == 1 and "Traceback" not in said
    assert main([*command, *out, *(["--force_color"] if kind == "channels" else ["--resize", "12,12"])]) == 0
