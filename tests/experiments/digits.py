"""The digits' network with weights of a few iterations, for tests that go through experiments in real Caffe."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_tools.finetune import finetune

ROOT = Path(__file__).resolve().parent.parent.parent


def trained_digits(base: Path) -> tuple[Path, Path, Path, Path]:
    """A copy of the network's folder, its caffemodel, and LMDBs to train and to test on."""
    folder, lmdbs = base / "digits", [base / "train", base / "test"]
    shutil.copytree(ROOT / "prototxt" / "digits", folder)
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 10
    # A bright row for every class: learnt within a few iterations.
    images = rng.integers(0, 8, (240, 1, 8, 8)).astype(np.uint8)
    images[np.arange(240), 0, labels % 8, labels // 8 * 4] = 16
    for path, part in zip(lmdbs, (slice(0, 180), slice(180, 240))):
        write_lmdb(path, from_arrays(images[part], labels[part])[1])
    trained = finetune(
        folder / "solver.prototxt",
        None,
        base / "trained",
        None,
        *lmdbs,
        {"max_iter": 30, "snapshot": 30, "random_seed": 3},
    )
    return folder, trained.weights, lmdbs[0], lmdbs[1]
