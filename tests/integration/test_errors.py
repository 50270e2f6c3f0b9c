"""What a user is told: one or two lines, the right exit status, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import array_records, write_lmdb
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli import main

pytestmark = pytest.mark.caffe
DIGITS = Path(__file__).resolve().parent.parent.parent / "prototxt" / "digits" / "train_val.prototxt"
SIZE = ["--input_shape", "1,8,8"]
NET = ["--model", str(DIGITS), "--weights", "good.caffemodel"]
TRAIN = [
    "finetune",
    "--solver",
    str(DIGITS.with_name("solver.prototxt")),
    "--weights",
    "good.caffemodel",
    "--out",
    "o",
    "--train_lmdb",
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits network with random weights, LMDBs, and everything broken in one way."""
    folder = tmp_path_factory.mktemp("kit")
    network = describe(read_net(DIGITS), (1, 8, 8))
    rng = np.random.default_rng(0)
    arrays = {x.name: [rng.standard_normal(s, np.float32) for s in expected_shapes(x)] for x in network.weighted}

    def save(name: str, **changed: list[np.ndarray]) -> None:
        with open(folder / name, "wb") as handle:
            weights = {**arrays, **changed}
            write_caffemodel(
                handle, "digits", (layer_record(x.name, x.type, weights[x.name]) for x in network.weighted)
            )

    save("good.caffemodel")
    broken = [a.copy() for a in arrays["conv3"]]
    broken[0][1, 2, 0, 1] = np.nan
    save("nan.caffemodel", conv3=broken)
    whole = (folder / "good.caffemodel").read_bytes()
    (folder / "cut.caffemodel").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.caffemodel").write_bytes(b"")
    (folder / "text.caffemodel").write_text('name: "x"\nlayer {\n}\n')
    text = DIGITS.read_text()
    for name, old, new in (
        ("good", "", ""),
        ("syntax", "pooling_param {", "pooling_param {{"),
        ("field", "kernel_size: 2", "kernel_sze: 2"),
        ("type", '"ReLU"', '"Rellu"'),
        ("cycle", 'bottom: "data" top: "conv1"', 'bottom: "conv2" top: "conv1"'),
        ("bottom", 'bottom: "pool2"', 'bottom: "pol2"'),
        ("outputs", "num_output: 48", "num_output: 40"),
        ("renamed", 'name: "conv2"', 'name: "convx"'),
        ("caffe", 'name: "relu1" type: "ReLU"', 'name: "relu1" type: "LRN" lrn_param { local_size: 4 }'),
        ("scoreless", text[text.index('layer { name: "loss"') :], ""),
    ):
        (folder / f"{name}.prototxt").write_text(text.replace(old, new, 1) if old else text)
    (folder / "empty.prototxt").write_text("")
    images, labels = np.zeros((20, 1, 8, 8), np.uint8), np.arange(20) % 10
    write_lmdb(folder / "good_lmdb", array_records(images, labels))
    write_lmdb(folder / "labels_lmdb", array_records(images, np.arange(20)))
    write_lmdb(folder / "size_lmdb", array_records(np.zeros((20, 1, 12, 12), np.uint8), labels))
    lmdb.open(str(folder / "empty_lmdb")).close()
    for name, ranks in (
        ("absent", {"convz": 3}),
        ("zero", {"conv2": 0}),
        ("high", {"conv2": 59}),
        ("real", {"conv2": 2.5}),
        ("relu", {"relu1": 2}),
    ):
        (folder / f"{name}.json").write_text(
            json.dumps({"format": "enc-caffe-ranks/1", "network": "digits", "ranks": ranks})
        )
    assert (
        main(
            [
                "metrics",
                "--model",
                str(DIGITS),
                "--weights",
                str(folder / "good.caffemodel"),
                *SIZE,
                "--out",
                str(folder / "metrics.json"),
            ]
        )
        == 0
    )
    return folder


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, *words: str) -> None:
    """Run a command; its error must be short and hold all the words."""
    capsys.readouterr()
    assert main(arguments) == status
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) <= 2
    assert "Traceback" not in error
    for word in words:
        assert word in error, error


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("none", "cannot be read (No such file or directory)"),
        ("empty", "is empty"),
        ("cut", "is no whole caffemodel, a field claims"),
        ("text", "is text, not a binary caffemodel"),
        ("nan", "layer 'conv3' holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("command", ["metrics", "emit", "evaluate", "finetune"])
def test_weights(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str, words: str, command: str
) -> None:
    path = ["--weights", str(kit / f"{weights}.caffemodel")]
    plan = {"format": "enc-caffe-ranks/1", "ranks": {"conv2": 9}}
    (kit / "plan.json").write_text(json.dumps(plan))
    out = tmp_path / "out"
    fails(capsys, {
        "metrics": ["metrics", "--model", str(DIGITS), *SIZE, *path, "--out", str(out)],
        "emit": ["emit", "--model", str(DIGITS), *SIZE, *path, "--ranks", str(kit / "plan.json"), "--out", str(out)],
        "evaluate": ["evaluate", "--model", str(DIGITS), *path, "--lmdb", str(kit / "good_lmdb")],
        "finetune": ["finetune", "--solver", str(DIGITS.with_name("solver.prototxt")), *path, "--train_lmdb",
                     str(kit / "good_lmdb"), "--out", str(out)],
    }[command], 1, f"{weights}.caffemodel", words)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prototxt", "words"),
    [
        ("none", ["cannot be read"]),
        ("empty", ["is empty"]),
        ("syntax", ["syntax.prototxt:27:", "got {"]),
        ("field", ["field.prototxt:27:", 'no field named "kernel_sze"']),
        ("cycle", ["layer 'conv1'", "bottom 'conv2' is produced only by layer 'conv2': a cycle"]),
        ("bottom", ["layer 'conv3'", "bottom 'pol2' is produced by no layer"]),
        ("outputs", ["layer 'conv2'", "(48, 32, 3, 3)", "(40, 32, 3, 3)"]),
        (
            "renamed",
            ["layer 'convx' of the prototxt is not in the caffemodel; call it as it is called there"],
        ),
    ],
)
def test_prototxt(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prototxt: str, words: list[str]
) -> None:
    arguments = [
        "metrics",
        "--model",
        str(kit / f"{prototxt}.prototxt"),
        "--weights",
        str(kit / "good.caffemodel"),
        *SIZE,
    ]
    fails(capsys, [*arguments, "--out", str(tmp_path / "m.json")], 1, *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_is_carried_through_but_not_run(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, weights = str(kit / "type.prototxt"), str(kit / "good.caffemodel")
    arguments = ["--model", model, "--weights", weights, *SIZE]
    assert main(["metrics", *arguments, "--out", str(tmp_path / "m.json")]) == 0
    # The layer is in place of its blob, which keeps its size: what comes behind it can be decomposed too.
    told = "layer 'relu1': Caffe has no type 'Rellu' (did you mean ReLU?)"
    assert told in capsys.readouterr().err
    assert [x["name"] for x in json.loads((tmp_path / "m.json").read_text())["layers"]] == [
        "conv1",
        "conv2",
        "conv3",
        "conv4",
    ]
    (tmp_path / "r.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"conv1": 3}}))
    assert main(["emit", *arguments, "--ranks", str(tmp_path / "r.json"), "--out", str(tmp_path / "out")]) == 0
    assert 'name: "relu1" type: "Rellu"' in (tmp_path / "out" / "deploy.prototxt").read_text()
    fails(
        capsys, ["evaluate", "--model", model, "--weights", weights, "--lmdb", str(kit / "good_lmdb")], 1,
        "layer 'relu1': Caffe has no type 'Rellu' and cannot run the network",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["metrics", "emit", "evaluate", "compress", "latency", "search", "finetune"])
def test_a_python_layer_runs_nothing(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # A module that would leave a file behind, where Caffe would find it.
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass L: pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    layer = 'layer { name: "p" type: "Python" bottom: "data" top: "p" python_param { module: "trap" layer: "L" } }\n'
    model = tmp_path / "python.prototxt"
    model.write_text(DIGITS.read_text() + layer)
    (tmp_path / "solver.prototxt").write_text(f'net: "{model}"\nmax_iter: 1\n')
    (tmp_path / "r.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"conv1": 3}}))
    given = ["--model", str(model), "--weights", str(kit / "good.caffemodel")]
    images, out = ["--lmdb", str(kit / "good_lmdb")], ["--out", str(tmp_path / "out")]
    before = sorted(tmp_path.iterdir())
    fails(capsys, {
        "metrics": ["metrics", *given, *images, *out],
        "emit": ["emit", *given, "--ranks", str(tmp_path / "r.json"), *images, *out, "--decomposition", "weighted"],
        "evaluate": ["evaluate", *given, *images], "compress": ["compress", *given, *images, "--target_flops", "0.5", *out],
        "latency": ["latency", *given[:2], *images, *out],
        "search": ["search", str(kit / "metrics.json"), "--target_flops", "0.5", "--method", "inf", *given, *images, *out],
        "finetune": ["finetune", "--solver", str(tmp_path / "solver.prototxt"), *given[2:], *out],
    }[command], 1, "python.prototxt: layer 'p' is a Python layer: Caffe would import and run the module 'trap'",
        "--allow_python_layers")  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before


def test_what_only_reads_describes_a_python_layer(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass L: pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    layer = 'layer { name: "p" type: "Python" bottom: "data" top: "p" python_param { module: "trap" layer: "L" } }\n'
    model = tmp_path / "python.prototxt"
    model.write_text(DIGITS.read_text() + layer)
    (tmp_path / "r.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"conv1": 3}}))
    given = ["--model", str(model), "--weights", str(kit / "good.caffemodel"), *SIZE]
    assert main(["inspect", *given]) == 0
    # images only say a size
    np.savez(tmp_path / "i.npz", images=np.zeros((2, 1, 8, 8), np.uint8))
    assert main(["inspect", *given[:4], "--images", str(tmp_path / "i.npz")]) == 0
    assert "layer 'p' module: trap" in capsys.readouterr().out
    assert main(["metrics", *given, "--out", str(tmp_path / "m.json")]) == 0
    emit = ["emit", *given[:4], "--images", str(tmp_path / "i.npz"), "--ranks", str(tmp_path / "r.json")]
    assert main([*emit, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "layer 'p' would run the Python module 'trap'" in said and "stock Caffe loaded" in said
    assert layer.strip() in (tmp_path / "out" / "deploy.prototxt").read_text()
    assert not (tmp_path / "sprung").exists()


def test_a_training_writes_into_its_own_folder_alone(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = 'layer {{ name: "h" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param {{ file_name: "{}" }} }}\n'
    model, sprung = tmp_path / "writes.prototxt", tmp_path / "sprung.h5"
    model.write_text(DIGITS.read_text() + layer.format(sprung))
    images = ["--lmdb", str(kit / "good_lmdb")]
    given = ["--model", str(model), "--weights", str(kit / "good.caffemodel")]
    fails(
        capsys, ["finetune", "--solver", str(DIGITS.with_name("solver.prototxt")), *given, "--train_lmdb",
                 str(kit / "good_lmdb"), "--out", str(tmp_path / "out")], 1, "layer 'h' (HDF5Output) would write to", str(sprung)
    )  # fmt: skip
    assert main(["inspect", *given, *images]) == 0
    assert f"layer 'h' writes: {sprung}" in capsys.readouterr().out
    # Measuring leaves the layer out.
    assert main(["evaluate", *given, *images]) == 0
    assert not sprung.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "outputs", "words"),
    [
        ("1, 1, 8, 8", 4_000_000_000, ["layer 'conv'", "its top 'conv' would be", "2147483647"]),
        ("1, 64, 8, 8", 30_000_000, ["layer 'conv'", "it would have 17280000000 weights", "2147483647"]),
        ("1, 1, 99999999, 99999999", 4, ["layer 'data'", "1x1x99999999x99999999", "2147483647"]),
        ("1, 1, -8, 8", 4, ["layer 'data'", "1x1x-8x8"]),
    ],
)
def test_sizes_that_caffe_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str, outputs: int, words: list[str]
) -> None:
    (tmp_path / "big.prototxt").write_text(
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: [{shape}] }} }} }}\n'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { kernel_size: 3 '
        f"num_output: {outputs} }} }}\n"
    )
    fails(capsys, ["inspect", "--model", str(tmp_path / "big.prototxt")], 1, "big.prototxt", *words)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("absent", ["layer 'convz' is not in network 'digits'"]),
        ("zero", ["layer 'conv2': form 'spatial:0': rank 0 is outside 1 to "]),
        ("high", ["layer 'conv2' has rank 59 in scheme 'spatial'; 1 to r_max = 58 is allowed"]),
        ("real", ["rank of layer 'conv2' is 2.5; an integer is needed"]),
        ("relu", ["layer 'relu1' cannot be decomposed"]),
    ],
)
def test_ranks(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], plan: str, words: list[str]) -> None:
    fails(capsys, ["emit", "--model", str(DIGITS), "--weights", str(kit / "good.caffemodel"), *SIZE, "--ranks",
                   str(kit / f"{plan}.json"), "--out", str(tmp_path / "out")], 1, f"{plan}.json", *words)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_targets(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["search", str(kit / "metrics.json"), "--out", str(tmp_path / "r.json"), "--target_flops"]
    fails(capsys, [*search, "0.01"], 1, "target 0.0100 of the MACs cannot be reached", " to ", " can ")
    for wrong in ("0", "1.5", "nan"):
        fails(capsys, [*search, wrong], 2, "a part of the original MACs in (0, 1] is needed")
    fails(capsys, [*search, "0.5", "--metric", "measured"], 1, "field 'sampled_accuracy' has no measured value")
    fails(capsys, [*search, "0.5", "--method", "magic"], 2, "known are map")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("none_lmdb", ["does not exist"]),
        ("empty_lmdb", ["the LMDB is empty"]),
        ("labels_lmdb", ["labels go from 0 to 19, but the network has 10 classes"]),
        ("size_lmdb", ["layer 'fc5'", "(10, 256)", "images of (1, 12, 12)"]),
    ],
)
def test_images(kit: Path, capsys: pytest.CaptureFixture[str], images: str, words: list[str]) -> None:
    fails(capsys, ["evaluate", "--model", str(DIGITS), "--weights", str(kit / "good.caffemodel"), "--lmdb", str(kit / images)],
          1, images, *words)  # fmt: skip


@pytest.mark.parametrize(
    ("forms", "words"),
    [
        ({"convz": "spatial:3"}, ["layer 'convz' is not in network 'digits'"]),
        ({"relu1": "spatial:3"}, ["layer 'relu1' cannot be decomposed: type ReLU is never decomposed"]),
        ({"conv2": "spatail:3"}, ["unknown scheme 'spatail' (did you mean spatial?)"]),
        ({"conv2": "inner_product:3"}, ["layer 'conv2' (Convolution) cannot have scheme 'inner_product'",
                                        "it can have: whole, spatial, spatial_t, channel, tucker2"]),
        ({"fc5": "tucker2:3x3"}, ["layer 'fc5' (InnerProduct) cannot have scheme 'tucker2'", "it can have: whole, inner_product"]),
        ({"conv2": "tucker2:3"}, ["form 'tucker2:3' has 1 rank(s); scheme 'tucker2' takes 2"]),
        ({"conv2": "spatial:3x4"}, ["form 'spatial:3x4' has 2 rank(s); scheme 'spatial' takes 1"]),
        ({"conv2": "spatial:59"}, ["layer 'conv2' has rank 59 in scheme 'spatial'; 1 to r_max = 58 is allowed"]),
        ({"conv2": "tucker2:31x47"}, ["layer 'conv2' in form 'tucker2:31x47' has", "that it has whole"]),
        ({"conv2": "tucker2:3x999"}, ["rank 999 is outside 1 to "]),
        ({"conv2": "spatial"}, ["the form of layer 'conv2' is 'spatial'; a form such as spatial:12, tucker2:8x12 or whole is needed"]),
        ({"conv2": 3}, ["the form of layer 'conv2' is '3'; a form such as"]),
        ([], ["field 'forms' must be an object of layer: form"]),
    ],
)  # fmt: skip
def test_forms(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], forms: object, words: list[str]) -> None:
    (kit / "forms.json").write_text(json.dumps({"format": "enc-caffe-ranks/2", "network": "digits", "forms": forms}))
    fails(capsys, ["emit", "--model", str(DIGITS), "--weights", str(kit / "good.caffemodel"), *SIZE, "--ranks",
                   str(kit / "forms.json"), "--out", str(tmp_path / "out")], 1, "forms.json", *words)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_ranks_of_version_1_with_schemes_are_read(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {
        "format": "enc-caffe-ranks/1",
        "ranks": {"conv2": 9, "fc5": 5},
        "schemes": {"conv2": "channel", "fc5": "inner_product"},
    }
    (kit / "one.json").write_text(json.dumps(plan))
    arguments = ["emit", "--model", str(DIGITS), "--weights", str(kit / "good.caffemodel"), *SIZE, "--ranks"]
    assert main([*arguments, str(kit / "one.json"), "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "ranks.json").read_text())
    assert written["format"] == "enc-caffe-ranks/2" and written["forms"] == {
        "conv2": "channel:9",
        "fc5": "inner_product:5",
    }
    (kit / "one.json").write_text(json.dumps({**plan, "schemes": {"conv2": "inner_product"}}))
    fails(capsys, [*arguments, str(kit / "one.json"), "--out", str(tmp_path / "other")], 1, "one.json",
          "layer 'conv2' (Convolution) cannot have scheme 'inner_product'")  # fmt: skip
    # Without schemes the paper's are taken, of a fully connected layer that the plan has too.
    (kit / "one.json").write_text(json.dumps({**plan, "schemes": {}}))
    assert main([*arguments, str(kit / "one.json"), "--out", str(tmp_path / "paper")]) == 0
    written = json.loads((tmp_path / "paper" / "ranks.json").read_text())
    assert written["forms"] == {"conv2": "spatial:9", "fc5": "inner_product:5"}
    (kit / "one.json").write_text(json.dumps({**plan, "schemes": {"conv2": ["channel"]}}))
    fails(capsys, [*arguments, str(kit / "one.json"), "--out", str(tmp_path / "other")], 1, "one.json",
          "field 'schemes' must be an object of layer: scheme name")  # fmt: skip


def test_a_plan_for_shared_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'name: "n" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 9 dim: 9 } } }\n'
    for name, bottom in (("a", "data"), ("b", "a")):
        text += (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" param {{ name: "w" }} param {{ name: "v" }} '
            "convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }\n"
        )
    (tmp_path / "n.prototxt").write_text(text)
    network = describe(read_net(tmp_path / "n.prototxt"))
    with open(tmp_path / "n.caffemodel", "wb") as handle:
        write_caffemodel(
            handle,
            "n",
            (layer_record(x.name, x.type, [np.ones(s) for s in expected_shapes(x)]) for x in network.weighted),
        )
    (tmp_path / "r.json").write_text(json.dumps({"format": "enc-caffe-ranks/2", "forms": {"a": "tucker2:2x2"}}))
    before = sorted(tmp_path.iterdir())
    fails(capsys, ["emit", "--model", str(tmp_path / "n.prototxt"), "--weights", str(tmp_path / "n.caffemodel"), "--ranks",
                   str(tmp_path / "r.json"), "--out", str(tmp_path / "out")], 1, "layer 'a' cannot be decomposed",
          "its weights are shared with layer 'b'")  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before


def test_mixtures_that_a_metric_cannot_compare(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", str(DIGITS), "--weights", str(kit / "good.caffemodel")]
    metrics, ranks = str(kit / "every.json"), str(tmp_path / "r.json")
    assert main(["metrics", *given, *SIZE, "--schemes", "all", "--out", metrics]) == 0
    search = ["search", metrics, "--target_flops", "0.5", "--schemes", "all", "--out", ranks]
    for metric in ("pca", "combined"):
        fails(capsys, [*search, "--metric", metric], 2, f"--metric {metric}: layer 'conv1' may have spatial, spatial_t, channel",
              "PCA energy is not comparable between schemes", "--metric divergence, loss or measured")  # fmt: skip
    fails(capsys, [*search, "--metric", "divergence"], 1, "field 'sampled_divergence' has no measured value")
    fails(
        capsys,
        [*search, "--schemes", "spatial_t,tucker2", "--method", "vbmf"],
        2,
        "--method vbmf: layer 'conv1' may have",
    )
    # One scheme alone it compares well, and metrics of the paper's alone have no other.
    assert main([*search, "--schemes", "spatial,inner_product", "--target_flops", "0.6"]) == 0
    fails(capsys, ["search", str(kit / "metrics.json"), *search[2:4], "--schemes", "tucker2", "--out", ranks], 2,
          "--schemes tucker2: the metrics of 'digits' have channel, spatial alone; compute them with enc-caffe metrics --schemes")  # fmt: skip
    # Before anything is measured, in compress too.
    fails(capsys, ["compress", *given, "--lmdb", str(kit / "good_lmdb"), "--target_flops", "0.5", "--schemes", "all", "--metric", "pca",
                   "--out", str(tmp_path / "out")], 2, "PCA energy is not comparable between schemes")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("command", ["metrics", "search", "compress"])
def test_a_scheme_of_an_unknown_name(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    given = ["--model", str(DIGITS), "--weights", str(kit / "good.caffemodel")]
    rest = ["--schemes", "channel,spatail", "--out", str(tmp_path / "out")]
    arguments = {
        "metrics": ["metrics", *given, *SIZE], "search": ["search", str(kit / "metrics.json"), "--target_flops", "0.5"],
        "compress": ["compress", *given, "--lmdb", str(kit / "good_lmdb"), "--target_flops", "0.5"],
    }[command]  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *rest])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and "channel,spatail: 'spatail' is unknown (did you mean spatial?)" in error
    assert (
        "known are paper, all, spatial, spatial_t, channel, inner_product, tucker2" in error
        and "Traceback" not in error
    )
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_than_a_deploy_network_says(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kit / "plan.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"conv2": 9}}))
    assert (
        main(
            [
                "emit",
                "--model",
                str(DIGITS),
                "--weights",
                str(kit / "good.caffemodel"),
                *SIZE,
                "--ranks",
                str(kit / "plan.json"),
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 0
    )
    fails(capsys, ["evaluate", "--model", str(tmp_path / "o" / "deploy.prototxt"), "--weights", str(tmp_path / "o" / "compressed.caffemodel"),
                   "--lmdb", str(kit / "size_lmdb")], 1, "images become (1, 12, 12) (C, H, W), but the network's 'data' needs (1, 8, 8)")  # fmt: skip


def test_caffes_own_last_line(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["evaluate", "--model", str(kit / "caffe.prototxt"), "--weights", str(kit / "good.caffemodel"), "--lmdb",
                   str(kit / "good_lmdb")], 1, "Caffe stopped: Check failed:", "LRN only supports odd values for local_size", "lrn_layer.cpp")  # fmt: skip


def test_no_scores_and_too_large_k(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--weights", str(kit / "good.caffemodel"), "--lmdb", str(kit / "good_lmdb")]
    fails(
        capsys, ["evaluate", "--model", str(kit / "scoreless.prototxt"), *rest], 1, "its class scores cannot be found",
        "metrics and compress compare a network with the original by its outputs",
    )  # fmt: skip
    fails(capsys, ["evaluate", "--model", str(DIGITS), *rest, "--top_k", "1,11"], 2, "the network has 10 classes")


def test_outputs_that_exist_or_cannot_be_written(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("kept")
    rest = ["--weights", str(kit / "good.caffemodel"), "--lmdb", str(kit / "good_lmdb"), "--target_flops", "0.5"]
    compress = ["compress", "--model", str(DIGITS), *rest, "--out"]
    fails(capsys, [*compress, str(tmp_path / "there")], 1, "exists already; --force replaces it")
    assert (tmp_path / "there" / "mine").read_text() == "kept"
    fails(capsys, [*compress, "/proc/nowhere"], 1, "cannot be created")
    fails(
        capsys,
        ["metrics", "--model", str(DIGITS), *rest[:2], *SIZE, "--out", str(tmp_path / "no" / "m.json")],
        1,
        "is not a writable folder",
    )
    assert main([*compress, str(tmp_path / "there"), "--force"]) == 0
    assert not (tmp_path / "there" / "mine").exists()
    assert (tmp_path / "there" / "compressed.caffemodel").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_compression_that_fails_late_leaves_nothing(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, ["compress", "--model", str(kit / "caffe.prototxt"), "--weights", str(kit / "good.caffemodel"), "--lmdb",
                   str(kit / "good_lmdb"), "--target_flops", "0.5", "--out", str(tmp_path / "out")], 1, "Caffe stopped")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_training_that_diverges(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["finetune", "--solver", str(DIGITS.with_name("solver.prototxt")), "--weights", str(kit / "good.caffemodel"),
                   "--train_lmdb", str(kit / "good_lmdb"), "--test_lmdb", str(kit / "good_lmdb"), "--base_lr", "1e9", "--out",
                   str(tmp_path / "out")], 1, "the training loss became", "lower base_lr")  # fmt: skip
    assert not (tmp_path / "out" / "finetuned.caffemodel").exists()


def test_the_good_files_are_good(kit: Path) -> None:
    CaffeModel(kit / "good.caffemodel").check(describe(read_net(kit / "good.prototxt"), (1, 8, 8)))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["evaluate", *NET, "--lmdb", "good_lmdb", "--workers", "0"], 2, "--workers 0: 1 or more is needed"),
        (["evaluate", *NET, "--lmdb", "good_lmdb", "--batch_size", "0"], 2, "--batch_size 0: 1 or more is needed"),
        (["evaluate", *NET, "--lmdb", "good_lmdb", "--gpu", "-1"], 2, "--gpu -1: 0 or more is needed"),
        (
            ["evaluate", *NET, "--lmdb", "good_lmdb", "--top_k", "0"],
            2,
            "--top_k 0: the network has 10 classes, so numbers from 1 to 10",
        ),
        (
            ["evaluate", *NET, "--lmdb", "good_lmdb/data.mdb"],
            1,
            "is a file, and an LMDB is a folder with data.mdb in it; give ",
        ),
        (
            ["evaluate", *NET, "--lmdb", "nan_lmdb"],
            1,
            "nan_lmdb: key b'00000000': a datum holds values that are not finite",
        ),
        (
            ["compress", *NET, "--lmdb", "nan_lmdb", "--target_flops", "0.5", "--out", "o"],
            1,
            "a datum holds values that are not finite",
        ),
        (
            ["metrics", *NET, "--lmdb", "good_lmdb", "--accuracy", "3", "--out", "o"],
            2,
            "--accuracy 3: 1 or 5 is needed",
        ),
        (
            ["metrics", *NET, *SIZE, "--multiple_of", "0", "--out", "o"],
            2,
            "--multiple_of 0: an integer of 1 or more is needed",
        ),
        (
            ["data", "folder", "pictures", "--resize", "100000,100000", "--out", "o"],
            2,
            "33554432 pixels in all at most",
        ),
        (
            ["data", "folder", "pictures", "--seed", "-1", "--out", "o"],
            2,
            "--seed -1: a whole number of 0 or more is needed",
        ),
        (["data", "arrays", "pictures/a.png", "--out", "o"], 1, "a.png: cannot be read as .npz; np.savez"),
        (
            ["data", "partial", "good_lmdb", "--images", "0", "--out", "o"],
            2,
            "give --images from 1 to 20, or --fraction",
        ),
        (
            [*TRAIN, "good_lmdb", "--test_lmdb", "nowhere"],
            1,
            "nowhere: does not exist; enc-caffe data makes one from arrays or image folders; layer 'data' of ",
        ),
        (
            [*TRAIN, "labels_lmdb", "--test_lmdb", "good_lmdb"],
            1,
            "labels_lmdb: label 10 is none of 0 to 9, and layer 'loss' (SoftmaxWithLoss) of ",
        ),
        (
            [*TRAIN, "good_lmdb", "--test_lmdb", "bare_lmdb"],
            1,
            "bare_lmdb: its images have no labels, and layer 'loss' (SoftmaxWithLoss) of ",
        ),
        (
            [*TRAIN, "good_lmdb", "--test_lmdb", "good_lmdb", "--gpu", "x"],
            2,
            "--gpu x: all, or numbers of devices such as 0,1 are needed",
        ),
        (
            ["finetune", "--solver", str(DIGITS), "--out", "o"],
            1,
            "train_val.prototxt: is the prototxt of a network; a solver's",
        ),
        (
            ["evaluate", *NET, "--lmdb", "good_lmdb", "--mean_value", "1,2"],
            1,
            "one value, one for each channel (--mean_value), or an image",
        ),
        (
            ["latency", *NET[:2], *SIZE, "--import", "pictures/a.png", "--out", "o"],
            1,
            "a.png: is no text; a CSV file with the columns",
        ),
        (["store", "list", "--store", "nowhere"], 2, "--store nowhere: does not exist"),
    ],
)
def test_numbers_and_files_that_make_no_sense(
    kit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("good.caffemodel", "good_lmdb", "labels_lmdb"):
        (tmp_path / name).symlink_to(kit / name)
    (tmp_path / "pictures").mkdir()
    cv2.imwrite("pictures/a.png", np.zeros((8, 8), np.uint8))
    if "bare_lmdb" in arguments:
        write_lmdb(tmp_path / "bare_lmdb", array_records(np.zeros((3, 1, 8, 8), np.uint8), np.full(3, -1)))
    if "nan_lmdb" in arguments:
        write_lmdb(tmp_path / "nan_lmdb", array_records(np.full((3, 1, 8, 8), np.nan, np.float32), np.arange(3)))
    before = sorted(p.name for p in tmp_path.iterdir())
    fails(capsys, arguments, status, words)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU, and this is about machines without")
def test_a_gpu_that_is_not_there_is_said_with_what_to_do(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("good.caffemodel", "good_lmdb"):
        (tmp_path / name).symlink_to(kit / name)
    for command in (
        ["evaluate", *NET, "--lmdb", "good_lmdb", "--gpu", "0"],
        [*TRAIN, "good_lmdb", "--test_lmdb", "good_lmdb", "--gpu", "0"],
    ):
        # A Caffe for the CPU, or one for GPUs.
        fails(capsys, command, 1, "leave --gpu out")


def test_no_command_writes_over_what_it_reads(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copy(DIGITS, home / "net.prototxt")
    shutil.copy(kit / "good.caffemodel", home / "net.caffemodel")
    shutil.copytree(kit / "good_lmdb", home / "lmdb")
    (tmp_path / "link").symlink_to(home)
    net = ["--model", "home/net.prototxt", "--weights", "home/net.caffemodel"]
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    compress = ["compress", *net, "--lmdb", "home/lmdb", "--target_flops", "0.5", "--force", "--out"]
    for command, words in (
        ([*compress, "home"], "--out home: holds --model home/net.prototxt, which is read; name another --out"),
        ([*compress, "link"], "--out link: holds --model home/net.prototxt"),
        ([*compress, "home/lmdb"], "--out home/lmdb: is --lmdb home/lmdb"),
        (
            ["metrics", *net, *SIZE, "--out", "link/net.caffemodel"],
            "--out link/net.caffemodel: is --weights home/net.caffemodel",
        ),
        (
            ["evaluate", *net, "--lmdb", "home/lmdb", "--json", "home/net.prototxt"],
            "--json home/net.prototxt: is --model",
        ),
        (["data", "partial", "home/lmdb", "--images", "3", "--force", "--out", "home/lmdb"], "is the source home/lmdb"),
    ):
        fails(capsys, command, 1, words)
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    # A plan may be written anew in its own folder, which gets the same one.
    (home / "out").mkdir()
    (home / "out" / "ranks.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"conv2": 9}}))
    assert main(["emit", *net, *SIZE, "--ranks", "home/out/ranks.json", "--out", "home/out", "--force"]) == 0


def test_a_metric_of_labels_needs_some_before_it_measures(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lmdb(tmp_path / "bare", array_records(np.zeros((3, 1, 8, 8), np.uint8), np.full(3, -1)))
    given = [
        "compress",
        "--model",
        str(DIGITS),
        "--weights",
        str(kit / "good.caffemodel"),
        "--lmdb",
        str(tmp_path / "bare"),
        "--target_flops",
        "0.5",
    ]
    fails(capsys, [*given, "--metric", "loss", "--out", str(tmp_path / "o")], 2, "--metric loss needs labels, and ")
    fails(
        capsys,
        [*given, "--solver", "space", "--out", str(tmp_path / "o")],
        2,
        "--search_solver space says how the search solves",
    )
