"""From prototxt to description: names, phases and stages, shared weights, outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.describe import describe, set_state
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.errors import NetworkError, PrototxtError
from enc_caffe.form import Form
from enc_caffe.network import Network

pytestmark = pytest.mark.caffe
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 16 dim: 14 } } }\n'


def conv(name: str, bottom: str, outputs: int = 8, more: str = "", top: str = "") -> str:
    """A 3x3 convolution."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top or name}" {more} '
        f"convolution_param {{ num_output: {outputs} kernel_size: 3 }} }}\n"
    )


def relu(name: str, blob: str) -> str:
    """A ReLU in place."""
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{blob}" top: "{blob}" }}\n'


def described(folder: Path, text: str, level: int = 0, stages: tuple[str, ...] = ()) -> Network:
    """Description of a prototxt."""
    (folder / "n.prototxt").write_text(text)
    return describe(set_state(read_net(folder / "n.prototxt"), level, stages), None, "n.prototxt")


def test_a_blob_that_is_made_anew_in_place_is_an_output(tmp_path: Path) -> None:
    text = DATA + conv("a", "data") + conv("b", "a") + relu("r", "b")
    assert described(tmp_path, text).outputs == ("b",)
    assert described(tmp_path, text + relu("s", "a")).outputs == ("b", "a")


def test_layers_without_weights_may_share_a_name(tmp_path: Path) -> None:
    text = DATA + conv("a", "data") + relu("act", "a") + conv("b", "a") + relu("act", "b")
    assert [x.name for x in described(tmp_path, text).layers] == ["data", "a", "act", "b", "act_2"]
    with pytest.raises(PrototxtError, match="layer 'a' stands twice in the TEST phase"):
        described(tmp_path, text + conv("a", "b"))


def test_a_shared_weight_names_the_other_layer(tmp_path: Path) -> None:
    mine, own = 'param { name: "w" }', 'param { name: "own" } param { name: "own_b" }'
    text = DATA + conv("a", "data", more=mine) + conv("a2", "data", more=mine) + conv("b", "a", more=own)
    network = described(tmp_path, text)
    assert network["a"].keep_reason == "its weights are shared with layer 'a2' (param { name })"
    assert network["a2"].keep_reason == "its weights are shared with layer 'a' (param { name })"
    assert network["b"].keep_reason == ""


def test_sharing_counts_in_every_phase(tmp_path: Path) -> None:
    other = conv("t", "data", more='param { name: "w" } include { phase: TRAIN }')
    network = described(tmp_path, DATA + conv("a", "data", more='param { name: "w" }') + other)
    assert "shared with layer 't'" in network["a"].keep_reason


def test_a_name_of_one_layer_does_not_tie_its_pair_together(tmp_path: Path) -> None:
    text = (
        DATA + conv("a", "data") + conv("b", "a", more='param { name: "w" lr_mult: 3 } param { name: "b" lr_mult: 5 }')
    )
    (tmp_path / "n.prototxt").write_text(text)
    net = read_net(tmp_path / "n.prototxt")
    pair = {x.name: x for x in replace_layers(net, describe(net), {"b": Form("spatial", (2,))}).layer}
    assert [[(p.name, p.lr_mult) for p in pair[n].param] for n in ("b_v", "b_h")] == [[("", 3)], [("", 3), ("", 5)]]


def test_another_layer_of_the_name_in_another_phase(tmp_path: Path) -> None:
    test, train = "include { phase: TEST }", "include { phase: TRAIN }"
    text = (
        DATA
        + conv("a", "data", 8, test)
        + conv("a", "data", 16, train)
        + conv("b", "a", 8, test)
        + conv("b", "a", 8, train)
    )
    network = described(tmp_path, text)
    assert network["a"].keep_reason == "the layer of its name in another phase or stage is another one"
    assert network["b"].keep_reason == ""


def test_stages_and_levels(tmp_path: Path) -> None:
    text = (
        DATA.replace("input_param", 'include { phase: TEST stage: "serve" } input_param')
        + conv("wide", "data", 12, "include { min_level: 1 }", "a") + conv("thin", "data", 4, "include { max_level: 0 }", "a")
    )  # fmt: skip
    assert described(tmp_path, text, 1, ("serve",)).shape_of("a") == (2, 12, 14, 12)
    assert described(tmp_path, text, 0, ("serve",)).shape_of("a") == (2, 4, 14, 12)
    assert described(tmp_path, 'state { stage: "serve" level: 2 }\n' + text).shape_of("a") == (2, 12, 14, 12)
    with pytest.raises(
        NetworkError, match="layer 'thin': bottom 'data' is produced by no layer without --stage serve"
    ) as e:
        described(tmp_path, text)
    assert str(e.value).endswith("which chooses layer 'data'")


def test_flags_do_not_stay_in_what_is_emitted(tmp_path: Path) -> None:
    text = 'state { stage: "own" }\n' + DATA + conv("a", "data", more='include { stage: "x" }')
    (tmp_path / "n.prototxt").write_text(text)
    loaded = pipeline.load(tmp_path / "n.prototxt", level=3, stages=("x",))
    assert [x.name for x in loaded.network.layers] == ["data", "a"]
    assert list(loaded.net.state.stage) == ["own", "x"]
    state = loaded.without_flags(loaded.net).state
    assert list(state.stage) == ["own"] and state.level == 0


def test_shapes_of_data_layers_that_no_image_size_describes(tmp_path: Path) -> None:
    text = 'layer { name: "d" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "list" batch_size: 4 } }\n'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 5 } }\n'
    (tmp_path / "n.prototxt").write_text(text)
    loaded = pipeline.load(tmp_path / "n.prototxt", input_shapes={"x": (4, 7), "y": (4,)})
    assert loaded.network["fc"].in_channels == 7


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ('type: "ImageData" image_data_param { source: "l" batch_size: 3 new_height: 9 new_width: 7 }', (3, 3, 9, 7)),
        ('type: "ImageData" image_data_param { source: "l" new_height: 9 new_width: 7 is_color: false }', (1, 1, 9, 7)),
        ('type: "ImageData" image_data_param { source: "l" } transform_param { crop_size: 5 }', (1, 3, 5, 5)),
        ('type: "WindowData" window_data_param { source: "l" batch_size: 2 crop_size: 6 }', (2, 3, 6, 6)),
    ],
)
def test_layers_that_bring_images_to_one_size(tmp_path: Path, fields: str, shape: tuple[int, ...]) -> None:
    network = described(tmp_path, f'layer {{ name: "d" top: "data" top: "label" {fields} }}\n' + conv("a", "data"))
    assert network.shape_of("data") == shape and network.shape_of("label") == shape[:1]


def test_a_layer_whose_images_have_no_size_says_what_to_give(tmp_path: Path) -> None:
    text = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "l" batch_size: 4 } }\n'
    with pytest.raises(
        NetworkError, match=r"--lmdb, --input_shape C,H,W, or --top_shape TOP=N,... for each of its tops"
    ):
        described(tmp_path, text)


def test_a_network_that_nothing_brings_images_to(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match='put layer { name: "data" type: "Input" top: "data" input_param'):
        described(tmp_path, conv("a", "data"))
    # A size does not help a phase that has no data layer at all.
    text = 'layer { name: "d" type: "Data" top: "data" include { phase: TRAIN } data_param { source: "x" batch_size: 8 } }\n'
    (tmp_path / "n.prototxt").write_text(text + conv("a", "data"))
    with pytest.raises(NetworkError, match="only TRAIN has layer 'd', which makes it; give the deploy.prototxt"):
        pipeline.load(tmp_path / "n.prototxt", input_shape=(3, 8, 8))


def test_a_blob_that_only_training_has_is_told_with_what_to_give(tmp_path: Path) -> None:
    text = 'layer { name: "d" type: "Data" top: "data" include { phase: TRAIN } data_param { source: "x" batch_size: 8 } }\n'
    text += 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }\n'
    (tmp_path / "n.prototxt").write_text(text)
    with pytest.raises(
        NetworkError, match="of the TEST phase: only TRAIN has layer 'd', which makes it; give the deploy.prototxt"
    ):
        describe(read_net(tmp_path / "n.prototxt"), (3, 8, 8))


def test_a_layer_in_place_stays_whole(tmp_path: Path) -> None:
    network = described(tmp_path, DATA + conv("a", "data") + conv("b", "a", 8, "", "a") + conv("c", "a"))
    reasons = [x.keep_reason for x in network.layers]
    assert reasons == ["", "", "it works in place: its output takes the place of its input", ""]


@pytest.mark.parametrize(
    ("kind", "label"),
    [("AnnotatedData", (4,)), ("ImageSegData", (4, 1, 9, 9)), ("DenseImageData", (4, 1, 9, 9)), ("CPMData", (4,))],
)
def test_data_layers_of_forks_bring_images(tmp_path: Path, kind: str, label: tuple[int, ...]) -> None:
    """They take --input_shape as stock ones do, and crop_size with three means says a size."""
    text = (
        f'layer {{ name: "in" type: "{kind}" top: "data" top: "label" data_param {{ batch_size: 4 }} own_param {{ flag: true }} '
        "transform_param { crop_size: 9 mean_value: 1 mean_value: 2 mean_value: 3 } }\n"
    )
    (tmp_path / "n.prototxt").write_text(text + conv("c", "data"))
    for network in (describe(read_net(tmp_path / "n.prototxt"), image) for image in (None, (3, 12, 12))):
        assert network.inputs == ("data", "label") and network["c"].has_weights
        assert (network.shape_of("data"), network.shape_of("label")) == ((4, 3, 9, 9), label)
