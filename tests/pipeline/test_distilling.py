"""What cannot be trained by the original's outputs is refused before anything is measured, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli import main
from enc_caffe.errors import UsageError
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.distilled import check_trainable
from enc_caffe.pipeline.loading import load
from tests.measuring import nets

pytestmark = pytest.mark.caffe

INPUT = 'name: "n"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
OWN = (
    'name: "n"\nlayer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } '
    'shape { dim: 2 } data_filler { type: "gaussian" } data_filler { type: "constant" } } }\n'
)
BODY = nets.conv("c1", "data", 8) + nets.conv("c2", "c1", 8)
AXPY = 'layer { name: "axpy" type: "Axpy" bottom: "gate" bottom: "c2" bottom: "c1" top: "axpy" }\n'
FORK = (
    INPUT + BODY
    + 'layer { name: "gate" type: "Pooling" bottom: "c2" top: "gate" pooling_param { pool: AVE global_pooling: true } }\n'
    + AXPY + nets.conv("a0", "axpy", 8)
)  # fmt: skip
ONE_PHASE = nets.HEAD.format(name="n").replace("phase: TRAIN", 'phase: TEST stage: "never"') + BODY
CASES = {
    # the layer that Caffe lacks, not one of those behind it
    "fork": (FORK, "layer 'axpy': Caffe has no type 'Axpy' and cannot train the network by its own outputs", "--caffe_root DIR"),
    "own data": (OWN + BODY, "layer 'data' (DummyData) makes values of its own", "give its deploy prototxt, or an Input layer"),
    "one phase": (ONE_PHASE, "has data layers for the phase TEST only", "the other one needs images too"),
}  # fmt: skip


def nothing_measured(path: Path) -> bool:
    """Whether a store has no result."""
    with ResultStore(path) as store:
        return not store.contexts()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", ["compress --distill", "compress --quality max", "emit --distill"])
def test_it_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    text, why, remedy = CASES[name]
    model, weights = nets.write_net(tmp_path, text)
    lmdb, store, out = nets.write_images(tmp_path / "lmdb", 8), tmp_path / "store.sqlite", tmp_path / "out"
    (tmp_path / "ranks.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"c2": 4}}))
    command, *more = how.split()
    more += ["--target_flops", "0.8"] if command == "compress" else ["--ranks", str(tmp_path / "ranks.json")]
    more += [] if "max" in more else ["--decomposition", "weighted"]
    files = ["--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--store", str(store)]
    assert main([command, *files, *more, "--out", str(out)]) in (1, 2)
    said = capsys.readouterr().err
    assert why in said.splitlines()[-1] and remedy in said.splitlines()[-1]
    assert nothing_measured(store) and not out.exists()


SECOND = (
    'layer { name: "maps" type: "Data" top: "maps" data_param { source: "SECOND" batch_size: 4 backend: LMDB } }\n'
    'layer { name: "beside" type: "EuclideanLoss" bottom: "c2" bottom: "maps" top: "beside" }\n'
)


@pytest.mark.parametrize(
    ("text", "images", "words"),
    [
        (INPUT + BODY, 19, "at least 20 images are needed to hold some out, and there are 19; --distill_iterations 0"),
        (
            (nets.HEAD.format(name="n") + BODY).replace('"Data"', '"ImageData"'), 40,
            "layer 'data' (ImageData) brings the images of the TEST phase",
        ),
        (nets.HEAD.format(name="n") + BODY + SECOND, 40, "layer 'maps' (Data) brings what goes with each image"),
    ],
)  # fmt: skip
def test_images_of_which_none_can_be_held_out_are_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, images: int, words: str
) -> None:
    nets.write_images(tmp_path / "other", 30)
    model, weights = nets.write_net(tmp_path, text.replace("SECOND", str(tmp_path / "other")))
    lmdb, store = nets.write_images(tmp_path / "lmdb", images), tmp_path / "store.sqlite"
    files = ["--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--store", str(store)]
    assert main(["compress", *files, "--quality", "max", "--target_flops", "0.8", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert words in said and "--distill_iterations 0 trains nothing" in said and nothing_measured(store)
    # Flags of another command, and names of its own.
    assert not any(word in said for word in ("--held_out_lmdb", "--keep_best", ".arrays"))


def test_blobs_that_are_not_there_are_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, weights = nets.write_net(tmp_path, INPUT + BODY)
    lmdb, store = nets.write_images(tmp_path / "lmdb", 8), tmp_path / "store.sqlite"
    assert main(
        ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--store", str(store), "--out",
         str(tmp_path / "out"), "--target_flops", "0.8", "--decomposition", "weighted", "--distill", "--distill_blobs", "c9"]
    ) == 2  # fmt: skip
    assert "the original network has no blob 'c9'" in capsys.readouterr().err and nothing_measured(store)


def test_a_network_written_for_one_image_is_trained_image_by_image(tmp_path: Path) -> None:
    """As text readers are: behind a Reshape time comes first, and it says how many values one image has."""
    steps = (
        'layer { name: "t" type: "Reshape" bottom: "c2" top: "t" reshape_param { shape { dim: 12 dim: 1 dim: 96 } } }\n'
    )
    head = (
        'layer { name: "f" type: "InnerProduct" bottom: "t" top: "f" inner_product_param { num_output: 9 axis: 2 } }\n'
    )
    out, trained, lmdb = tmp_path / "out", tmp_path / "trained", nets.write_images(tmp_path / "lmdb", 8)
    model, weights = nets.write_net(tmp_path, INPUT + BODY + steps + head)
    files = ["--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--store", str(tmp_path / "s")]
    assert (
        main(["compress", *files, "--target_flops", "0.8", "--distill", "--test_lmdb", str(lmdb), "--out", str(out)])
        == 0
    )
    batches = {x.data_param.batch_size for x in read_net(out / "distill.prototxt").layer if x.type == "Data"}
    assert batches == {1}
    assert main(["finetune", "--distill", str(out), "--max_iter", "2", "--out", str(trained)]) == 0
    assert (trained / "finetuned.caffemodel").is_file()


def test_a_training_without_images_names_its_own_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, weights = nets.write_net(tmp_path, INPUT + BODY)
    (tmp_path / "ranks.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"c2": 4}}))
    files = ["--model", str(model), "--weights", str(weights), "--ranks", str(tmp_path / "ranks.json")]
    assert main(["emit", *files, "--distill", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["finetune", "--distill", str(tmp_path / "out"), "--out", str(tmp_path / "trained")]) == 1
    said = capsys.readouterr().err
    assert (
        "does not say how large its images are" in said and "give --train_lmdb and --test_lmdb, or --top_shape" in said
    )
    assert "--images" not in said and "--input_shape" not in said


def test_images_are_held_out_of_those_that_a_stage_trains_on(tmp_path: Path) -> None:
    """Data layers that stages choose: the network that is looked at has those of the test alone."""
    many, few = nets.write_images(tmp_path / "many", 30), nets.write_images(tmp_path / "few", 5)
    data = (
        'layer {{ name: "{0}" type: "Data" top: "data" top: "label" include {{ stage: "{0}" }} '
        'data_param {{ source: "{1}" batch_size: 4 backend: LMDB }} }}\n'
    )
    for train, test in ((many, few), (few, many)):
        path = tmp_path / "n.prototxt"
        path.write_text(
            data.format("train", train) + data.format("val", test) + BODY + nets.TAIL.format(last="c2") + nets.LOSS
        )
        loaded = load(path, input_shape=(3, 12, 12), stages=("val",))
        if train is many:
            check_trainable(loaded, Distillation())
        else:
            with pytest.raises(
                UsageError, match="few: at least 20 images are needed to hold some out, and there are 5"
            ):
                check_trainable(loaded, Distillation())
