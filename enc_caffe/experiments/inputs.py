"""What an experiment needs: weights and images, from the user, ENC_CAFFE_DATA or downloads; said before, checked first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.audit import audit
from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.sheets import read_sheets
from enc_caffe.errors import UsageError
from enc_caffe.experiments.fetch import (
    RESOURCES,
    Resource,
    cifar10_folder,
    data_folder,
    download_folder,
    fetch,
    is_here,
)
from enc_caffe.experiments.settings import Experiment
from enc_caffe.experiments.steps import Steps
from enc_caffe.workers.choice import Workers

SUBSET = "cifar10_subset.npz"
#: Folders of sheets (:mod:`enc_caffe.caffe_io.sheets`), and how many test images all of CIFAR-10 has.
SHEETS, ALL_TEST = "cifar10", 10000
#: Zero pixels around training images that are cropped at random (CIFAR-10's usual augmentation, and the published solver's).
PAD = 4
RESIZED = "convert_imageset --resize_height=256 --resize_width=256"
IMAGENET = """ImageNet must be your own (ILSVRC-2012; train.txt and val.txt: lines of FILE LABEL, labels 0 to 999). Make its LMDBs by
  convert_imageset --resize_height=256 --resize_width=256 --shuffle TRAIN/ train.txt imagenet_train_lmdb   # 1,281,167 images, 252 GB
  convert_imageset --resize_height=256 --resize_width=256 VAL/ val.txt imagenet_val_lmdb                   # 50,000 images, 10 GB
  and name them: IMAGENET_LMDB=imagenet_train_lmdb TEST_LMDB=imagenet_val_lmdb. The prototxts subtract the mean
  colour 104, 117, 123 (B, G, R): no mean file is needed."""


@dataclass(frozen=True)
class Choices:
    """What the caller of an experiment decides."""

    methods: tuple[str, ...] = ()
    metrics: Optional[Path] = None
    weights: Optional[Path] = None
    train_lmdb: Optional[Path] = None
    test_lmdb: Optional[Path] = None
    any_images: bool = False
    finetune: bool = False
    workers: Workers = Workers(2)
    gpu: str = ""


@dataclass(frozen=True)
class Inputs:
    """Weights and LMDBs: images that choose (partial), test, and training images; and in words what the test images are."""

    weights: Path
    partial: Path
    test: Path
    train: Path
    words: str
    train_images: int


def resources(x: Experiment, choices: Choices) -> list[Resource]:
    """Files that would have to be downloaded."""
    wanted = [] if choices.weights or not x.weights else [RESOURCES[x.weights]]
    if x.data == "cifar10" and local_images() is None:
        wanted.append(RESOURCES["cifar-10-binary.tar.gz"])
    return [r for r in wanted if not is_here(r)]


def local_images() -> Optional[Path]:
    """CIFAR-10 where ENC_CAFFE_DATA has it: as sheets of images, else a subset as arrays."""
    local = data_folder()
    if local is None:
        return None
    if all((local / SHEETS / part / "labels.npz").is_file() for part in ("train", "test")):
        return local / SHEETS
    return local / SUBSET if (local / SUBSET).is_file() else None


def announce(x: Experiment, choices: Choices, say: Callable[[str], None]) -> None:
    """What will be downloaded, what is needed, and about how long it takes."""
    missing = resources(x, choices)
    if missing:
        size = sum(r.megabytes for r in missing)
        say(f"{x.name}: downloads {', '.join(f'{r.what} ({r.megabytes:g} MB)' for r in missing)} to {download_folder()}, {size:g} MB in all")  # fmt: skip
    else:
        say(f"{x.name}: downloads nothing")
    if x.data == "cifar10":
        found = local_images()
        part = " (a SUBSET of CIFAR-10)" if found and found.name == SUBSET else ""
        say(f"needs images: {found}{part}" if found else "needs images: CIFAR-10, all of it")
    else:
        say(f"needs images: {choices.train_lmdb} and {choices.test_lmdb}")
    if x.takes:
        say(f"takes: {x.takes}")


def check_given(x: Experiment, choices: Choices) -> None:
    """What the user has to name, before anything is downloaded or made.

    Raises
    ------
    UsageError
        If it is not named; the message says how to make it.
    DatasetError
        If an LMDB is not what is needed.
    """
    if x.data == "imagenet" and (choices.train_lmdb is None or choices.test_lmdb is None):
        raise UsageError(
            f"{x.name}: give METRICS=FILE to search only, or IMAGENET_LMDB= and TEST_LMDB= of your own ImageNet (labels 0 to 999):",
            f"  {RESIZED} --shuffle TRAIN/ train.txt imagenet_train_lmdb",
            f"  {RESIZED} VAL/ val.txt imagenet_val_lmdb",
        )
    if choices.weights is None and not x.weights:
        raise UsageError(f"{x.name}: its settings name no weights; give WEIGHTS=FILE.caffemodel")
    if x.data == "imagenet":
        assert choices.train_lmdb is not None and choices.test_lmdb is not None
        check_lmdbs(x, choices)


def gather(x: Experiment, choices: Choices, out: Path, steps: Steps, bar: Callable[..., None]) -> Inputs:
    """Everything that is needed, checked and made; raises what :func:`check_given` does."""
    check_given(x, choices)
    weights = choices.weights or fetch(RESOURCES[x.weights])
    return _cifar10(x, weights, out, steps) if x.data == "cifar10" else _imagenet(x, choices, weights, out, steps, bar)


def check_lmdbs(x: Experiment, choices: Choices) -> None:
    """Count, size and labels of the user's LMDBs; ``any_images`` leaves the counts and labels to the user."""
    assert choices.train_lmdb is not None and choices.test_lmdb is not None
    net = read_net(x.model)
    side = max((int(layer.transform_param.crop_size) for layer in data_layers(net)), default=0)
    for path, least in ((choices.train_lmdb, x.images), (choices.test_lmdb, x.images // 20)):
        if choices.any_images:
            ImageLmdb(path).close()
        else:
            audit(path, least, x.classes, side)


def _imagenet(x: Experiment, choices: Choices, weights: Path, out: Path, steps: Steps, bar: Any) -> Inputs:
    train, test = choices.train_lmdb, choices.test_lmdb
    assert train is not None and test is not None
    partial, number = out / "partial_lmdb", count(train)

    def make() -> dict[str, Any]:
        total, records = sources.part_of(train, x.partial, None)
        write_lmdb(partial, (_counted(r, i, total, bar) for i, r in enumerate(records)), force=True)
        return {"images": total}

    steps.run("partial", {"of": lmdb_identity(train), "part": x.partial}, [partial], make)
    return Inputs(weights, partial, test, train, f"accuracy on the {count(test):,} images of {test.name}", number)


def _counted(record: Any, i: int, total: int, bar: Any) -> Any:
    bar(i + 1, total, "partial images")
    return record


def _cifar10(x: Experiment, weights: Path, out: Path, steps: Steps) -> Inputs:
    found = local_images()
    paths = {"partial": out / "partial_lmdb", "test": out / "test_lmdb", "train": out / f"train_pad{PAD}_lmdb"}

    def from_subset() -> dict[str, Any]:
        assert found is not None
        with np.load(found, allow_pickle=False) as data:
            arrays = {k: (data[f"{k}_images"], data[f"{k}_labels"].astype(np.int64)) for k in ("train", "test")}
        for name, part, pad in (("test", "test", 0), ("partial", "train", 0), ("train", "train", PAD)):
            write_lmdb(paths[name], sources.from_arrays(*arrays[part], pad)[1], force=True)
        return {"train": len(arrays["train"][0]), "test": len(arrays["test"][0])}

    def from_all() -> dict[str, Any]:
        folder = cifar10_folder()
        test, records = sources.from_cifar10(folder, "test")
        write_lmdb(paths["test"], records, force=True)
        write_lmdb(out / "train_lmdb", sources.from_cifar10(folder, "train")[1], force=True)
        write_lmdb(paths["partial"], sources.part_of(out / "train_lmdb", x.partial, None)[1], force=True)
        train, records = sources.from_cifar10(folder, "train", PAD)
        write_lmdb(paths["train"], records, force=True)
        return {"train": train, "test": test}

    def from_sheets() -> dict[str, Any]:
        assert found is not None
        test, train = (read_sheets(found / part) for part in ("test", "train"))
        write_lmdb(paths["test"], sources.from_arrays(*test)[1], force=True)
        write_lmdb(out / "train_lmdb", sources.from_arrays(*train)[1], force=True)
        write_lmdb(paths["partial"], sources.part_of(out / "train_lmdb", x.partial, None)[1], force=True)
        write_lmdb(paths["train"], sources.from_arrays(*train, PAD)[1], force=True)
        return {"train": len(train[0]), "test": len(test[0])}

    files = [] if found is None else sorted(found.rglob("*.*")) if found.is_dir() else [found]
    inputs = {
        "source": str(found) if found else "all",
        "bytes": sum(f.stat().st_size for f in files),
        "part": x.partial,
    }
    make = from_all if found is None else from_sheets if found.is_dir() else from_subset
    made = steps.run("images", inputs, list(paths.values()), make)
    return Inputs(
        weights, paths["partial"], paths["test"], paths["train"], f"accuracy on {_words(made['test'])}", made["train"]
    )


def _words(test: int) -> str:
    """Which test images these are: all, nearly all or a subset."""
    if test == ALL_TEST:
        return "CIFAR-10's 10,000 test images"
    if test > 0.99 * ALL_TEST:
        return f"{test:,} of CIFAR-10's 10,000 test images"
    return f"a SUBSET of CIFAR-10: {test:,} of its 10,000 test images"


def count(path: Path) -> int:
    """Images of an LMDB."""
    images = ImageLmdb(path)
    number = len(images)
    images.close()
    return number


def lmdb_identity(path: Path) -> list[Any]:
    """Path, size and time of an LMDB: what a step knows it by, since hashing 252 GB would take longer than the step."""
    stat = (Path(path) / "data.mdb").stat()
    return [str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns]


def cifar_parts(out: Path, number: int) -> tuple[Path, Path]:
    """LMDBs of the first ``number`` training images of CIFAR-10, and of all test images that are here; made once.

    Raises
    ------
    UsageError
        For a number below 1, or above what is here.
    """
    paths = out / f"train{number}_lmdb", out / "test_lmdb"
    for path, part, most in ((paths[0], "train", number), (paths[1], "test", None)):
        _cifar_part(path, part, most)
    return paths


def cifar_training(out: Path) -> Path:
    """LMDB of all training images of CIFAR-10 that are here, made once; padded, as the network's TRAIN data layer crops at random."""
    path = out / f"train_pad{PAD}_lmdb"
    _cifar_part(path, "train", None, PAD)
    return path


def _cifar_part(path: Path, part: str, most: Optional[int], pad: int = 0) -> None:
    if path.exists():
        return
    found = local_images()
    if found is None:
        records = sources.from_cifar10(cifar10_folder(), part, pad)[1]
        write_lmdb(path, records if most is None else itertools.islice(records, most))
        return
    if found.is_dir():
        pixels, labels = read_sheets(found / part)
    else:
        with np.load(found, allow_pickle=False) as data:
            pixels, labels = data[f"{part}_images"], data[f"{part}_labels"].astype(np.int64)
    total = len(pixels)
    if most is not None and not 1 <= most <= total:
        raise UsageError(f"--choose {most}: 1 to {total} training images are here")
    write_lmdb(path, sources.from_arrays(pixels[:most], labels[:most], pad)[1])
