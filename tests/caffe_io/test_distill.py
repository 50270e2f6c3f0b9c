"""Teacher and student side by side: what stock Caffe computes and trains of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.distill import (
    BETWEEN,
    LEAST_POWER,
    OUTPUT,
    SHIFT,
    TEACHER,
    Distillation,
    _relative,
    write_student,
)
from enc_caffe.caffe_io.prototxt import from_text, read_net, to_text
from enc_caffe.caffe_tools.programs import caffe_test, parse_training
from enc_caffe.caffe_tools.selection import criterion
from enc_caffe.cli import main
from enc_caffe.errors import UsageError
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import forward
from tests.measuring import nets

pytestmark = pytest.mark.caffe

DROPPED = 'layer { name: "drop" type: "Dropout" bottom: "g2" top: "g2d" dropout_param { dropout_ratio: 0.5 } }\n'
REGRESSION = nets.LOSS.replace("SoftmaxWithLoss", "EuclideanLoss").replace('bottom: "label"', 'bottom: "fc2"')


def with_dropout() -> str:
    """A Dropout that is not in place before the last layers."""
    return nets.grouped().replace('bottom: "g2" top: "pool"', 'bottom: "g2d" top: "pool"').replace(
        'layer { name: "pool"', DROPPED + 'layer { name: "pool"'
    )  # fmt: skip


TEXTS = {
    "residual": nets.residual(), "dropout": with_dropout(), "outputs": nets.grouped(""), "between": nets.residual(),
}  # fmt: skip


def emitted(folder: Path, text: str, *more: str, images: int = 24) -> Path:
    """Folder of a compressed network with what distils it; the images that choose are trained on."""
    model, weights = nets.write_net(folder, text)
    lmdb = nets.write_images(folder / "lmdb", images)
    assert main(
        ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--out", str(folder / "out"),
         "--target_flops", "0.5", "--store", str(folder / "s.sqlite"), "--distill", *more]
    ) == 0  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An emission of every network, held to its outputs alone but for one."""
    how = {name: "auto" if name == "between" else "none" for name in TEXTS}
    return {
        name: emitted(tmp_path_factory.mktemp(name), text, "--distill_blobs", how[name]) for name, text in TEXTS.items()
    }


def between(out: Path) -> dict[str, str]:
    """Losses of blobs between runs, and the blobs."""
    layers = [x for x in read_net(out / "distill.prototxt").layer if x.type == "Eltwise" and x.loss_weight]
    return {x.top[0]: x.top[0][len(BETWEEN) : -len("_loss")] for x in layers}


@pytest.mark.parametrize("name", TEXTS)
def test_the_loss_is_the_divergence_of_both_networks_outputs(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    out = folders[name]
    # Twelve images in three batches, as the TEST phase meets them.
    stock = caffe_test(out / "distill.prototxt", out / "distill.caffemodel", 3, tmp_path / "log")
    assert set(stock) == {OUTPUT, *between(out)} and bool(between(out)) == (name == "between")
    images = np.stack([x.pixels for x in _images(out.parent / "lmdb")][:12]).astype(np.float32)
    data = {"data": (images - 128) * 0.0078125}
    net = read_net(out / "deploy.prototxt")
    with CaffeExecutor() as executor:
        blobs = []
        for path, weights in (
            (out / "deploy.prototxt", out / "compressed.caffemodel"),
            (None, out.parent / "net.caffemodel"),
        ):
            text = to_text(net) if path is not None else _deploy(out.parent / "train_val.prototxt")
            wanted_of = ["fc", *between(out).values()]
            found = executor.result(executor.submit(forward, text, str(weights), data, wanted_of))
            blobs.append({n: a.astype(np.float64).reshape(12, -1) for n, a in found.items()})
    student, teacher = (own["fc"] for own in blobs)
    for loss, blob in between(out).items():
        # Of each batch by itself, as in a step.
        off, power = ((x.reshape(3, -1) ** 2).sum(1) for x in (blobs[0][blob] - blobs[1][blob], blobs[1][blob]))
        assert stock[loss] == pytest.approx(np.mean(off / power), rel=1e-4) and stock[loss] > 1e-4
    if name == "outputs":
        # What is printed is the layer's own: half of the sum of an image's squares. Its weight makes the mean of it.
        wanted = np.mean((student - teacher) ** 2) * 5 / 2
        layer = next(x for x in read_net(out / "distill.prototxt").layer if x.name == OUTPUT)
        assert layer.loss_weight[0] == pytest.approx(2 / 5)
    else:
        p = softmax(teacher / 2, axis=1)
        ratio = np.log(p + SHIFT) - np.log(softmax(student / 2, axis=1) + SHIFT)
        wanted = 4 * np.mean(np.sum(p * ratio, axis=1))
        exact = 4 * np.mean(np.sum(p * (log_softmax(teacher / 2, axis=1) - log_softmax(student / 2, axis=1)), axis=1))
        assert wanted == pytest.approx(exact, rel=1e-5)
    assert wanted > 0 and stock[OUTPUT] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("in_place", [False, True])
def test_nothing_is_dropped_where_blobs_are_compared(folders: dict[str, Path], in_place: bool, tmp_path: Path) -> None:
    text = with_dropout().replace('"g2d"', '"g2"') if in_place else with_dropout()
    out = emitted(tmp_path, text)
    kinds = {
        name: {x.type for x in read_net(p / "distill.prototxt").layer}
        for name, p in (("none", folders["dropout"]), ("auto", out))
    }
    assert "Dropout" in kinds["none"] and "Dropout" not in kinds["auto"] and between(out)
    # It is the emitted network's own, which goes on dropping.
    assert "Dropout" in {x.type for x in read_net(out / "train_val.prototxt").layer}
    stock = caffe_test(out / "distill.prototxt", out / "distill.caffemodel", 3, tmp_path / "log")
    assert set(stock) == {OUTPUT, *between(out)}


def test_a_blob_of_zeros_does_not_drown_the_rest(folders: dict[str, Path], tmp_path: Path) -> None:
    shape = "shape { dim: 2 dim: 3 } "
    fillers = 'data_filler { type: "constant" value: 0.1 } data_filler { type: "constant" value: 0 } '
    net = from_text(
        f'layer {{ name: "a" type: "DummyData" top: "a" top: "{TEACHER}a" dummy_data_param {{ {2 * shape}{fillers}}} }}'
    )
    _relative(net, "a")
    (tmp_path / "net.prototxt").write_text(to_text(net))
    stock = caffe_test(tmp_path / "net.prototxt", folders["between"] / "distill.caffemodel", 1, tmp_path / "log")
    assert stock[f"{BETWEEN}a_loss"] == pytest.approx(6 * 0.1**2 / LEAST_POWER, rel=1e-5)


def _images(lmdb: Path) -> list:
    from enc_caffe.caffe_io.datum import ImageLmdb

    images = ImageLmdb(lmdb)
    found = list(images.images())
    images.close()
    return found


def _deploy(model: Path) -> str:
    from enc_caffe import pipeline
    from enc_caffe.caffe_io.variants import deploy_net

    loaded = pipeline.load(model, None, (3, 12, 12))
    return to_text(deploy_net(loaded.net, loaded.network))


@pytest.mark.parametrize("name", TEXTS)
def test_caffe_train_moves_the_student_alone_and_the_loss_falls(
    name: str, folders: dict[str, Path], tmp_path: Path, capsys
) -> None:
    out, trained = folders[name], tmp_path / "trained"
    flags = [
        "finetune",
        "--distill",
        str(out),
        "--out",
        str(trained),
        "--max_iter",
        "40",
        "--snapshot",
        "20",
        "--base_lr",
    ]
    # The smallest network takes larger steps than others; the same for all would do little for it.
    assert main([*flags, "0.003", "--held_out_lmdb", str(out.parent / "lmdb")]) == 0
    assert "kept: the snapshot of iteration" in capsys.readouterr().out
    tests = {p.iteration: p.test for p in parse_training((trained / "caffe_train.log").read_text()) if p.test}
    assert sorted(tests) == [0, 20, 40] and set(tests[0]) == {OUTPUT, *between(out)}
    for loss in between(out):
        assert min(tests[20][loss], tests[40][loss]) < tests[0][loss]
    assert min(tests[20][OUTPUT], tests[40][OUTPUT]) < 0.9 * tests[0][OUTPUT]
    before, after = CaffeModel(out / "distill.caffemodel"), CaffeModel(trained / "snapshot_iter_40.caffemodel")
    moved = {
        n: any(not np.array_equal(before.array(a), after.array(b)) for a, b in zip(before.layers[n].blobs, after.layers[n].blobs))
        for n in before.layers
    }  # fmt: skip
    assert not any(v for n, v in moved.items() if n.startswith(TEACHER))
    assert {n for n, v in moved.items() if not v and not n.startswith(TEACHER)} <= {
        n for n in moved if n.endswith("_bn")
    }
    # What is taken out is an ordinary caffemodel of the ordinary network.
    student = CaffeModel(trained / "finetuned.caffemodel")
    assert set(student.layers) == set(CaffeModel(out / "compressed.caffemodel").layers)
    assert to_text(read_net(trained / "deploy.prototxt")) == to_text(read_net(out / "deploy.prototxt"))


def test_every_output_counts(tmp_path: Path) -> None:
    boxes = 'layer { name: "boxes" type: "InnerProduct" bottom: "pool" top: "boxes" inner_product_param { num_output: 4 } }\n'
    out = emitted(tmp_path, nets.grouped(boxes + 'layer { name: "p" type: "Softmax" bottom: "fc" top: "p" }\n'))
    stock = caffe_test(out / "distill.prototxt", out / "distill.caffemodel", 3, tmp_path / "log")
    assert set(stock) == {OUTPUT, "distill/boxes_loss", *between(out)} and min(stock.values()) > 0 and between(out)
    # And both choose the snapshot, with their weights: half of a EuclideanLoss's 4 values.
    by = criterion(read_net(out / "distill.prototxt"), "distill.prototxt")
    assert by.key(stock) == (pytest.approx(stock[OUTPUT] + 0.5 * stock["distill/boxes_loss"]),)


def test_data_layers_of_one_stage_are_there(tmp_path: Path) -> None:
    staged = nets.grouped().replace("include { phase: TEST }", 'include { phase: TEST stage: "own" }')
    out = emitted(tmp_path, staged.replace('name: "grouped"', 'name: "grouped" state { stage: "own" }', 1))
    assert list(read_net(out / "distill.prototxt").state.stage) == ["own"]
    assert set(caffe_test(out / "distill.prototxt", out / "distill.caffemodel", 3, tmp_path / "log")) == {
        OUTPUT,
        *between(out),
    }


def test_labels_count_where_they_are_asked_for_and_blobs_too(tmp_path: Path) -> None:
    out = emitted(
        tmp_path, nets.residual(), "--distill_labels", "0.5", "--distill_blobs", "sum=2,c0", "--batch_statistics"
    )
    net = read_net(out / "distill.prototxt")
    layers = {layer.name: layer for layer in net.layer}
    assert list(layers["loss"].bottom) == ["fc", "label"] and list(layers["loss"].loss_weight) == [0.5]
    for blob, weight in (("sum", 2.0), ("c0", 1.0)):
        own = layers[f"distill/{blob}_loss"]
        assert list(own.bottom) == [blob, TEACHER + blob]
        assert own.loss_weight[0] == pytest.approx(2 * weight / (8 * 12 * 12))
    assert layers[TEACHER + "c0_bn"].batch_norm_param.use_global_stats
    assert not layers["c0_bn"].batch_norm_param.HasField("use_global_stats")
    stock = caffe_test(out / "distill.prototxt", out / "distill.caffemodel", 6, tmp_path / "log")
    assert set(stock) == {OUTPUT, "loss", "distill/sum_loss", "distill/c0_loss"}
    with_labels = caffe_test(out / "train_val.prototxt", out / "compressed.caffemodel", 6, tmp_path / "log")
    assert stock["loss"] == pytest.approx(with_labels["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--distill", "--distill_blobs", "nowhere"], "--distill_blobs: the original network has no blob 'nowhere'"),
        (
            ["--distill", "--distill_blobs", "sum=-1"],
            "--distill_blobs sum=-1: BLOB or BLOB=WEIGHT with a weight above 0",
        ),
        (["--distill", "--temperature", "0"], "--temperature 0: a number above 0 is needed"),
        (["--distill", "--distill_labels", "-1"], "--distill_labels -1: 0 or more is needed"),
        (["--quality", "max", "--distill_iterations", "-5"], "--distill_iterations -5: 0 or more are needed"),
        (["--temperature", "2"], "--temperature says how to distil; give --distill too"),
    ],
)
def test_what_cannot_be_asked_for(flags: list[str], words: str, tmp_path: Path, capsys) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 24)
    assert main(
        ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--out", str(tmp_path / "out"),
         "--target_flops", "0.5", *flags]
    ) == 2  # fmt: skip
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_distillation_is_run_from_its_folder_alone(folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    out = folders["residual"]
    for flags, words in (
        (
            ["--distill", str(tmp_path)],
            "distill_solver.prototxt does not exist; emit or compress with --distill writes it",
        ),
        (
            ["--distill", str(out), "--weights", "w"],
            "--distill names the solver, the network and the weights itself; --weights",
        ),
        ([], "give --solver, or --distill with a folder of emit --distill"),
    ):
        assert main(["finetune", *flags, "--out", str(tmp_path / "f")]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(UsageError, match="--temperature inf"):
        Distillation(temperature=float("inf"))


def test_a_deploy_file_without_class_scores_is_trained_by_its_teacher(tmp_path: Path, capsys) -> None:
    text = 'name: "maps" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
    out = emitted(tmp_path, text + nets.conv("a", "data", 8) + nets.simple("ra", "ReLU", "a") + nets.conv("b", "a", 8))
    # It has no loss of its own.
    plain = ["finetune", "--solver", str(out / "solver.prototxt"), "--weights", str(out / "compressed.caffemodel")]
    assert main([*plain, "--out", str(tmp_path / "plain")]) == 1
    assert "no loss can be added" in (said := capsys.readouterr().err) and "finetune --distill" in said
    trained = tmp_path / "trained"
    assert main(["finetune", "--distill", str(out), "--max_iter", "2", "--out", str(trained)]) == 0, (
        capsys.readouterr().err
    )
    before, after = (CaffeModel(p).layers for p in (out / "compressed.caffemodel", trained / "finetuned.caffemodel"))
    assert set(before) == set(after) and {x.type for x in read_net(trained / "deploy.prototxt").layer} == {
        "Input",
        "Convolution",
        "ReLU",
    }


def test_the_student_of_both_is_what_it_was(folders: dict[str, Path], tmp_path: Path) -> None:
    out = folders["dropout"]
    write_student(tmp_path / "s.caffemodel", out / "distill.caffemodel")
    first, second = CaffeModel(out / "compressed.caffemodel"), CaffeModel(tmp_path / "s.caffemodel")
    assert list(first.layers) == list(second.layers)
    for name, stored in first.layers.items():
        for a, b in zip(stored.blobs, second.layers[name].blobs):
            assert np.array_equal(first.array(a), second.array(b))


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss"])
def test_training_files_of_places_and_of_labels_by_themselves_are_distilled(tmp_path: Path, kind: str) -> None:
    """Their deploy form has a Softmax or a Sigmoid that they do not have: no output to be held to."""
    source = 'layer {{ name: "maps" type: "Data" top: "maps" transform_param {{ scale: 0.0039 }} data_param {{ source: "{}" batch_size: 4 backend: LMDB }} }}\n'
    maps = source.format(nets.write_images(tmp_path / "maps", 24))
    end = "c2" if kind == "SoftmaxWithLoss" else "c3"
    loss = f'layer {{ name: "loss" type: "{kind}" bottom: "{end}" bottom: "truth" top: "loss" }}\n'
    text = (
        nets.HEAD.format(name="n").replace('top: "label"', "") + maps
        + 'layer { name: "s" type: "Slice" bottom: "maps" top: "truth" top: "rest" slice_param { slice_point: 1 } }\n'
        + 'layer { name: "silence" type: "Silence" bottom: "rest" }\n' + nets.conv("c1", "data", 8)
        + nets.conv("c2", "c1", 8) + ("" if end == "c2" else nets.conv("c3", "c2", 1, 1)) + loss
    )  # fmt: skip
    out = emitted(tmp_path, text, "--decomposition", "weighted")
    assert "teacher/prob" not in {layer.name for layer in read_net(out / "distill.prototxt").layer}
    trained = tmp_path / "trained"
    assert (
        main(
            [
                "finetune",
                "--distill",
                str(out),
                "--max_iter",
                "2",
                "--test_lmdb",
                str(tmp_path / "lmdb"),
                "--out",
                str(trained),
            ]
        )
        == 0
    )
    assert (trained / "finetuned.caffemodel").is_file()
