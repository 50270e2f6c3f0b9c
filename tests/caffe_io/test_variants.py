"""The prototxts that are emitted: what inference keeps of a training network, and what training adds to a deploy network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

import pytest

from enc_caffe.caffe_io.describe import describe, set_state
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.scores import find_scores
from enc_caffe.caffe_io.variants import (
    check_one_input,
    deploy_net,
    outputs_without_loss,
    solver_param,
    train_val_net,
    train_val_or_same,
)
from enc_caffe.errors import NetworkError

pytestmark = pytest.mark.caffe
LMDB = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "x" batch_size: 8 } }\n'
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'
SHAPES = {"data": (8, 3, 8, 8), "label": (8,)}


def layer(name: str, kind: str, bottoms: str, param: str = "", top: str = "") -> str:
    """One layer."""
    lines = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {lines} top: "{top or name}" {param} }}\n'


def fc(name: str, bottom: str, outputs: int = 5) -> str:
    """A fully connected layer."""
    return layer(name, "InnerProduct", bottom, f"inner_product_param {{ num_output: {outputs} }}")


def conv(name: str, bottom: str, outputs: int = 5) -> str:
    """A 3x3 convolution."""
    return layer(name, "Convolution", bottom, f"convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1 }}")


def read(folder: Path, text: str, shapes: Optional[dict[str, tuple[int, ...]]] = None) -> tuple[Any, Any]:
    """NetParameter and description of a prototxt."""
    (folder / "n.prototxt").write_text(text)
    net = read_net(folder / "n.prototxt")
    return net, describe(net, None, "n.prototxt", shapes)


def deployed(folder: Path, text: str, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Any]:
    """Layers of the deploy network by name."""
    return {x.name: x for x in deploy_net(*read(folder, text, shapes)).layer}


def test_prob_is_the_last_loss_and_not_an_auxiliary_one(tmp_path: Path) -> None:
    text = LMDB + conv("c", "data") + fc("aux", "c") + layer("loss1", "SoftmaxWithLoss", "aux label") + fc("main", "c")
    made = deployed(
        tmp_path, text + layer("loss2", "SoftmaxWithLoss", "main label") + layer("top1", "Accuracy", "main label")
    )
    assert list(made) == ["data", "c", "aux", "main", "prob"]
    assert list(made["prob"].bottom) == ["main"]


def silence(*bottoms: str) -> str:
    """A layer that reads blobs and makes none."""
    return layer("quiet", "Silence", " ".join(bottoms)).replace('top: "quiet"', "")


def test_what_is_silenced_is_no_output(tmp_path: Path) -> None:
    text = (
        LMDB + conv("c", "data") + conv("side", "c") + fc("main", "c") + layer("loss", "SoftmaxWithLoss", "main label")
    )
    made = deployed(tmp_path, text + silence("label", "side"))
    assert list(made) == ["data", "c", "side", "main", "prob", "quiet"]
    # The labels are gone, so only the rest of what it read is read.
    assert list(made["quiet"].bottom) == ["side"]
    assert "quiet" not in deployed(tmp_path, text + silence("label"))


def test_an_input_is_not_called_as_a_layer_with_weights(tmp_path: Path) -> None:
    """A BatchNorm named after the blob that it normalises, behind a data layer of another name."""
    text = (
        LMDB.replace('name: "data"', 'name: "source"')
        + layer("data", "BatchNorm", "data", top="normed")
        + layer("data_input", "ReLU", "normed", top="normed")
    )
    made = deployed(tmp_path, text + fc("main", "normed") + layer("loss", "SoftmaxWithLoss", "main label"))
    assert list(made) == ["data_input_", "data", "data_input", "main", "prob"]
    assert list(made["data_input_"].top) == ["data"] and made["data"].type == "BatchNorm"
    # Nor is a data layer that takes its place for a training.
    net, network = read(
        tmp_path,
        INPUT.replace('name: "data"', 'name: "source"')
        + conv("data", "data")
        + layer("p", "Pooling", "data", "pooling_param { global_pooling: true }")
        + fc("main", "p")
        + layer("prob", "Softmax", "main"),
    )
    layers = train_val_net(net, network, None, None).layer
    assert [x.name for x in layers if x.type == "Data"] == ["data_input"] * 2 and "data" in {x.name for x in layers}


def test_what_a_data_layer_gives_to_the_network_is_kept(tmp_path: Path) -> None:
    data = 'layer { name: "d" type: "HDF5Data" top: "x" top: "side" top: "label" hdf5_data_param { source: "l" batch_size: 4 } }\n'
    text = (
        data
        + fc("f", "x")
        + layer("cat", "Concat", "f side")
        + fc("g", "cat")
        + layer("loss", "SoftmaxWithLoss", "g label")
    )
    made = deployed(tmp_path, text, {"x": (4, 6), "side": (4, 2), "label": (4,)})
    assert list(made) == ["x", "side", "f", "cat", "g", "prob"]
    assert list(made["side"].input_param.shape[0].dim) == [1, 2]


@pytest.mark.parametrize(
    ("first", "rest", "named"),
    [
        # labels of another source come before the images, as they are or in parts
        (layer("lab", "Data", "", 'data_param { source: "l" batch_size: 8 }', "label"), "", "label"),
        (
            layer("lab", "Data", "", 'data_param { source: "l" batch_size: 8 }', "rows"),
            layer("label", "Slice", "rows", "slice_param { slice_point: 1 }").replace(
                'top: "label"', 'top: "label" top: "rest"'
            )
            + 'layer { name: "s" type: "Silence" bottom: "rest" }\n',
            "rows",
        ),
        (
            layer("lab", "HDF5Data", "", 'hdf5_data_param { source: "l" batch_size: 8 }', 'label" top: "more'),
            "",
            "label",
        ),
    ],
)
def test_labels_may_come_before_the_images(tmp_path: Path, first: str, rest: str, named: str) -> None:
    images = layer("data", "Data", "", 'data_param { source: "x" batch_size: 8 }')
    text = (
        first + images + rest + conv("c", "data") + fc("score", "c") + layer("loss", "SoftmaxWithLoss", "score label")
    )
    shapes = {"data": (8, 3, 8, 8), "label": (8,), "more": (8, 2), "rows": (8, 2, 1, 1)}
    assert list(deployed(tmp_path, text, shapes)) == ["data", "c", "score", "prob"]
    # Whatever looks at images would put them in the labels' place.
    words = f"n.prototxt: .* no layer with weights sees those of layer 'lab' \\('{named}'\\); write the one that brings 'data' before it"
    with pytest.raises(NetworkError, match=words):
        check_one_input(*read(tmp_path, text, shapes), "n.prototxt")
    check_one_input(
        *read(tmp_path, images + first + rest + text.replace(images, "").replace(first + rest, ""), shapes), "n"
    )


def test_what_is_made_of_labels_alone_goes_with_them(tmp_path: Path) -> None:
    cut = 'layer { name: "cut" type: "Slice" bottom: "label" top: "l1" top: "l2" slice_param { axis: 1 } }\n'
    text = LMDB + cut + fc("f", "data", 1) + fc("g", "data", 1)
    text += layer("e1", "EuclideanLoss", "f l1") + layer("e2", "EuclideanLoss", "g l2")
    assert list(deployed(tmp_path, text, {"data": (8, 3, 8, 8), "label": (8, 2)})) == ["data", "f", "g"]


def test_an_output_may_be_made_anew_in_place(tmp_path: Path) -> None:
    """A regression that ends in an activation in place: its last blob is read, and made again, by one layer."""
    _, network = read(tmp_path, INPUT + conv("c", "data", 4) + layer("r", "Sigmoid", "c", top="c"))
    scores = find_scores(network, any_output=True)
    assert (scores.scores, scores.classes, scores.softmax) == ("c", 4 * 8 * 8, False)


def test_maps_of_labels_that_a_fork_shrinks_go_with_them(tmp_path: Path) -> None:
    """DeepLab's: the label is a map, and layers of the fork bring it to the scores' size and count."""
    text = 'layer { name: "in" type: "ImageSegData" top: "data" top: "label" transform_param { crop_size: 8 } }\n'
    text += conv("c", "data") + layer("small", "Interp", "label", "interp_param { shrink_factor: 2 }")
    text += layer("loss", "SoftmaxWithLoss", "c small") + layer("hits", "SegAccuracy", "c small")
    shapes = {"data": (8, 3, 8, 8), "label": (8, 1, 8, 8)}
    assert list(deployed(tmp_path, text, shapes)) == ["data", "c", "prob"]
    # What the network itself reads is no label.
    text += layer("both", "Interp", "label", "interp_param { shrink_factor: 1 }") + layer("cat", "Concat", "both c")
    assert "label" in deployed(tmp_path, text, shapes)


def test_a_loss_without_labels_becomes_its_output(tmp_path: Path) -> None:
    text = (
        LMDB.replace(' top: "label"', "")
        + layer("flat", "Flatten", "data")
        + fc("code", "flat", 3)
        + fc("back", "code", 192)
    )
    text += layer("loss", "SigmoidCrossEntropyLoss", "back flat")
    made = deployed(tmp_path, text, {"data": (8, 3, 8, 8)})
    assert list(made) == ["data", "flat", "code", "back", "prob"] and made["prob"].type == "Sigmoid"


def test_recurrent_inputs_keep_their_steps(tmp_path: Path) -> None:
    data = 'layer { name: "d" type: "HDF5Data" top: "x" top: "cont" top: "label" hdf5_data_param { source: "l" batch_size: 4 } }\n'
    text = data + layer("lstm", "LSTM", "x cont", "recurrent_param { num_output: 5 }")
    text += layer("loss", "SoftmaxWithLoss", "lstm label", "softmax_param { axis: 2 }")
    made = deployed(tmp_path, text, {"x": (4, 2, 6), "cont": (4, 2), "label": (4, 2)})
    assert list(made) == ["x", "cont", "lstm", "prob"]
    assert list(made["x"].input_param.shape[0].dim) == [4, 2, 6]
    assert made["prob"].softmax_param.axis == 2


def test_a_softmax_inside_the_network_gives_no_class_scores(tmp_path: Path) -> None:
    text = (
        INPUT
        + conv("c", "data")
        + layer("att", "Softmax", "c")
        + layer("gated", "Eltwise", "c att")
        + fc("fc", "gated")
    )
    net, network = read(tmp_path, text + layer("prob", "Softmax", "fc"))
    assert find_scores(network).scores == "fc"
    made, why = train_val_or_same(net, network, None, None)
    assert not why and [x.name for x in made.layer if x.type == "Softmax"] == ["att"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (fc("fc", "data"), "has no SoftmaxWithLoss, Accuracy or Softmax layer"),
        (conv("c", "data") + layer("prob", "Softmax", "c"), r"has class scores of \(2, 5, 8, 8\) \(N, C, ...\)"),
        # Boxes of places, which a layer that Caffe does not have brings behind each other: (N, boxes, C), or none knows what.
        (
            conv("c", "data", 10) + layer("w", "MyPermute", "c") + layer("prob", "Softmax", "w"),
            "in 'w', whose shape is not known",
        ),
        (
            conv("c", "data", 10)
            + layer("w", "Permute", "c", "permute_param { order: 0 order: 2 order: 3 order: 1 }")
            + layer("b", "Reshape", "w", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }")
            + layer("prob", "Softmax", "b", "softmax_param { axis: 2 }"),
            r"has class scores of \(2, 320, 2\) \(N, C, ...\)",
        ),
        # As many sets of scores as there are boxes, for two images.
        (
            conv("c", "data", 10)
            + layer("b", "Reshape", "c", "reshape_param { shape { dim: -1 dim: 2 } }")
            + layer("prob", "Softmax", "b"),
            r"of \(640, 2\) \(N, C, ...\) in 'b', and that many sets are not those of its images",
        ),
        (
            INPUT.replace('"data"', '"more"') + fc("fc", "data") + layer("prob", "Softmax", "fc"),
            r"'' has 2 inputs \(data, more\)",
        ),
        # Labels by an Input layer, as pycaffe's users feed them.
        (
            INPUT.replace('"data"', '"label"').replace("dim: 3 dim: 8 dim: 8", "")
            + fc("fc", "data")
            + layer("l", "SoftmaxWithLoss", "fc label"),
            r"has a loss of its own, layer 'l' \(SoftmaxWithLoss\), and 2 inputs \(data, label\)",
        ),
        # A detector's, whose scores its last layer reads.
        (
            fc("fc", "data") + layer("sm", "Softmax", "fc") + layer("out", "DetectionOutput", "sm"),
            r"no Softmax at its end: what layer 'sm' \(Softmax\) makes goes on into layer 'out' \(DetectionOutput\); its class scores",
        ),
    ],
)
def test_a_network_that_cannot_be_trained_stays_as_it_is(tmp_path: Path, body: str, words: str) -> None:
    net, network = read(tmp_path, INPUT + body)
    same, why = train_val_or_same(net, network, None, None)
    assert same is net
    assert re.search(words, why)


def test_heads_that_the_new_loss_does_not_reach_are_named(tmp_path: Path) -> None:
    """A detector's boxes and landmarks beside its class scores, as of MTCNN; what has no weights of its own needs no loss."""
    trunk = (
        INPUT
        + conv("c", "data")
        + layer("r", "ReLU", "c", top="c")
        + fc("score", "c")
        + layer("prob", "Softmax", "score")
    )
    features, best = layer("features", "Flatten", "c"), layer("best", "ArgMax", "prob")
    heads = fc("box", "c", 4) + layer("squashed", "Sigmoid", "box", top="box") + fc("marks", "c", 10)
    for text, wanted in ((trunk, []), (trunk + features + best, []), (trunk + heads + features, ["box", "marks"])):
        assert outputs_without_loss(*read(tmp_path, text)) == wanted
    # The user's own train_val has the losses that they want.
    data = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "s" batch_size: 2 backend: LMDB } }\n'
    own = trunk.replace(INPUT, data) + heads + layer("loss", "SoftmaxWithLoss", "score label")
    assert outputs_without_loss(*read(tmp_path, own, {"data": (2, 3, 8, 8), "label": (2,)})) == []


def test_a_data_layer_of_a_test_stage_gets_the_test_images(tmp_path: Path) -> None:
    data = LMDB.replace("data_param", "include { %s } data_param")
    rules = ("phase: TRAIN", 'phase: TEST stage: "a"', 'phase: TEST stage: "b"')
    (tmp_path / "n.prototxt").write_text("".join(data % rule for rule in rules) + fc("fc", "data"))
    net = set_state(read_net(tmp_path / "n.prototxt"), None, ("b",))
    made = train_val_net(net, describe(net, None, "n.prototxt", SHAPES), Path("/train"), Path("/test"))
    assert [x.data_param.source for x in made.layer[:3]] == ["/train", "/test", "/test"]


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        # Maps that are always there, behind images of either phase.
        (("images TRAIN", "images TEST", "maps"), ["/train", "/test", "x"]),
        # Images that are always there, before maps of either phase.
        (("images", "maps TRAIN", "maps TEST"), ["/train", "x", "x"]),
        (("images TRAIN", "maps TRAIN", "images TEST", "maps TEST"), ["/train", "x", "/test", "x"]),
    ],
)
def test_only_the_first_source_of_a_phase_is_replaced(
    tmp_path: Path, layers: tuple[str, ...], wanted: list[str]
) -> None:
    text = ""
    for words in layers:
        name, _, phase = words.partition(" ")
        rule = f"include {{ phase: {phase} }}" if phase else ""
        top = {"images": 'top: "data"', "maps": 'top: "label"'}[name]
        text += f'layer {{ name: "{name}" type: "Data" {top} {rule} data_param {{ source: "x" batch_size: 8 }} }}\n'
    net, network = read(tmp_path, text + fc("fc", "data"), SHAPES)
    made = train_val_net(net, network, Path("/train"), Path("/test"))
    assert [x.data_param.source for x in made.layer[: len(layers)]] == wanted


def test_a_solver_keeps_its_states() -> None:
    original = caffe_pb2().SolverParameter(net="n", test_iter=[7, 9])
    for stage in ("a", "b"):
        original.test_state.add(stage=[stage])
    solver = solver_param(original, "new", "prefix", 5)
    assert [list(s.stage) for s in solver.test_state] == [["a"], ["b"]] and list(solver.test_iter) == [5, 5]
    assert list(solver_param(None, "new", "prefix", 5).test_iter) == [5]
