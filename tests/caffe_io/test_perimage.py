"""Networks whose prototxt says how many images a pass has: others may be given, and each image is computed as alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.perimage import most_images, per_image
from enc_caffe.caffe_io.prototxt import from_text, read_net, to_text
from enc_caffe.caffe_io.scores import find_scores
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.cli import main
from enc_caffe.errors import NetworkError
from enc_caffe.measuring.layers import scores_of
from enc_caffe.measuring.subject import net_task, subject
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

pytestmark = pytest.mark.caffe


def image(images: int) -> str:
    """The input."""
    return f'name: "n" layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {images} dim: 3 dim: 12 dim: 12 }} }} }}\n'


def shaped(name: str, bottom: str, dims: str) -> str:
    """A Reshape."""
    return nets.simple(name, "Reshape", bottom, name, f"reshape_param {{ shape {{ {dims} }} }}")


def scored(bottom: str, name: str = "fc", more: str = "") -> str:
    """Class scores."""
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" inner_product_param {{ num_output: 5 {more} }} }}\n'


TRUNK = nets.conv("a", "data", 8, stride=3) + nets.simple("ra", "ReLU", "a")
LSTM = (
    'layer { name: "begin" type: "DummyData" top: "begin" dummy_data_param { shape { dim: 4 dim: 1 } } }\n'
    + nets.conv("b", "a", 4, stride=2) + shaped("steps", "b", "dim: 4 dim: 1 dim: 4")
    + 'layer { name: "lstm" type: "LSTM" bottom: "steps" bottom: "begin" top: "lstm" recurrent_param { num_output: 3 '
    'weight_filler { type: "uniform" min: -0.5 max: 0.5 } bias_filler { type: "constant" } } }\n' + scored("lstm", more="axis: 2")
)  # fmt: skip


@pytest.mark.parametrize(
    "text, most, dims",
    [
        (image(1) + TRUNK + shaped("r", "a", "dim: 1 dim: -1") + scored("r"), 0, [0, -1]),
        (image(4) + TRUNK + shaped("r", "a", "dim: 4 dim: 8 dim: 4 dim: 4") + scored("r"), 0, [0, 8, 4, 4]),
        (image(1) + TRUNK + shaped("r", "a", "dim: -1 dim: 128") + scored("r"), 0, [-1, 128]),
        (image(2) + TRUNK + shaped("r", "a", "dim: 0 dim: -1") + scored("r"), 0, [0, -1]),
        (image(1) + TRUNK + shaped("r", "a", "dim: 8 dim: 16") + shaped("s", "r", "dim: 1 dim: -1") + scored("s"), 1, [8, 16]),
        (image(1) + TRUNK + LSTM, 1, [4, 1, 4]),
    ],
    ids=["one image", "four images", "any", "any, by 0", "images mixed", "time first"],
)  # fmt: skip
def test_how_many_images_a_pass_may_have(text: str, most: int, dims: list[int]) -> None:
    network = describe(from_text(text))
    deploy = per_image(deploy_net(from_text(text), network), network)
    reshape = next(x for x in deploy.layer if x.type == "Reshape")
    assert list(reshape.reshape_param.shape.dim) == dims
    assert most_images(deploy, "fc", "n.prototxt") == most


def test_one_number_of_images_alone_is_refused() -> None:
    text = image(2) + TRUNK + shaped("r", "a", "dim: 16 dim: 16") + shaped("s", "r", "dim: 2 dim: -1") + scored("s")
    with pytest.raises(NetworkError, match="made for passes of 2 images and for no other number"):
        most_images(from_text(text), "fc", "n.prototxt")


def test_images_that_are_taken_together_are_no_single_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three frames of a film have one answer: a pass of six may be one of nine, and none of four."""
    text = image(6) + TRUNK + scored("a") + shaped("film", "fc", "dim: -1 dim: 1 dim: 3 dim: 5") + nets.simple(
        "mean", "Pooling", "film", "mean", "pooling_param { pool: AVE kernel_h: 3 kernel_w: 1 }"
    ) + nets.simple("prob", "Softmax", "mean", "prob", "softmax_param { axis: 3 }")  # fmt: skip
    with pytest.raises(
        NetworkError, match=r"takes several of its 6 images together .*'film' \(Reshape\): \(7, 5\) cannot be reshaped"
    ):
        most_images(from_text(text), "mean", "n.prototxt")
    model, weights = nets.write_net(tmp_path, text)
    flags = [
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--scale",
        "0.01",
        "--lmdb",
        str(nets.write_images(tmp_path / "lmdb", 10)),
    ]
    assert main(["metrics", *flags, "--out", str(tmp_path / "m.json"), "--store", str(tmp_path / "s")]) == 1
    error = capsys.readouterr().err
    assert "metrics without images, search and emit compress it" in error and "Caffe stopped" not in error


@pytest.mark.parametrize(
    "text",
    [
        image(1) + TRUNK + shaped("r", "a", "dim: 1 dim: 2 dim: -1") + nets.simple("p", "Softmax", "r", "p", "softmax_param { axis: 1 }"),
        image(1) + TRUNK + LSTM,
    ],
    ids=["one image", "time first"],
)  # fmt: skip
def test_every_image_is_measured_as_alone(tmp_path: Path, text: str) -> None:
    lmdb = nets.write_images(tmp_path / "lmdb", 6)
    model, _ = nets.write_net(tmp_path, text)
    with Workers(1).executor() as executor:
        weights = executor.result(executor.submit(saved, text, str(tmp_path / "w.caffemodel")))
        made = subject(read_net(model), str(model), Path(weights), lmdb, 1000, executor)
        task = net_task(made, (), 4)
        found, _ = executor.result(executor.submit(scores_of, task, 0, 6, False))
        alone = [executor.result(executor.submit(scores_of, task, i, i + 1, False))[0] for i in range(6)]
        plain = executor.result(executor.submit(forward_one, text, weights, str(lmdb), task.scores))
    assert made.look.scores.classes == found.shape[1] == find_scores(made.look.network, True).classes
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-6)
    np.testing.assert_allclose(found[0], plain, atol=1e-6)
    assert np.ptp(found, axis=0).max() > 1e-3


def saved(text: str, path: str) -> str:
    """Random weights of Caffe's own (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    filled = text.replace("convolution_param {", 'convolution_param { weight_filler { type: "xavier" }')
    load_net(
        filled.replace("inner_product_param {", 'inner_product_param { weight_filler { type: "xavier" }'), None
    ).save(path)
    return path


def forward_one(text: str, weights: str, lmdb: str, scores: str) -> np.ndarray:
    """The first image through the network as it is written (in a worker)."""
    from enc_caffe.caffe_io.datum import ImageLmdb
    from enc_caffe.workers.pycaffe import forward

    images = ImageLmdb(Path(lmdb))
    pixels = next(images.images(0, 1)).pixels
    images.close()
    return forward(text, weights, {"data": pixels[None].astype(np.float32)}, [scores])[scores].reshape(-1)


def test_a_network_for_one_image_is_compressed_whole(tmp_path: Path) -> None:
    text = (
        image(1)
        + TRUNK
        + nets.conv("b", "a", 8)
        + shaped("r", "b", "dim: 1 dim: 128")
        + scored("r")
        + nets.simple("prob", "Softmax", "fc", "prob")
    )
    model, weights = nets.write_net(tmp_path, text)
    flags = [
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--lmdb",
        str(nets.write_images(tmp_path / "lmdb", 10)),
        "--scale",
        "0.01",
    ]
    assert (
        main(
            [
                "compress",
                *flags,
                "--target_flops",
                "0.6",
                "--store",
                str(tmp_path / "s"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    # Trained on 64 images at once; the deploy file has the user's own words.
    written = {p: (tmp_path / "out" / f"{p}.prototxt").read_text() for p in ("train_val", "deploy")}
    dims = {
        p: next(list(x.reshape_param.shape.dim) for x in from_text(t).layer if x.type == "Reshape")
        for p, t in written.items()
    }
    assert dims == {"train_val": [0, 128], "deploy": [1, 128]} and to_text(from_text(written["deploy"]))
