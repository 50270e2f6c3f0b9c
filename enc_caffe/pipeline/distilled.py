"""A plan's weights after a distillation on the images that chose it: ``--quality max``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.caffe_io.emit import Blobs
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_tools.finetune import RESULT, finetune
from enc_caffe.caffe_tools.holding import check_divisible
from enc_caffe.caffe_tools.mixing import wanted
from enc_caffe.caffe_tools.selection import RATES, SHORT, SWEPT, Selection
from enc_caffe.caffe_tools.training import Step
from enc_caffe.files.output import atomic_file
from enc_caffe.measuring.store import digest_of
from enc_caffe.pipeline.distilling import NET, SCHEDULE, SOLVER, WEIGHTS, check_distillable
from enc_caffe.pipeline.emission import emit
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.plan import Plan
from enc_caffe.progress import Stages

#: Raised when the same distillation is written otherwise: what was written is not written again.
VERSION = 5
#: Snapshots, and so looks at the held-out images, of a distillation.
SNAPSHOTS = 10


def check_trainable(loaded: LoadedNetwork, how: Distillation) -> None:
    """Raise what :func:`distilled` raises of the original and the images: a part of these is held out and chooses.

    Raises
    ------
    UsageError
        If no part can be, or as :func:`enc_caffe.pipeline.distilling.check_distillable` does.
    """
    otherwise = "--distill_iterations 0 trains nothing (as --quality best), and then no images need to be held out"
    check_divisible(check_distillable(loaded, how), str(loaded.path), otherwise)


def distilled(
    loaded: LoadedNetwork,
    weights: Path,
    plan: Plan,
    blobs: Blobs,
    folder: Path,
    how: Distillation,
    iterations: int,
    placement: str,
    progress: Stages,
    gpu: str,
) -> tuple[dict[str, list[np.ndarray]], str]:
    """Weights of all layers of the compressed network after its distillation, and what was kept of it in words.

    Parameters
    ----------
    blobs : mapping of layer to arrays
        What the distillation begins with, where that is not plain SVD or the original.
    folder : Path
        Where the training is: one that was interrupted goes on there, and one that ended is not run again.
    how : Distillation
        Its ``lmdb`` are the images; a part of them is held out and chooses.
    gpu : str
        Number of the GPU that trains; empty for the CPU.

    Raises
    ------
    EncError
        As :func:`enc_caffe.pipeline.emission.emit` and :func:`enc_caffe.caffe_tools.finetune.finetune` do.
    """
    net, training = folder / "network", folder / "training"
    if not (net / SOLVER).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        emit(
            loaded, weights, plan, net, placement, True, blobs=blobs, distillation=how, test_lmdb=how.lmdb
        )  # fmt: skip
    every = max(1, iterations // SNAPSHOTS)

    def show(step: Step) -> None:
        what = step.what or ("learning rates" if "base_lr" in step.test else "distillation")
        progress(what, step.iteration, step.iterations)

    if not (training / RESULT).is_file() or not (training / "kept.txt").is_file():
        source = how.lmdb or data_layers(loaded.net, "TRAIN")[0].data_param.source
        mixtures = wanted(read_net(net / NET, python_layers=loaded.python_layers), Path(source), iterations)
        result = finetune(
            net / SOLVER, net / WEIGHTS, training, overrides={"max_iter": iterations, "snapshot": every}, gpu=gpu,
            progress=show, python_layers=loaded.python_layers, selection=Selection(None, True), force=False,
            mixtures=mixtures,
        )  # fmt: skip
        with atomic_file(training / "kept.txt") as handle:
            handle.write(f"{result.chosen}{f'; on {mixtures} mixtures of images' if mixtures else ''}".encode())
    model = CaffeModel(training / RESULT)
    found = {name: [model.array(b) for b in stored.blobs] for name, stored in model.layers.items() if stored.blobs}
    return found, (training / "kept.txt").read_text(encoding="utf-8")


def folder_of(
    beside: Path, plan: Plan, name: list[Any], how: Distillation, iterations: int, placement: str, gpu: str
) -> Path:
    """Where the distillation of this very plan is, however often it is asked for."""
    words = [
        VERSION,
        sorted((n, str(f)) for n, f in plan.forms.items()),
        name,
        placement,
        iterations,
        SCHEDULE,
        SNAPSHOTS,
    ]
    own = [
        how.temperature,
        sorted(how.blobs.items()),
        how.labels,
        how.frozen,
        str(how.lmdb),
        *["between"] * how.between,
    ]
    return beside / digest_of([words, own, "gpu"] if gpu else [words, own])[:32]


def passes(loaded: LoadedNetwork, iterations: int) -> int:
    """Images that pass through both networks in a distillation, the sweep of learning rates with it."""
    layers = data_layers(loaded.net, "TRAIN")
    batch = batch_size(layers[0]) if layers else 64
    return batch * (iterations + RATES * max(SHORT, iterations // SWEPT))
