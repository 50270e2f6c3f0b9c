"""The same short training for every network of a table: so many iterations by one solver on one LMDB, resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from enc_caffe.caffe_tools.finetune import RESULT, finetune
from enc_caffe.caffe_tools.training import Step
from enc_caffe.errors import UsageError
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
    """

    iterations: int
    solver: Path
    lmdb: Path

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UsageError(f"--finetune {self.iterations}: 1 or more iterations are needed")
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
        }  # fmt: skip


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
    model = folder / "train_val.prototxt"
    made = finetune(
        training.solver, folder / "compressed.caffemodel", out, model, training.lmdb, test, training.overrides(), force=force,
        repeatable=True, progress=progress,
    )  # fmt: skip
    images = images_of(load(out / "train_val.prototxt", test, None, True), out / RESULT, test, executor, store)
    found = PlanEvaluator(images).counts({})
    return {
        "iterations": training.iterations, "loss": made.loss, "folder": out.name,
        "score": {"images": found.images, "correct": {"1": found.correct, "5": found.correct_5}},
    }  # fmt: skip
