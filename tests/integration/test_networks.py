"""The networks of ``docs/networks.md``, checked as its command does; those of a Caffe source tree where CAFFE_SRC names one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import array_records, write_lmdb
from enc_caffe.caffe_io.prototxt import read_net, read_solver
from enc_caffe.cli import main
from enc_caffe.form import Form
from enc_caffe.pipeline.loading import load
from enc_caffe.plan import Plan, write_plan
from enc_caffe.workers.executor import CaffeExecutor
from tests.conftest import script

pytestmark = pytest.mark.caffe
networks = script("networks")
SEGMENTATION = next(c.text for c in networks.FAMILIES if c.name == "several data layers")
SOURCE = os.environ.get("CAFFE_SRC")
CASES = [*networks.FAMILIES, *(networks.shipped(Path(SOURCE)) if SOURCE else ())]

#: What OpenCV's Caffe reader cannot do; it must agree with Caffe on every other network.
OPENCV_CANNOT = {
    "DummyData and Parameter", "3-D convolution", "SPP", "Embed", "LSTM", "RNN", "element-wise and shape layers", "type of a forked Caffe",
}  # fmt: skip
#: Layers that must stay whole, and a word of the reason.
WHOLE = {
    "shared parameters (siamese)": dict.fromkeys(("conv1", "conv1_p", "feat", "feat_p"), "shared"),
    "convolution of two bottoms": {"c1": "several bottoms share one weight"},
    "1x1 convolutions": {"p1": "1x1", "p2": "1x1"},
    "depthwise separable": {"dw": "depthwise", "pw": "1x1", "dw2": "depthwise"},
    "Deconvolution": {"up": "deconvolution is not decomposed"},
    "3-D convolution": {"c1": "not a plain 2-D convolution", "c2": "not a plain 2-D convolution"},
    "Embed": {"e": "embedding"},
    "LSTM": {"embed": "embedding", "lstm": "recurrent layer"},
    "RNN": {"rnn": "recurrent layer"},
    "one name twice, another size in TRAIN": {"c1": "in another phase or stage"},
    "type of a forked Caffe": {"warp": "unknown layer type", "c3": "layer 'warp' (SpatialTransformer)"},
    "param name of one layer": {},
    "groups": {},
    "non-square": {},
    "dilated": {},
}


@pytest.fixture(scope="module")
def caffe():
    """One process for all networks of this file."""
    with CaffeExecutor(1, 1) as executor:
        yield executor


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_full_rank_is_the_original(caffe: CaffeExecutor, tmp_path: Path, case) -> None:
    row = networks.check(case, tmp_path / "net", caffe)
    if case.foreign:
        assert row.error is None, row.worst
    else:
        assert row.error <= 1e-4, row.worst
    if case.name in WHOLE:
        assert row.whole.keys() == WHOLE[case.name].keys()
        assert all(word in row.whole[name] for name, word in WHOLE[case.name].items())
    assert (row.opencv == "yes") == (case.name not in OPENCV_CANNOT), row.opencv


@pytest.mark.parametrize("case", networks.FORKS, ids=lambda c: c.name)
def test_what_stock_caffe_has_of_a_fork_is_the_original(caffe: CaffeExecutor, tmp_path: Path, case) -> None:
    row = networks.check_fork(case, tmp_path / "net", caffe)
    assert row.error <= 1e-4, row.worst
    assert row.decomposed >= 1 and 0 < row.reach <= 1
    # Whatever stock Caffe has was loaded, and what it has not was said.
    assert row.opens == "both files whole" or row.opens.startswith("stock Caffe loaded")


def test_the_names_here_are_names_of_cases() -> None:
    names = {case.name for case in networks.FAMILIES}
    assert len(names) == len(networks.FAMILIES) >= 30
    assert names >= OPENCV_CANNOT and WHOLE.keys() <= names


def test_the_table_says_what_was_found() -> None:
    whole = {
        "a": "1x1 convolution",
        "b": "its weights are shared with layer 'c' (param { name })",
        "c": "its weights are shared with layer 'b' (param { name })",
    }
    rows = [networks.Row("x", 3, whole, 1.26e-6, "c2", "yes"), networks.Row("y", 0, {}, None, "", "no: its reason")]
    assert networks.table(rows).splitlines()[2:] == [
        "| x | 3 | `a`: 1x1 convolution; `b`, `c`: its weights are shared (param { name }) | 1.3e-06 | yes |",
        "| y | 0 | none | not run | no: its reason |",
    ]


def test_the_table_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "networks.md"
    path.write_text("# Networks\n\n<!-- table -->\nold\n<!-- end of table -->\n\nMore.\n")
    networks.write_table(path, "new")
    assert path.read_text() == "# Networks\n\n<!-- table -->\nnew\n<!-- end of table -->\n\nMore.\n"
    networks.write_table(tmp_path / "plain.md", "new")
    assert (tmp_path / "plain.md").read_text() == "new\n"


def emission(folder: Path, name: str, ranks: dict[str, int], **how) -> list[str]:
    """Flags of ``emit`` for a family's network with weights of ones."""
    model, weights = folder / "n.prototxt", folder / "n.caffemodel"
    model.write_text(next(c for c in networks.FAMILIES if c.name == name).text)
    with open(weights, "wb") as handle:
        layers = load(model, **how).network.weighted
        write_caffemodel(
            handle, "n", (layer_record(x.name, x.type, [np.ones(s) for s in expected_shapes(x)]) for x in layers)
        )
    write_plan(folder / "ranks.json", Plan("", {n: Form("", (r,)) for n, r in ranks.items()}), 1)
    given = {"model": model, "weights": weights, "ranks": folder / "ranks.json", "out": folder / "out"}
    return [word for flag, path in given.items() for word in (f"--{flag}", str(path))]


def test_emit_takes_stages_and_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = emission(tmp_path, "stage and level", {"c1": 2, "wide": 3}, level=1, stages=("serve",))
    assert main(["inspect", *flags[:2], "--level", "1", "--stage", "serve"]) == 0
    assert "wide" in capsys.readouterr().out
    assert main(["emit", *flags, "--level", "1", "--stage", "serve"]) == 0
    assert "no data layer or loss was added" not in capsys.readouterr().out
    out = tmp_path / "out"
    train_val, solver = read_net(out / "train_val.prototxt"), read_solver(out / "solver.prototxt")
    assert not train_val.HasField("state")
    assert {"c1_v", "c1_h", "wide_v", "wide_h", "narrow", "drop", "loss", "prob"} <= {x.name for x in train_val.layer}
    assert [(s.level, list(s.stage)) for s in solver.test_state] == [(1, ["serve"])]
    deploy = [x.name for x in read_net(out / "deploy.prototxt").layer]
    assert deploy == ["data", "c1_v", "c1_h", "wide_v", "wide_h", "gap", "fc", "prob"]
    assert main(["inspect", *flags[:2]]) != 0
    assert "--stage score, which chooses layer 'data'" in capsys.readouterr().err


def test_emit_says_why_a_network_cannot_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emit", *emission(tmp_path, "input and input_dim", {"c1": 2})]) == 0
    assert (
        "no data layer or loss was added: network 'n' has no SoftmaxWithLoss, Accuracy or Softmax layer"
        in capsys.readouterr().out
    )
    layers = read_net(tmp_path / "out" / "train_val.prototxt").layer
    assert [x.name for x in layers] == ["input", "c1_v", "c1_h", "c2"]


def images(folder: Path, channels: int = 3, largest: int = 255) -> Path:
    """An LMDB of 20 random images of 20 x 18, each with label 0."""
    pixels = np.random.default_rng(channels).integers(0, largest + 1, (20, channels, 20, 18)).astype(np.uint8)
    write_lmdb(folder, array_records(pixels, np.zeros(20, int)))
    return folder


def written(
    folder: Path, text: str, shapes: Optional[dict[str, tuple[int, ...]]] = None, more: Sequence[tuple[str, str, tuple[int, ...]]] = ()
) -> list[str]:  # fmt: skip
    """``--model`` and ``--weights`` of a network with random weights; ``more`` are layers that are not decomposed: name, type and
    shape."""
    model, weights, rng = folder / "n.prototxt", folder / "n.caffemodel", np.random.default_rng(0)
    model.write_text(text)
    with open(weights, "wb") as handle:
        layers = load(model, input_shape=(3, 20, 18), input_shapes=shapes).network.weighted
        records = [
            layer_record(x.name, x.type, [0.1 * rng.standard_normal(s, np.float32) for s in expected_shapes(x)])
            for x in layers
        ]
        records += [layer_record(name, kind, [0.1 * rng.standard_normal(s, np.float32)]) for name, kind, s in more]
        write_caffemodel(handle, "n", records)
    return ["--model", str(model), "--weights", str(weights)]


def test_a_second_source_keeps_its_size_and_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Maps of one channel for images of three: both were taken to be of the images' size, and to come from the images' LMDB.
    maps = images(tmp_path / "maps", 1, 4)
    enlarging = ("up", "Deconvolution", (5, 5, 4, 4))
    flags = written(tmp_path, SEGMENTATION.replace('"labels"', f'"{maps}"'), more=[enlarging])
    lmdb = ["--lmdb", str(images(tmp_path / "images"))]
    assert load(tmp_path / "n.prototxt", tmp_path / "images").network.shape_of("label") == (8, 1, 20, 18)
    out = tmp_path / "out"
    assert main(["compress", *flags, *lmdb, "--target_flops", "0.7", "--train_lmdb", lmdb[1], "--store", str(tmp_path / "s"),
                 "--out", str(out)]) == 0  # fmt: skip
    # The images' labels are none of the network's: an accuracy by them would be a number about nothing.
    assert "no accuracy" in capsys.readouterr().out
    sources = [x.data_param.source for x in read_net(out / "train_val.prototxt").layer[:2]]
    assert sources == [lmdb[1], str(maps)]
    assert main(["evaluate", *flags, *lmdb]) == 1
    assert "has class scores of (8, 5, 20, 18) (N, C, ...) in 'crop', one set for each place" in capsys.readouterr().err
    tuned = [
        "--solver",
        str(out / "solver.prototxt"),
        "--weights",
        str(out / "compressed.caffemodel"),
        "--max_iter",
        "2",
    ]
    assert main(["finetune", *tuned, "--test_lmdb", lmdb[1], "--out", str(tmp_path / "tuned")]) == 0


def test_labels_from_another_source_are_not_those_of_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    data = 'layer { name: "%s" type: "Data" top: "%s" data_param { source: "none" batch_size: 4 backend: LMDB } }\n'
    text = data % ("data", "data") + data % ("label", "label")
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
    flags = written(tmp_path, text)
    assert main(["evaluate", *flags, "--lmdb", str(images(tmp_path / "images"))]) == 1
    assert "images have no labels for 'label'; an accuracy needs them" in capsys.readouterr().err


def test_labels_of_an_input_layer_are_no_second_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 4 dim: 3 dim: 20 dim: 18 } shape { dim: 4 } } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
    assert main(["evaluate", *written(tmp_path, text), "--lmdb", str(images(tmp_path / "images"))]) == 0
    assert "of 20 images" in capsys.readouterr().out


def test_two_layers_may_read_one_lmdb(tmp_path: Path) -> None:
    lmdb = images(tmp_path / "images")
    data = (
        f'layer {{ name: "%s" type: "Data" top: "%s" data_param {{ source: "{lmdb}" batch_size: 4 backend: LMDB }} }}\n'
    )
    text = data % ("data", "data") + data % ("target", "target")
    text += (
        'layer { name: "code" type: "InnerProduct" bottom: "data" top: "code" inner_product_param { num_output: 6 } }\n'
    )
    text += 'layer { name: "back" type: "InnerProduct" bottom: "code" top: "back" inner_product_param { num_output: 1080 } }\n'
    text += 'layer { name: "flat" type: "Flatten" bottom: "target" top: "flat" }\n'
    text += 'layer { name: "loss" type: "EuclideanLoss" bottom: "back" bottom: "flat" top: "loss" }\n'
    flags = [*written(tmp_path, text), "--lmdb", str(lmdb), "--fully_connected", "--store", str(tmp_path / "s")]
    assert main(["metrics", *flags, "--out", str(tmp_path / "m.json")]) == 0


@pytest.mark.parametrize("command", ["compress", "metrics", "evaluate"])
def test_one_of_several_inputs_is_not_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    # Caffe took zeros for the other one, and what was measured was the answer to zeros.
    text = 'layer { name: "%s" type: "Input" top: "%s" input_param { shape { dim: 4 dim: 3 dim: 20 dim: 18 } } }\n'
    text = text % ("left", "left") + text % ("right", "right")
    text += 'layer { name: "cat" type: "Concat" bottom: "left" bottom: "right" top: "cat" }\n'
    text += 'layer { name: "c1" type: "Convolution" bottom: "cat" top: "c1" convolution_param { num_output: 8 kernel_size: 3 } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "c1" top: "fc" inner_product_param { num_output: 5 } }\n'
    flags = written(tmp_path, text + 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n')
    more = {"compress": ["--target_flops", "0.7", "--out", "o"], "metrics": ["--out", "m.json"], "evaluate": []}[
        command
    ]
    more = [str(tmp_path / word) if word in ("o", "m.json") else word for word in more]
    assert main([command, *flags, "--lmdb", str(images(tmp_path / "images")), *more]) == 1
    error = capsys.readouterr().err
    assert (
        "the network has 2 inputs (left, right), and images are those of one; without images (--lmdb, --images, --distill, --quality max) it is compressed by its weights alone"
        in error
    )
    # That way it is compressed.
    if command == "compress":
        assert main(["compress", *flags, "--first_layer", "search", *more]) == 0
        said = capsys.readouterr().out
        # To be trained by the original's outputs it would need images of one input.
        assert "; to train it, give train_val.prototxt data layers" in said and "--distill" not in said
        deploy = read_net(tmp_path / "o" / "deploy.prototxt").layer
        assert [x.top[0] for x in deploy if x.type == "Input"] == ["left", "right"]
        assert main(["compress", *flags, "--test_lmdb", str(tmp_path / "images"), *more, "--force"]) == 1
    if command == "metrics":
        assert main(["metrics", *flags, "--out", str(tmp_path / "m.json")]) == 0
        ranks = str(tmp_path / "r.json")
        assert (
            main(
                ["search", str(tmp_path / "m.json"), "--target_flops", "0.7", "--first_layer", "search", "--out", ranks]
            )
            == 0
        )
        assert main(["emit", *flags, "--ranks", ranks, "--out", str(tmp_path / "out")]) == 0
        # Nor can it be distilled by images of one input.
        solver = ["--solver", str(tmp_path / "out" / "solver.prototxt"), "--out", str(tmp_path / "tuned")]
        assert main(["finetune", *solver]) == 1
        assert (
            capsys.readouterr().err.splitlines()[-1]
            == "give a train_val.prototxt with data layers and a loss as --model"
        )


def test_finetune_takes_shapes_that_no_image_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'layer { name: "d" type: "HDF5Data" top: "x" top: "label" hdf5_data_param { source: "/nowhere" batch_size: 4 } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
    shapes = {"x": (4, 7), "label": (4,)}
    flags = written(tmp_path, text, shapes)
    (tmp_path / "solver.prototxt").write_text(f'net: "{flags[1]}" base_lr: 0.1 lr_policy: "fixed" max_iter: 2\n')
    command = ["finetune", "--solver", str(tmp_path / "solver.prototxt"), *flags, "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "does not say how large its images are" in capsys.readouterr().err
    # With them Caffe is asked, and has its own words about the file.
    assert main([*command, *(f"--top_shape={t}={','.join(map(str, s))}" for t, s in shapes.items())]) == 1
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize(
    ("param", "words"),
    [("kernel_size: 3 group: 0", "group is 0"), ("kernel_size: 3 group: 2", "must be multiples of group 2"),
     ("kernel_size: 3 stride: 0", "must be at least 1"), ("kernel_size: 0", "must be at least 1"),
     ("kernel_h: 3 kernel_w: 3 dilation: 0", "must be at least 1")],
)  # fmt: skip
def test_convolutions_that_caffe_cannot_make(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, param: str, words: str) -> None:  # fmt: skip
    text = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }\n'
    text += (
        f'layer {{ name: "c" type: "{kind}" bottom: "data" top: "c" convolution_param {{ num_output: 4 {param} }} }}\n'
    )
    (tmp_path / "n.prototxt").write_text(text)
    assert main(["inspect", "--model", str(tmp_path / "n.prototxt")]) == 1
    assert f"layer 'c' ({kind})" in (error := capsys.readouterr().err) and words in error


def test_what_stock_caffe_computes_on_gpus_alone_is_named_before_it_aborts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lmdb = images(tmp_path / "images")
    text = f'layer {{ name: "data" type: "Data" top: "data" top: "label" data_param {{ source: "{lmdb}" batch_size: 4 backend: LMDB }} }}\n'
    text += 'layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 8 kernel_size: 3 } }\n'
    text += 'layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 } }\n'
    text += 'layer { name: "c2" type: "Convolution" bottom: "p1" top: "c2" convolution_param { num_output: 8 kernel_size: 3 } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "c2" top: "fc" inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
    flags, given = written(tmp_path, text), ["--lmdb", str(lmdb)]
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        'net: "n.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "s" test_iter: 1 test_interval: 2\n'
    )
    out, store = ["--out", str(tmp_path / "o")], ["--store", str(tmp_path / "s")]
    for command in (
        ["evaluate", *flags, *given], ["metrics", *flags, *given, *out, *store], ["compress", *flags, *given, *out, *store, "--target_flops", "0.8"],
        ["finetune", "--solver", str(solver), *out], ["doctor", *flags[:2]],
    ):  # fmt: skip
        assert main(command) == 1
        error = capsys.readouterr().err
        assert (
            f"{flags[1]}: layer 'p1': stock Caffe has code for pool: STOCHASTIC on GPUs alone, none on the CPU" in error
        )
        # doctor has no such flag
        assert ("--gpu" in error) == (command[0] != "doctor") and "Not Implemented" not in error
    # Each layer is timed by itself, and what runs none takes it as it is.
    metrics, ranks, emitted = str(tmp_path / "m.json"), str(tmp_path / "r.json"), str(tmp_path / "e")
    assert main(["metrics", *flags, "--out", metrics]) == 0
    assert main(["search", metrics, "--target_flops", "0.7", "--first_layer", "search", "--out", ranks]) == 0
    assert main(["emit", *flags, "--ranks", ranks, "--out", emitted]) == 0
    assert (
        main(["latency", *flags[:2], "--rounds", "6", "--ranks", "2", *store, "--out", str(tmp_path / "l.json")]) == 0
    )
    error = capsys.readouterr().err
    assert (
        "layer 'p1': stock Caffe has code for pool: STOCHASTIC on GPUs alone" in error
        and "the network was not timed" in error
    )


def test_a_target_that_shared_weights_forbid_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recurrent convolution, unrolled: neither more schemes nor lower ranks would reach it."""
    shared = 'layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" param { name: "w" } convolution_param { num_output: 8 kernel_size: 3 pad: 1 bias_term: false } }\n'
    text = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 20 dim: 18 } } }\n'
    text += 'layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }\n'
    text += "".join(shared % (f"r{i + 1}", below, f"r{i + 1}") for i, below in enumerate(("c1", "r1", "r2")))
    text += 'layer { name: "c2" type: "Convolution" bottom: "r3" top: "c2" convolution_param { num_output: 8 kernel_size: 3 stride: 2 } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "c2" top: "fc" inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
    flags = [*written(tmp_path, text), "--lmdb", str(images(tmp_path / "images")), "--store", str(tmp_path / "s")]
    for more in ([], ["--quality", "best"]):
        assert main(["compress", *flags, *more, "--target_flops", "0.5", "--out", str(tmp_path / "o")]) == 1
        first, second = capsys.readouterr().err.splitlines()[-2:]
        assert "target 0.5000 of the MACs cannot be reached" in first
        assert (
            "of the MACs is in 3 layers that no flag decomposes, most in 'r1': its weights are shared with layer 'r2'"
            in second
        )


def test_labels_that_a_fork_trains_by_are_no_second_input_of_what_is_measured(tmp_path: Path) -> None:
    """SphereFace's last layer has weights and reads labels: stock Caffe does not have it, and what comes before it reads none."""
    lmdb = images(tmp_path / "images")
    text = f'layer {{ name: "data" type: "Data" top: "data" top: "label" data_param {{ source: "{lmdb}" batch_size: 4 backend: LMDB }} }}\n'
    text += 'layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 8 kernel_size: 3 } }\n'
    text += 'layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 8 kernel_size: 3 } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "c2" top: "fc" inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "far" type: "MarginInnerProduct" bottom: "fc" bottom: "label" top: "far" margin_inner_product_param { num_output: 5 } }\n'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "far" bottom: "label" top: "loss" }\n'
    out = tmp_path / "o"
    assert main(["compress", *written(tmp_path, text), "--lmdb", str(lmdb), "--quality", "best", "--refine", "0", "--target_flops", "0.7",
                 "--store", str(tmp_path / "s"), "--out", str(out)]) == 0  # fmt: skip
    assert 'type: "MarginInnerProduct" bottom: "fc" bottom: "label"' in (out / "train_val.prototxt").read_text()
