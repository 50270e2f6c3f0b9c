"""The part of a network that stock Caffe can run, held against Caffe itself and against the same network cut by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io import runnable as module
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.runnable import OUTPUT, runnable
from enc_caffe.cli import main
from enc_caffe.errors import NetworkError
from enc_caffe.form import Form
from enc_caffe.plan import Plan, write_plan
from enc_caffe.workers.executor import CaffeExecutor
from tests.measuring import nets

pytestmark = pytest.mark.caffe
INPUT = 'name: "heads"\ninput: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n'
BODY = (
    nets.conv("c1", "data", 8) + nets.simple("r1", "ReLU", "c1") + nets.conv("c2", "c1", 12, stride=2)
    + nets.simple("r2", "ReLU", "c2") + nets.conv("loc", "c2", 8) + nets.conv("conf", "c2", 6)
)  # fmt: skip


def permuted(name: str) -> str:
    return (
        nets.simple(f"{name}_perm", "Permute", name, f"{name}_perm", "permute_param { order: 0 order: 2 order: 3 order: 1 }")
        + nets.simple(f"{name}_flat", "Flatten", f"{name}_perm", f"{name}_flat")
    )  # fmt: skip


#: A detector as SSD has it: two heads, a layer that reads an early blob, boxes that ask for sizes, and layers of a fork at the end.
HEADS = (
    permuted("loc") + permuted("conf")
    + nets.simple("norm", "Normalize", "c1", "norm") + 'layer { name: "boxes" type: "PriorBox" bottom: "c2" bottom: "data" top: "boxes" prior_box_param { min_size: 3 } }\n'
    + 'layer { name: "out" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_flat" bottom: "boxes" top: "out" '
    "detection_output_param { num_classes: 2 } }\n"
)  # fmt: skip


def described(folder: Path, text: str):
    folder.mkdir(exist_ok=True)
    (folder / "n.prototxt").write_text(text)
    net = read_net(folder / "n.prototxt")
    return net, describe(net, (3, 12, 12))


def outputs(text: str, weights: str, data: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Blobs of a pass over some images (in a worker)."""
    from enc_caffe.workers.pycaffe import forward

    found = forward(text, weights, {"data": data}, names)
    return [found[n] for n in names]


def test_a_network_that_caffe_runs_is_left_alone(tmp_path: Path) -> None:
    net, network = described(tmp_path, INPUT + BODY)
    assert runnable(net, network, "n").net is net and runnable(net, network, "n").words == ""


def test_the_outputs_are_what_the_missing_layers_would_read(tmp_path: Path) -> None:
    _, weights = nets.write_net(tmp_path, INPUT + BODY)
    net, network = described(tmp_path / "whole", INPUT + BODY + HEADS)
    part = runnable(net, network, "n.prototxt")
    assert part.missing == {"loc_perm", "loc_flat", "conf_perm", "conf_flat", "norm", "boxes", "out"}
    assert part.words == (
        "n.prototxt: Caffe has no type 'Permute' (layer 'loc_perm'): the network is run up to there, and its outputs c1, loc, "
        "conf compared; the 7 layers left out are carried through"
    )
    data = np.random.default_rng(0).normal(0, 1, (2, 3, 12, 12)).astype(np.float32)
    with CaffeExecutor() as executor:
        (found,) = executor.result(executor.submit(outputs, to_text(part.net), str(weights), data, [OUTPUT]))
        wanted = executor.result(executor.submit(outputs, INPUT + BODY, str(weights), data, ["c1", "loc", "conf"]))
    np.testing.assert_array_equal(found, np.concatenate([w.reshape(2, -1) for w in wanted], axis=1))


def test_what_is_silenced_beside_a_missing_layers_blob_is_no_output(tmp_path: Path) -> None:
    quiet = nets.conv("side", "c1", 2) + 'layer { name: "quiet" type: "Silence" bottom: "side" bottom: "loc_perm" }\n'
    net, network = described(tmp_path, INPUT + BODY + HEADS + quiet)
    part = runnable(net, network, "n.prototxt")
    assert "its outputs c1, loc, conf compared" in part.words
    (silence,) = (x for x in part.net.layer if x.type == "Silence")
    assert list(silence.bottom) == ["side"]
    # The network itself keeps what it reads.
    assert [list(x.bottom) for x in net.layer if x.type == "Silence"] == [["side", "loc_perm"]]


def test_of_large_outputs_means_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALUES", 300)
    _, weights = nets.write_net(tmp_path, INPUT + BODY)
    part = runnable(*described(tmp_path / "whole", INPUT + BODY + HEADS), "n")
    data = np.random.default_rng(0).normal(0, 1, (1, 3, 12, 12)).astype(np.float32)
    with CaffeExecutor() as executor:
        (found,) = executor.result(executor.submit(outputs, to_text(part.net), str(weights), data, [OUTPUT]))
        wanted = executor.result(executor.submit(outputs, INPUT + BODY, str(weights), data, ["c1", "loc", "conf"]))
    # 1,656 values: means over 3x3 places. The first output is read after the ReLU that stands in its place.
    means = [
        w.reshape(1, w.shape[1], w.shape[2] // 3, 3, w.shape[3] // 3, 3).mean(axis=(3, 5)).reshape(1, -1)
        for w in wanted
    ]
    np.testing.assert_allclose(found, np.concatenate(means, axis=1), rtol=1e-5, atol=1e-6)


def test_a_layer_in_place_ends_it_before(tmp_path: Path) -> None:
    text = INPUT + nets.conv("c1", "data", 8) + nets.simple("r1", "ReLU6", "c1") + nets.conv("c2", "c1", 12)
    part = runnable(*described(tmp_path, text), "n")
    assert part.missing == {"r1", "c2"} and "its output c1 compared" in part.words
    with pytest.raises(NetworkError, match="cannot run anything with weights before it"):
        runnable(*described(tmp_path, INPUT + nets.simple("r", "ReLU6", "data") + nets.conv("c", "data", 4)), "n")


def test_it_is_compressed_as_the_same_network_cut_by_hand(tmp_path: Path, capsys) -> None:
    _, weights = nets.write_net(tmp_path, INPUT + BODY)
    (tmp_path / "cut.prototxt").write_text(INPUT + BODY)
    (tmp_path / "whole.prototxt").write_text(INPUT + BODY + permuted("loc") + permuted("conf"))
    nets.write_images(tmp_path / "lmdb", 30)
    found = {}
    for name in ("cut", "whole"):
        assert main(["compress", "--model", str(tmp_path / f"{name}.prototxt"), "--weights", str(weights), "--lmdb",
                     str(tmp_path / "lmdb"), "--target_flops", "0.6", "--quality", "best", "--refine", "2", "--scale", "0.01",
                     "--store", str(tmp_path / "s"), "--out", str(tmp_path / name)]) == 0  # fmt: skip
        said = capsys.readouterr()
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert ("the network is run up to there, and its outputs loc, conf compared" in said.err) == (name == "whole")
    assert found["whole"]["divergence"]["mean"] > 0 and "compressed" not in found["whole"]
    # The same outputs are compared; the layers of the heads are carried to the letter.
    assert found["whole"]["divergence"]["mean"] == found["cut"]["divergence"]["mean"]
    text = (tmp_path / "whole" / "deploy.prototxt").read_text()
    assert permuted("loc").splitlines()[0] in text and permuted("conf").splitlines()[0] in text
    compressed = read_net(tmp_path / "whole" / "deploy.prototxt")
    assert {p.name for p in compressed.layer} >= {"loc_perm", "loc_flat", "conf_perm", "conf_flat"}
    assert not [p for p in compressed.layer if p.name.startswith(OUTPUT)]


def test_layers_behind_cannot_be_measured(tmp_path: Path, capsys) -> None:
    text = INPUT + nets.conv("c1", "data", 8) + nets.simple("r1", "ReLU6", "c1", "r1") + nets.conv("c2", "r1", 12)
    _, weights = nets.write_net(tmp_path, text.replace("ReLU6", "ReLU"))
    (tmp_path / "n.prototxt").write_text(text)
    nets.write_images(tmp_path / "lmdb", 20)
    given = ["--model", str(tmp_path / "n.prototxt"), "--weights", str(weights), "--top_shape", "r1=1,8,12,12"]
    images = ["--lmdb", str(tmp_path / "lmdb"), "--store", str(tmp_path / "s")]
    # The flag makes c2 known: by PCA energy it is decomposed, with images it stays whole.
    assert main(["metrics", *given, "--out", str(tmp_path / "pca.json")]) == 0
    assert main(["metrics", *given, *images, "--out", str(tmp_path / "measured.json")]) == 0
    names = [
        [x["name"] for x in json.loads((tmp_path / f"{n}.json").read_text())["layers"]] for n in ("pca", "measured")
    ]
    assert names == [["c1", "c2"], ["c1"]]
    write_plan(tmp_path / "r.json", Plan("heads", {"c1": Form("", (3,)), "c2": Form("", (4,))}), 1)
    capsys.readouterr()
    # A target that is missed for that says so, and what reaches it.
    assert main(["compress", *given, *images, "--target_flops", "0.3", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "no layer is left to search" in said
    assert "so that 1 layer that could be decomposed stays whole; --caffe_root DIR" in said
    for command in (["search", str(tmp_path / "pca.json"), "--target_flops", "0.9"],
                    ["emit", "--ranks", str(tmp_path / "r.json"), "--decomposition", "weighted"]):  # fmt: skip
        assert main([*command, *given, *images, "--out", str(tmp_path / "out")]) == 2
        assert "layer 'c2' lies behind one that stock Caffe cannot run" in capsys.readouterr().err
    assert main(["emit", "--ranks", str(tmp_path / "r.json"), *given, "--out", str(tmp_path / "out")]) == 0


def test_images_take_the_place_of_a_forks_data_layer(tmp_path: Path, capsys) -> None:
    """It is measured and emitted as the same network with a stock one."""
    _, weights = nets.write_net(tmp_path, INPUT + BODY)
    nets.write_images(tmp_path / "lmdb", 20)
    found = {}
    for kind in ("Data", "AnnotatedData"):
        source = f'layer {{ name: "in" type: "{kind}" top: "data" top: "label" data_param {{ source: "none" batch_size: 4 }} }}\n'
        (tmp_path / "n.prototxt").write_text('name: "heads"\n' + source + BODY)
        given = ["--model", str(tmp_path / "n.prototxt"), "--weights", str(weights), "--lmdb", str(tmp_path / "lmdb")]
        assert main(["metrics", *given, "--store", str(tmp_path / kind), "--out", str(tmp_path / f"{kind}.json")]) == 0
        found[kind] = json.loads((tmp_path / f"{kind}.json").read_text())["layers"]
    assert found["Data"] == found["AnnotatedData"] and found["Data"][0]["name"] == "c1"
    assert "Caffe has no type 'AnnotatedData'" in capsys.readouterr().err
