"""The same short training for every network of a table: so many iterations by one solver on one LMDB, resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_tools.finetune import RESULT, finetune
from enc_caffe.caffe_tools.training import Step
from enc_caffe.errors import UsageError
from enc_caffe.files.output import atomic_file
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.pipeline.loading import load
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.executor import Executor

#: Snapshots of a training, from which an interrupted one goes on.
SNAPSHOTS = 4


@dataclass(frozen=True)
class Training:
    """What all networks get.

    Attributes
    ----------
    iterations : int
    solver : Path
        Its schedule, cut after ``iterations``.
    lmdb : Path
        Images to train on.
    statistics : float, optional
        BatchNorm's moving_average_fraction. Of a hundred iterations Caffe's 0.999 keeps 90% of the statistics of before, and what weights learn
        beside those of their batches would not show.
    gpu : str
        Where Caffe trains, as ``finetune --gpu``; on the CPU where it is empty.
    """

    iterations: int
    solver: Path
    lmdb: Path
    statistics: Optional[float] = None
    gpu: str = ""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UsageError(f"--finetune {self.iterations}: 1 or more iterations are needed")
        if self.statistics is not None and not 0 < self.statistics < 1:
            raise UsageError(f"--statistics {self.statistics}: a part between 0 and 1 is needed")
        for flag, path in (("--solver", self.solver), ("--train_lmdb", self.lmdb)):
            if not path.exists():
                raise UsageError(f"{flag} {path}: no such file or folder")

    def overrides(self) -> dict[str, Any]:
        """Fields of the solver that differ."""
        return {
            "random_seed": 1, "test_initialization": False, "max_iter": self.iterations, "test_interval": self.iterations + 1,
            "snapshot": max(1, -(-self.iterations // SNAPSHOTS)), "display": max(1, self.iterations // 20),
        }  # fmt: skip

    def key(self, store: ResultStore) -> dict[str, Any]:
        """What a training depends on beside the network."""
        return {
            "overrides": self.overrides(), "solver": store.file_digest(self.solver), "train": store.file_digest(self.lmdb / "data.mdb"),
            "statistics": self.statistics,
        }  # fmt: skip


def trained_model(folder: Path, statistics: Optional[float]) -> Path:
    """The net to train: the emitted one, with BatchNorm's statistics renewed faster where a fraction is given."""
    path = folder / "train_val.prototxt"
    if statistics is None:
        return path
    net = read_net(path)
    for layer in net.layer:
        if layer.type == "BatchNorm":
            layer.batch_norm_param.moving_average_fraction = statistics
    path = folder / "finetune.prototxt"
    text = to_text(net).encode()
    if not path.is_file() or path.read_bytes() != text:
        with atomic_file(path) as handle:
            handle.write(text)
    return path


def retrained(
    training: Training, folder: Path, out: Path, test: Path, store: ResultStore, executor: Executor,
    progress: Callable[[Step], None], force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train the network of a folder (``train_val.prototxt``, ``compressed.caffemodel``) by stock Caffe, and count its right test images.

    Parameters
    ----------
    out : Path
        Of the training; one that was interrupted there goes on.
    force : bool
        What is there is of other inputs.
    """
    model = trained_model(folder, training.statistics)
    made = finetune(
        training.solver, folder / "compressed.caffemodel", out, model, training.lmdb, test, training.overrides(),
        training.gpu, force=force, repeatable=True, progress=progress, test=False,
    )  # fmt: skip
    images = images_of(load(out / "train_val.prototxt", test, None, True), out / RESULT, test, executor, store)
    found = PlanEvaluator(images).counts({})
    return {
        "iterations": training.iterations, "loss": made.loss, "folder": out.name,
        "score": {"images": found.images, "correct": {"1": found.correct, "5": found.correct_5}},
    }  # fmt: skip
