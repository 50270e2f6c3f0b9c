"""A network, its caffemodel and its images, held against each other before anything runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.errors import DatasetError, NetworkError, WeightsError
from enc_caffe.installation import TYPES
from enc_caffe.measuring.evaluate import evaluate, scores_lines
from enc_caffe.measuring.images import look_at
from enc_caffe.measuring.subject import subject
from enc_caffe.workers.executor import CaffeExecutor
from tests.measuring import nets

pytestmark = pytest.mark.caffe
TEXT = 'name: "n"\ninput: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n' + nets.conv("c", "data", 4)


def test_blobs_that_stock_caffe_would_abort_on_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BatchNorm of NVIDIA's Caffe has scale and bias of its own: five blobs in place of three."""
    text = TEXT + nets.simple("bn", "BatchNorm", "c")
    model, weights = nets.write_net(tmp_path, text)
    nets.write_images(tmp_path / "lmdb", 3)

    def looked() -> int:
        return look_at(read_net(model), str(model), weights, tmp_path / "lmdb", any_output=True).images

    assert looked() == 3
    records = [bytes(CaffeModel(weights).record(layer)) for layer in CaffeModel(weights) if layer.name != "bn"]
    with open(weights, "wb") as handle:
        write_caffemodel(
            handle, "n", [*records, layer_record("bn", "BatchNorm", [np.ones(4)] * 2 + [np.ones(1)] + [np.ones(4)] * 2)]
        )
    with pytest.raises(
        WeightsError, match="layer 'bn' has 5 blobs, stock Caffe needs 3; --caffe_root DIR runs a Caffe that takes it"
    ):
        looked()
    # Which blobs another Caffe has is its own affair.
    monkeypatch.setenv(TYPES, "Convolution,BatchNorm")
    assert looked() == 3


DATA = 'layer {{ name: "{0}" type: "Data" {1} data_param {{ source: "none" batch_size: 4 backend: LMDB }} }}\n'
IMAGES = DATA.format("data", 'top: "data" top: "label"')


@pytest.mark.parametrize(
    "layers, why",
    [
        (IMAGES, ""),
        (IMAGES + nets.simple("rows", "Reshape", "label", "mark", "reshape_param { shape { dim: -1 dim: 1 } }"), ""),
        (DATA.format("data", 'top: "data"') + DATA.format("marks", 'top: "mark"'), "labels 'mark' are read by layer 'marks', not"),
        (
            DATA.format("data", 'top: "data"') + DATA.format("marks", 'top: "rows"')
            + 'layer { name: "parted" type: "Slice" bottom: "rows" top: "other" top: "mark" slice_param { axis: 1 slice_point: 1 } }\n',
            "labels 'mark' are made by layer 'parted' (Slice), not",
        ),
        (IMAGES + nets.simple("fewer", "Power", "label", "mark", "power_param { scale: 0.5 }"), "labels 'mark' are made by layer 'fewer' (Power), not"),
    ],
    ids=["own", "own, as rows", "another layer", "a part of others", "computed"],
)  # fmt: skip
def test_labels_that_are_not_those_of_the_images(tmp_path: Path, layers: str, why: str) -> None:
    label = "mark" if '"mark"' in layers else "label"
    loss = f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "{label}" top: "loss" }}\n'
    model, weights = nets.write_net(tmp_path, layers + nets.conv("c", "data", 4) + nets.TAIL.format(last="c") + loss)
    nets.write_images(tmp_path / "lmdb", 5)
    look = look_at(read_net(model), str(model), weights, tmp_path / "lmdb", any_output=True)
    assert look.labelled == (not why)
    assert look.elsewhere.startswith(why) and bool(look.elsewhere) == bool(why)


def test_labels_that_an_accuracy_leaves_out_are_said(tmp_path: Path) -> None:
    accuracy = 'layer { name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "acc" accuracy_param { ignore_label: 3 } }\n'
    model, weights = nets.write_net(
        tmp_path, IMAGES + nets.conv("c", "data", 4) + nets.TAIL.format(last="c") + accuracy
    )
    pixels = np.zeros((5, 3, 12, 12), np.uint8)
    for name, labels, words in (("some", [3, 1, 3, 2, 0], "which 2 of 5 images have"), ("none", [0, 1, 2, 1, 4], "")):
        write_lmdb(tmp_path / name, from_arrays(pixels, np.array(labels))[1])
        lines = scores_lines(look_at(read_net(model), str(model), weights, tmp_path / name))
        assert [words in line and "layer 'acc' leaves out label 3" in line for line in lines] == (
            [True] if words else []
        )


def test_numbers_that_depend_on_the_batch_are_said(tmp_path: Path) -> None:
    own = nets.simple("bn", "BatchNorm", "c", extra="batch_norm_param { use_global_stats: %s }")
    lines: dict[str, list[str]] = {}
    lmdb = nets.write_images(tmp_path / "lmdb", 6)
    for kept in ("true", "false"):
        text = IMAGES + nets.conv("c", "data", 4) + own % kept + nets.TAIL.format(last="c") + nets.LOSS
        model, weights = nets.write_net(tmp_path / kept, text)
        lines[kept] = []
        evaluate(model, weights, lmdb, workers=1, notice=lines[kept].append)
    assert not any("own statistics" in line for line in lines["true"])
    assert lines["false"][0].startswith("layer 'bn' takes the batch's own statistics")


def test_layers_that_drop_at_random_in_tests_are_said_and_not_measured(tmp_path: Path) -> None:
    """A Dropout with a phase: TRAIN of its own: an evaluation differs from run to run, and what compares two of them is refused."""
    dropout = nets.simple("drop", "Dropout", "c", extra="phase: TRAIN")
    text = IMAGES + nets.conv("c", "data", 4) + dropout + nets.TAIL.format(last="c") + nets.LOSS
    model, weights = nets.write_net(tmp_path, text)
    lmdb, lines = nets.write_images(tmp_path / "lmdb", 6), list[str]()
    evaluate(model, weights, lmdb, workers=1, notice=lines.append)
    assert lines[0].startswith("layer 'drop' (Dropout) has a phase: TRAIN of its own")
    with CaffeExecutor(1) as executor, pytest.raises(NetworkError, match="layer 'drop' .* measurements must repeat"):
        subject(read_net(model), str(model), weights, lmdb, 1000, executor)


def test_a_batch_norm_that_uses_the_batch_is_not_held_against_what_it_remembers(tmp_path: Path) -> None:
    lmdb = nets.write_images(tmp_path / "lmdb", 6)
    words = {}
    for phase in ("TEST", "TRAIN"):
        own = nets.simple("bn", "BatchNorm", "c", extra=f"phase: {phase}")
        text = IMAGES + nets.conv("c", "data", 4) + own + nets.TAIL.format(last="c") + nets.LOSS
        model, weights = nets.write_net(tmp_path / phase, text)
        lines: list[str] = []
        evaluate(model, weights, lmdb, workers=1, notice=lines.append)
        words[phase] = " ".join(lines)
    assert "BatchNorm layer 'bn' have" in words["TEST"]
    assert "BatchNorm layer 'bn' have" not in words["TRAIN"]


def test_a_network_that_makes_its_own_values_reads_no_images(tmp_path: Path) -> None:
    data = 'layer { name: "noise" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } } }\n'
    model, weights = nets.write_net(tmp_path, data + nets.conv("c", "data", 4))
    nets.write_images(tmp_path / "lmdb", 3)
    with pytest.raises(
        DatasetError,
        match=r"no layer that reads images, and layer 'noise' \(DummyData\) makes values .* deploy prototxt",
    ):
        look_at(read_net(model), str(model), weights, tmp_path / "lmdb", any_output=True)


def test_sizes_of_images_are_blamed_where_they_may_be_wrong(tmp_path: Path) -> None:
    body = (
        nets.conv("c", "data", 4)
        + 'layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc" inner_product_param { num_output: 5 } }\n'
    )
    model, weights = nets.write_net(tmp_path, IMAGES + body + nets.LOSS)
    write_lmdb(tmp_path / "lmdb", from_arrays(np.zeros((3, 3, 10, 10), np.uint8), None)[1])
    with pytest.raises(
        WeightsError, match=r"a blob of shape \(5, 576\), the prototxt needs \(5, 400\); with images of \(3, 10, 10\)"
    ):
        look_at(read_net(model), str(model), weights, tmp_path / "lmdb", any_output=True)
    model.write_text(model.read_text().replace('"c"', '"other"'))
    with pytest.raises(
        WeightsError,
        match="layer 'other' of the prototxt is not in the caffemodel; call it as it is called there, or give [^;]* the prototxt$",
    ):
        look_at(read_net(model), str(model), weights, tmp_path / "lmdb", any_output=True)


def test_a_network_without_class_scores_says_what_can_be_had_of_it(tmp_path: Path) -> None:
    loss = 'layer { name: "far" type: "EuclideanLoss" bottom: "fc" bottom: "label" top: "far" }\n'
    model, weights = nets.write_net(tmp_path / "my nets", nets.grouped(loss))
    images = tmp_path / "images"
    write_lmdb(images, from_arrays(np.zeros((4, 3, 12, 12), np.uint8), np.zeros(4, int))[1])
    with pytest.raises(
        NetworkError,
        match=f"(?s)cannot be found.caffe test -model '{model}' -weights '{weights}' says its loss 'far'; metrics and",
    ):
        look_at(read_net(model), str(model), weights, images)
