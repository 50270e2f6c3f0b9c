"""``--images`` in place of ``--lmdb``: people's own pictures, with real Caffe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.cli import main
from tests.measuring import nets
from tests.measuring.test_feeding import FLAGS, INPUT, deploy_of

pytestmark = pytest.mark.caffe


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deploy pair and 24 pictures in one folder; the cache is the test's own."""
    monkeypatch.setenv("ENC_CAFFE_CACHE", str(tmp_path / "cache"))
    nets.write_net(tmp_path, nets.residual())
    (tmp_path / "deploy.prototxt").write_text(deploy_of(nets.residual()))
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(24):
        small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), cv2.resize(small, (12, 12)))
    return tmp_path


def metrics(kit: Path, out: str, *more: str, model: str = "deploy.prototxt") -> int:
    return main(["metrics", "--model", str(kit / model), "--weights", str(kit / "net.caffemodel"), "--samples", "0.5",
                 "--store", str(kit / "s"), "--out", str(kit / out), *more])  # fmt: skip


def values(path: Path) -> str:
    """Metrics without the name of the images."""
    data = json.loads(path.read_text())
    data.pop("lmdb", None)
    data.pop("source", None)
    return json.dumps(data)


def test_a_folder_a_list_and_arrays_are_the_same_images(kit: Path, capsys) -> None:
    paths = [kit / "pictures" / f"{i}.png" for i in range(24)]
    (kit / "list.txt").write_text("".join(f"pictures/{p.name}\n" for p in paths))
    np.savez(kit / "arrays.npz", images=np.stack([cv2.imread(str(p)).transpose(2, 0, 1) for p in paths]))
    assert main(["data", "folder", str(kit / "pictures"), "--out", str(kit / "lmdb")]) == 0
    assert metrics(kit, "lmdb.json", "--lmdb", str(kit / "lmdb"), *FLAGS) == 0
    for source in ("pictures", "list.txt", "arrays.npz"):
        assert metrics(kit, f"{source}.json", "--images", str(kit / source), *FLAGS) == 0
    assert "(value - 128) * 0.0078125, by the flags" in capsys.readouterr().err
    # In a folder by name, in a list and arrays by position, shuffled alike; sums over images in another order are near.
    wanted = json.loads((kit / "lmdb.json").read_text())["layers"]
    for source in ("pictures", "list.txt", "arrays.npz"):
        for ours, theirs in zip(json.loads((kit / f"{source}.json").read_text())["layers"], wanted):
            (ours,), (theirs,) = ours["curves"], theirs["curves"]
            assert ours["sampled_divergence"] == pytest.approx(theirs["sampled_divergence"], rel=1e-4)
    assert values(kit / "pictures.json") == values(kit / "lmdb.json")


def test_the_same_files_are_read_once(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert metrics(kit, "a.json", "--images", str(kit / "pictures")) == 0

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("enc_caffe.caffe_io.sources.read_picture", refuse)
        assert metrics(kit, "b.json", "--images", str(kit / "pictures")) == 0
    assert (kit / "a.json").read_text() == (kit / "b.json").read_text()
    assert len(list((kit / "cache" / "images").iterdir())) == 1
    # A picture that changed makes another LMDB.
    cv2.imwrite(str(kit / "pictures" / "3.png"), np.zeros((12, 12, 3), np.uint8))
    assert metrics(kit, "c.json", "--images", str(kit / "pictures")) == 0
    assert len(list((kit / "cache" / "images").iterdir())) == 2
    assert (kit / "c.json").read_text() != (kit / "a.json").read_text()


def test_pictures_of_several_sizes_are_brought_to_the_networks_input(kit: Path, capsys) -> None:
    for i in range(6):
        assert cv2.imwrite(str(kit / "pictures" / f"big{i}.jpg"), np.full((20 + i, 31, 3), 10 * i, np.uint8))
    out = kit / "out"
    assert main(["compress", "--model", str(kit / "deploy.prototxt"), "--weights", str(kit / "net.caffemodel"), "--images",
                 str(kit / "pictures"), "--target_flops", "0.6", "--quality", "best", "--refine", "0", "--store", str(kit / "s"),
                 "--out", str(out), *FLAGS]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "images of another size are resized to 12x12 (height x width), the network's input" in said.err
    evaluation = json.loads((out / "evaluation.json").read_text())
    # What the user named, not where it is kept.
    assert evaluation["images"] == 30 and evaluation["lmdb"] == str(kit / "pictures")
    lmdb = ImageLmdb(next((kit / "cache" / "images").iterdir()) / "pictures")
    assert {i.pixels.shape for i in lmdb.images()} == {(3, 12, 12)}
    lmdb.close()
    # A train_val does not say one size: the user must.
    assert metrics(kit, "t.json", "--images", str(kit / "pictures"), model="train_val.prototxt") == 1
    assert "give --resize" in capsys.readouterr().err
    assert (
        metrics(kit, "t.json", "--images", str(kit / "pictures"), "--resize", "12,12", model="train_val.prototxt") == 0
    )


def test_a_network_whose_size_is_set_when_it_runs_is_evaluated_at_that_size(kit: Path, capsys) -> None:
    """Its deploy file says 1x1, or nothing: --input_shape says the size, and the images of an LMDB do where nothing else does."""
    for i in range(10):
        place = kit / "classes" / f"class{i % 5}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(kit / "pictures" / f"{i}.png", place)
    text = (kit / "deploy.prototxt").read_text()
    assert text.count("dim: 12 dim: 12") == 1
    one, none = (
        text.replace("dim: 12 dim: 12", "dim: 1 dim: 1"),
        text.replace(INPUT, INPUT.partition(" input_shape")[0]),
    )
    assert main(["data", "folder", str(kit / "classes"), "--out", str(kit / "lmdb")]) == 0
    found, images, lmdb = [], ["--images", str(kit / "classes")], ["--lmdb", str(kit / "lmdb")]
    size = ["--input_shape", "3,12,12"]
    for own, flags in (
        (text, images),
        (one, [*images, *size]),
        (one, [*lmdb, *size]),
        (none, [*images, *size]),
        (none, lmdb),
    ):
        (kit / "own.prototxt").write_text(own)
        command = ["evaluate", "--model", str(kit / "own.prototxt"), "--weights", str(kit / "net.caffemodel"), *FLAGS]
        capsys.readouterr()
        assert main([*command, *flags]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 1 and "of 10 images" in found[0]
    (kit / "own.prototxt").write_text(one)
    assert main([*command, *images]) == 2
    assert (
        "its input is 1x1, which stands for a size that is set when it runs; give --input_shape C,H,W"
        in capsys.readouterr().err
    )


def test_labelled_folders_give_accuracies(kit: Path, capsys) -> None:
    for i in range(10):
        place = kit / "classes" / f"class{i % 5}"
        place.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(place / f"{i}.png"), np.full((12, 12, 3), 20 * i, np.uint8))
    assert main(["evaluate", "--model", str(kit / "train_val.prototxt"), "--weights", str(kit / "net.caffemodel"), "--images",
                 str(kit / "classes"), "--json", str(kit / "e.json")]) == 0  # fmt: skip
    assert "of 10 images)" in capsys.readouterr().out
    assert json.loads((kit / "e.json").read_text())["lmdb"] == str(kit / "classes")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("nothing", "does not exist"),
        ("lmdb", "is an LMDB already; give it as --lmdb"),
        ("empty", "holds no images"),
        ("broken", "broken.png: holds no image that OpenCV can read"),
    ],
)
def test_images_that_cannot_be_had(kit: Path, capsys, make: str, words: str) -> None:
    source = kit / make
    if make == "lmdb":
        nets.write_images(source, 3)
    elif make != "nothing":
        source.mkdir()
    if make == "broken":
        (source / "broken.png").write_bytes(b"no png")
    assert metrics(kit, "o.json", "--images", str(source)) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    cached = kit / "cache" / "images"
    assert not cached.exists() or not list(cached.rglob("data.mdb"))
    assert not (kit / "o.json").exists()


def test_sizes_are_known_by_the_images(kit: Path, capsys) -> None:
    given = ["--model", str(kit / "train_val.prototxt"), "--images", str(kit / "pictures")]
    assert main(["inspect", *given]) == 0
    assert "12x12" in capsys.readouterr().out
    assert main(["latency", *given, "--ranks", "2", "--out", str(kit / "l.json")]) == 0


def test_what_was_made_of_images_can_be_removed(kit: Path, capsys) -> None:
    assert metrics(kit, "a.json", "--images", str(kit / "pictures")) == 0
    results = (kit / "s").read_bytes()
    assert main(["store", "prune", "--images", "--store", str(kit / "s")]) == 0
    assert not (kit / "cache" / "images").exists() and (kit / "s").read_bytes() == results
    assert "LMDBs made of --images were removed" in capsys.readouterr().out
    assert main(["store", "prune", "--images", "--store", str(kit / "s")]) == 0


def test_images_and_lmdb_exclude_each_other(kit: Path, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        metrics(kit, "o.json", "--images", "a", "--lmdb", "b")
    assert caught.value.code == 2 and "not allowed with argument" in capsys.readouterr().err


def test_a_wrong_target_is_told_before_pictures_are_read(kit: Path, capsys) -> None:
    for target, words in (
        (["--target_flops", "50"], "a part of the original MACs in (0, 1] is needed"),
        ([], "no target"),
    ):
        assert main(["compress", "--model", str(kit / "deploy.prototxt"), "--weights", str(kit / "net.caffemodel"), "--images",
                     str(kit / "pictures"), *target, "--out", str(kit / "out")]) == 2  # fmt: skip
        assert words in capsys.readouterr().err
    assert not (kit / "cache").exists()


@pytest.mark.parametrize(
    ("kind", "command", "words"),
    [
        ("folder", "evaluate", "its images have no labels for 'label'; an accuracy needs them"),
        ("list", "evaluate", "labels go from 0 to 7, but the network has 5 classes"),
        ("arrays", "evaluate", "images become (3, 10, 10) (C, H, W), but the network's 'data' needs (3, 12, 12)"),
        ("nothing", "evaluate", "holds no image, its array of images is (0, 3, 10, 10)"),
        ("turned", "evaluate", "these look like (N, H, W, C): images.transpose(0, 3, 1, 2) turns them"),
        ("png", "evaluate", "3.png: its images have no labels for 'label'"),
        ("arrays", "metrics", "images become (3, 10, 10) (C, H, W), but the network's 'data' needs (3, 12, 12)"),
        ("list", "compress", "labels go from 0 to 7, but the network has 5 classes"),
        ("scale", "metrics", "the original network's cross-entropy on the first"),
        ("scale", "compress", "the original network's cross-entropy on the first"),
    ],
)
def test_messages_name_what_the_user_gave(kit: Path, capsys, kind: str, command: str, words: str) -> None:
    source = kit / "pictures"
    if kind in ("list", "scale"):
        source = kit / "images.txt"
        marks = [i % 8 for i in range(24)] if kind == "list" else [i % 5 for i in range(24)]
        source.write_text("".join(f"pictures/{i}.png {mark}\n" for i, mark in enumerate(marks)))
    elif kind == "png":
        source = kit / "pictures" / "3.png"
    elif kind != "folder":
        source, number = kit / "arrays.npz", 0 if kind == "nothing" else 6
        shape = (12, 12, 3) if kind == "turned" else (3, 10, 10)
        np.savez(source, images=np.zeros((number, *shape), np.uint8), labels=np.arange(number) % 5)
    # A deploy file takes images of one size alone; an LMDB's sizes become those of a train_val.
    model = kit / ("deploy.prototxt" if kind in ("arrays", "turned") else "train_val.prototxt")
    net = ["--model", str(model), "--weights", str(kit / "net.caffemodel"), "--images", str(source)]
    # So large that the network is sure, and wrong.
    net += ["--scale", "1000"] if kind == "scale" else []
    out = ["--store", str(kit / "s"), "--out", str(kit / "out")]
    main({
        "evaluate": ["evaluate", *net],
        "metrics": ["metrics", *net, "--samples", "0.5", *out],
        "compress": ["compress", *net, "--target_flops", "0.8", "--metric", "measured", *out],
    }[command])  # fmt: skip
    said = "".join(capsys.readouterr())
    assert words in said and str(kit / "cache") not in said and str(source) in said
    assert "Traceback" not in said


def test_a_damaged_copy_is_made_again(kit: Path, capsys) -> None:
    command = ["inspect", "--model", str(kit / "train_val.prototxt"), "--images", str(kit / "pictures")]
    assert main(command) == 0
    before = capsys.readouterr().out
    (data,) = (kit / "cache" / "images").rglob("data.mdb")
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    assert main(command) == 0
    assert capsys.readouterr().out == before and data.stat().st_size == len(whole)


def test_metrics_say_why_there_is_no_accuracy(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(24):
        (kit / "classes" / str(i % 5)).mkdir(parents=True, exist_ok=True)
        shutil.copy(kit / "pictures" / f"{i}.png", kit / "classes" / str(i % 5))
    text = deploy_of(nets.residual())
    (kit / "scoreless.prototxt").write_text(text[: text.index('layer { name: "prob"')])
    for model, images, words in (
        # These images have labels, and the network does nothing with them.
        ("scoreless.prototxt", "classes", "classes: the network has no class scores; the divergence"),
        ("deploy.prototxt", "pictures", "pictures: no labels of the network's classes; the divergence"),
    ):
        assert metrics(kit, "m.json", "--images", str(kit / images), model=model) == 0
        assert words in capsys.readouterr().err
