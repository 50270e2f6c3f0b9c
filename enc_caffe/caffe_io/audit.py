"""Holding a user's LMDB against what an experiment expects, before anything long runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.errors import DatasetError

#: Images whose labels are looked at, spread over the LMDB.
LOOKS = 2000


def audit(path: Path, least: int, classes: int, side: int, looks: int = LOOKS) -> int:
    """Number of images of an LMDB, after its count, image size and the span of its labels were checked.

    Parameters
    ----------
    least : int
        Images that must be there.
    classes : int
        Labels are 0 to classes - 1; of the images that are looked at, both ends and half of all must be met.
    side : int
        Least height and width; three channels are needed.

    Raises
    ------
    DatasetError
        Stating both values and what to do.
    """
    images = ImageLmdb(Path(path))
    try:
        number = len(images)
        if number < least:
            raise DatasetError(
                f"{path}: {number:,} images, at least {least:,} are expected; was convert_imageset interrupted?"
            )
        channels, height, width = images.first_shape()
        if channels != 3 or min(height, width) < side:
            raise DatasetError(
                f"{path}: images are {channels}x{height}x{width}; 3 channels and at least {side}x{side} are needed: "
                "convert_imageset --resize_height=256 --resize_width=256, without --gray"
            )
        labels = images.sampled_labels(looks)
    finally:
        images.close()
    if np.all(labels < 0):
        raise DatasetError(
            f"{path}: its images have no labels; the list given to convert_imageset needs one after each file name"
        )
    low, high, different = int(labels.min()), int(labels.max()), len(np.unique(labels))
    # With as many looks as classes and more, few random draws miss an end by a fiftieth of the span.
    slack = max(1, classes // 50) if len(labels) >= classes else classes
    if (
        low < 0
        or high >= classes
        or low > slack
        or high < classes - 1 - slack
        or different < min(classes, len(labels)) // 2
    ):
        raise DatasetError(
            f"{path}: labels of {len(labels):,} images run from {low} to {high}, {different} different; 0 to {classes - 1} are "
            "needed: is the list of files that of ILSVRC-2012, shuffled (convert_imageset --shuffle)?"
        )
    return number
