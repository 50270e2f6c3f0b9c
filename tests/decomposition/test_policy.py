"""Which layers are decomposed, on networks built in code and on every shipped prototxt."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.variants import deploy_net, train_val_net
from enc_caffe.decomposition import schemes
from enc_caffe.decomposition.policy import parse_schemes, policy_for, takes_channels_out, unruled, with_rule
from enc_caffe.errors import UsageError
from enc_caffe.form import ALL, PAPER

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.caffe


def conv(name: str, bottom: str, outputs: int, kernel: int = 3, extra: str = "", more: str = "") -> str:
    """A convolution with "same" padding."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {more} convolution_param {{ '
        f"num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} {extra} }} }}\n"
    )


def policy_of(tmp_path: Path, body: str, asked=PAPER, fully_connected: bool = False):
    """Policy of a network that reads 3 x 16 x 16 images."""
    head = 'name: "n"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }\n'
    (tmp_path / "n.prototxt").write_text(head + body)
    return policy_for(describe(read_net(tmp_path / "n.prototxt")), asked, fully_connected)


def test_reasons(tmp_path: Path) -> None:
    body = conv("first", "data", 16) + conv("plain", "first", 16) + conv("point", "plain", 16, 1)
    body += conv("deep", "plain", 16, 3, "group: 16") + conv("half", "plain", 16, 3, "group: 2")
    body += conv("shared1", "plain", 16, more='param { name: "w" }') + conv(
        "shared2", "shared1", 16, more='param { name: "w" }'
    )
    body += conv("thin", "first", 1)
    body += 'layer { name: "up" type: "Deconvolution" bottom: "plain" top: "up" convolution_param { num_output: 4 kernel_size: 2 stride: 2 } }\n'
    body += (
        'layer { name: "fc" type: "InnerProduct" bottom: "plain" top: "fc" inner_product_param { num_output: 5 } }\n'
    )
    policy = policy_of(tmp_path, body)
    assert policy.paper == {"first": "channel", "plain": "spatial", "half": "spatial", "thin": "spatial"}
    assert policy.schemes == {name: (scheme,) for name, scheme in policy.paper.items()}
    assert policy.whole["point"] == "1x1 convolution"
    assert policy.whole["deep"] == "depthwise convolution"
    assert "shared" in policy.whole["shared1"] and "shared" in policy.whole["shared2"]
    assert "deconvolution" in policy.whole["up"]
    assert "fully connected" in policy.whole["fc"]


def test_projections_are_shortcuts_and_identity_blocks_have_none(tmp_path: Path) -> None:
    body = conv("stem", "data", 8) + 'layer { name: "r" type: "ReLU" bottom: "stem" top: "stem" }\n'
    body += conv("a0", "stem", 8) + 'layer { name: "ra" type: "ReLU" bottom: "a0" top: "a0" }\n' + conv("a1", "a0", 8)
    body += 'layer { name: "sa" type: "Eltwise" bottom: "stem" bottom: "a1" top: "sa" }\n'
    body += conv("b0", "sa", 8) + conv("b1", "b0", 8) + conv("proj", "sa", 8)
    body += 'layer { name: "bn" type: "BatchNorm" bottom: "proj" top: "proj" }\n'
    body += 'layer { name: "sb" type: "Eltwise" bottom: "proj" bottom: "b1" top: "sb" }\n'
    policy = policy_of(tmp_path, body)
    assert set(policy.schemes) == {"stem", "a0", "a1", "b0", "b1"}
    assert policy.whole == {"proj": "projection shortcut"}


def test_a_single_channel_is_not_depthwise(tmp_path: Path) -> None:
    loaded = pipeline.load(ROOT / "prototxt" / "digits" / "train_val.prototxt", None, (1, 8, 8))
    assert list(loaded.policy.schemes) == ["conv1", "conv2", "conv3", "conv4"]
    assert loaded.policy.schemes["conv1"] == ("channel",)


@pytest.mark.parametrize("path", sorted(ROOT.glob("prototxt/*/*.prototxt")), ids=lambda p: "/".join(p.parts[-2:]))
def test_every_shipped_prototxt_is_legal(path: Path) -> None:
    if path.name == "solver.prototxt":
        from enc_caffe.caffe_io.prototxt import read_solver

        assert (path.parent / read_solver(path).net).is_file()
        return
    sides = {"digits": (1, 8, 8), "resnet56": (3, 32, 32)}
    shape = sides.get(path.parent.name, (3, 227, 227))
    loaded = pipeline.load(path, None, shape)
    assert loaded.policy.schemes
    assert not [
        x
        for x in loaded.network.layers
        if x.has_weights and x.name not in loaded.policy.schemes and x.name not in loaded.policy.whole
    ]


def test_train_val_and_deploy_lead_to_each_other(tmp_path: Path) -> None:
    folder = ROOT / "prototxt" / "resnet56"
    loaded = pipeline.load(folder / "train_val.prototxt", None, (3, 32, 32))
    made = deploy_net(loaded.net, loaded.network)
    shipped = read_net(folder / "deploy.prototxt")
    assert to_text(made) == to_text(shipped)
    back = train_val_net(shipped, describe(shipped), None, tmp_path / "test_lmdb")
    (tmp_path / "tv.prototxt").write_text(to_text(back))
    network = describe(read_net(tmp_path / "tv.prototxt"), (3, 32, 32))
    assert [x.name for x in network.weighted] == [x.name for x in loaded.network.weighted]
    assert network.layers[-1].type == "Accuracy" and network.layers[-2].type == "SoftmaxWithLoss"
    assert str(tmp_path / "test_lmdb") in (tmp_path / "tv.prototxt").read_text()


def test_old_formats_are_upgraded_as_caffe_does(tmp_path: Path) -> None:
    v1 = (
        'name: "old"\ninput: "data"\ninput_dim: 1\ninput_dim: 3\ninput_dim: 9\ninput_dim: 9\n'
        'layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 '
        "convolution_param { num_output: 4 kernel_size: 3 } }\n"
        'layers { name: "relu" type: RELU bottom: "conv" top: "conv" }\n'
    )
    (tmp_path / "v1.prototxt").write_text(v1)
    network = describe(read_net(tmp_path / "v1.prototxt"))
    assert [x.type for x in network.layers] == ["Input", "Convolution", "ReLU"]
    assert network["conv"].top_shapes == ((1, 4, 7, 7),)


MIXED = (
    conv("first", "data", 16) + conv("plain", "first", 16) + conv("point", "plain", 16, 1)
    + conv("deep", "plain", 16, 3, "group: 16") + conv("half", "plain", 16, 3, "group: 2")
    + conv("shared1", "plain", 16, more='param { name: "w" }') + conv("shared2", "shared1", 16, more='param { name: "w" }')
    + conv("thin", "first", 1)
    + 'layer { name: "up" type: "Deconvolution" bottom: "plain" top: "up" convolution_param { num_output: 4 kernel_size: 2 stride: 2 } }\n'
    + 'layer { name: "fc" type: "InnerProduct" bottom: "plain" top: "fc" inner_product_param { num_output: 5 } }\n'
)  # fmt: skip


def test_all_lets_every_layer_have_whatever_takes_it(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, MIXED, ALL)
    every = ("spatial", "spatial_t", "channel", "tucker2")
    assert policy.schemes == {
        "first": every, "plain": every, "point": ("channel",), "half": ("spatial", "spatial_t", "channel"),
        # One output channel: the channel scheme has one rank, and nothing to choose.
        "thin": ("spatial", "spatial_t", "tucker2"), "fc": ("inner_product",),
    }  # fmt: skip
    assert policy.whole["deep"] == "depthwise convolution"
    assert "shared" in policy.whole["shared1"] and "deconvolution" in policy.whole["up"]
    assert not set(policy.schemes) & set(policy.whole)
    # What the paper gives is known beside it.
    assert policy.paper == {"first": "channel", "plain": "spatial", "half": "spatial", "thin": "spatial"}


def test_projections_are_decomposed_where_any_scheme_may_be(tmp_path: Path) -> None:
    body = conv("stem", "data", 8) + conv("b0", "stem", 8) + conv("b1", "b0", 8) + conv("proj", "stem", 8, 1)
    body += 'layer { name: "s" type: "Eltwise" bottom: "proj" bottom: "b1" top: "s" }\n'
    assert policy_of(tmp_path, body).whole == {"proj": "1x1 convolution"}
    assert policy_of(tmp_path, body, ALL).schemes["proj"] == ("channel",)


def test_a_list_lets_layers_have_those_alone(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, MIXED, ("channel", "tucker2"))
    assert policy.schemes["plain"] == ("channel", "tucker2") and policy.schemes["half"] == ("channel",)
    assert policy.whole["fc"] == "fully connected, and none of the schemes asked for takes one"
    only = policy_of(tmp_path, MIXED, ("spatial",))
    assert only.whole["point"] == "1x1 convolution" and only.whole["deep"] == "depthwise convolution"
    dense = policy_of(tmp_path, MIXED, ("inner_product",))
    assert list(dense.schemes) == ["fc"]
    assert dense.whole["plain"] == "a convolution, and none of the schemes asked for takes one"
    two = policy_of(tmp_path, MIXED, ("tucker2",))
    assert two.whole["half"] == "2 groups; it takes convolutions of one group"


def test_fully_connected_layers_by_the_papers_policy(tmp_path: Path) -> None:
    assert policy_of(tmp_path, MIXED, PAPER, True).schemes["fc"] == ("inner_product",)
    assert policy_of(tmp_path, MIXED).whole["fc"] == "fully connected (--fully_connected decomposes it)"


def test_words_of_schemes() -> None:
    assert parse_schemes("paper") == PAPER and parse_schemes("all") == ALL
    assert parse_schemes("spatial,channel,spatial") == ("spatial", "channel")
    known = "is unknown%s; known are paper, all, spatial, spatial_t, channel, inner_product, tucker2"
    for wrong, meant in (
        ("spatail,channel", "spatial"),
        ("papers", "paper"),
        ("al", "all"),
        ("", None),
        (",", None),
        ("x,all", None),
    ):
        with pytest.raises(UsageError, match=f"--schemes {wrong}: ") as caught:
            parse_schemes(wrong)
        assert known % (f" (did you mean {meant}?)" if meant else "") in str(caught.value)


def test_all_and_one_that_takes_channels_out() -> None:
    assert parse_schemes("all,prune_lasso") == (*schemes(), "prune_lasso") == with_rule("all", "lasso")
    assert with_rule(("spatial", "prune"), "error") == ("spatial", "prune")
    with pytest.raises(
        UsageError,
        match="--prune_by magnitude: the paper's schemes are one a layer; give --schemes all, a list, or prune_magnitude alone",
    ):
        with_rule("paper", "magnitude")
    assert takes_channels_out("all") == [] and takes_channels_out(("spatial", "prune")) == ["prune"]


def test_rules_that_plain_svd_cannot_follow_are_named() -> None:
    assert (
        unruled("all", "svd") == unruled(("spatial", "prune_magnitude"), "svd") == unruled(("prune",), "weighted") == []
    )
    (line,) = unruled(("spatial", "prune", "prune_lasso"), "svd")
    assert (
        line.startswith("prune, prune_lasso: --decomposition svd looks at no images")
        and "--decomposition weighted" in line
    )


def test_what_takes_channels_out_is_where_the_graph_lets_it(tmp_path: Path) -> None:
    eltwise = 'layer { name: "sum" type: "Eltwise" bottom: "stem" bottom: "b" top: "sum" }\n'
    found = policy_of(
        tmp_path,
        conv("stem", "data", 4) + conv("a", "stem", 6) + conv("b", "a", 4) + eltwise + conv("end", "sum", 2),
        ("prune",),
    )
    assert found.schemes == {"b": ("prune",)}
    assert found.whole["stem"] == "layer 'data' (Input) brings them in"
    assert found.whole["end"] == "stem and b are read by a too, which would have to lose the same channels"


def test_a_scheme_whose_names_are_taken_is_not_offered(tmp_path: Path) -> None:
    # What another tool, or an earlier emission, split: 'c_v' and 'c_h' behind a 'c', and a blob that a channel pair's end would be.
    body = conv("c", "data", 16) + conv("c_v", "c", 16, 3) + conv("c_h", "c_v", 16, 3)
    body += 'layer { name: "r" type: "ReLU" bottom: "c_h" top: "c_a" }\n' + conv("d", "c_a", 16)
    found = policy_of(tmp_path, body, ALL)
    every = {"spatial", "spatial_t", "channel", "tucker2"}
    assert set(found.schemes["c_v"]) == set(found.schemes["d"]) == every and found.schemes["c"] == ("tucker2",)
    paper = policy_of(tmp_path, conv("e", "data", 16) + body.replace('"data"', '"e"'))
    assert paper.whole == {"c": "another layer or blob has the name 'c_v' of its new layer"}
    assert policy_of(tmp_path, body, ("spatial",)).whole == paper.whole
