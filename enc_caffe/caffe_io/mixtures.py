"""Images made of two images: more pictures for a distillation, which needs no labels, than a user has."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb, datum_bytes
from enc_caffe.caffe_io.sources import Records
from enc_caffe.caffe_io.transform import resized
from enc_caffe.errors import DatasetError, UsageError


def mixture(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One image of two: the first as it is, with a rectangle of the second in it, or the two blended; each in a third of the cases.

    The rectangle has the second's pixels of that very place. Its area, and the second's share in a blend, are uniform in [0, 1/2].

    Parameters
    ----------
    first, second : ndarray (C, H, W)

    Returns
    -------
    ndarray (C, H, W) of the first's type

    References
    ----------
    Zhang et al. (2018), mixup; Yun et al. (2019), CutMix. Both mix labels too, which a distillation takes from the original instead.
    """
    way, share = rng.integers(3), rng.uniform(0, 0.5)
    if way == 0:
        return first
    if way == 1:
        blended = (1 - share) * first.astype(np.float64) + share * second
        return np.asarray(np.rint(blended) if first.dtype == np.uint8 else blended, first.dtype)
    made = first.copy()
    rows, columns = (_stretch(size, share, rng) for size in first.shape[1:])
    made[:, rows, columns] = second[:, rows, columns]
    return made


def _stretch(size: int, area: float, rng: np.random.Generator) -> slice:
    """A random stretch of an axis, of the square root of a part of it."""
    length = max(1, round(size * float(np.sqrt(area))))
    start = int(rng.integers(size - length + 1))
    return slice(start, start + length)


def zoomed(image: np.ndarray, least: float, rng: np.random.Generator) -> np.ndarray:
    """A random window of an image (C, H, W), of ``least`` to all of its area, at the size of the image."""
    if least >= 1:
        return image
    area = float(rng.uniform(least, 1))
    rows, columns = (_stretch(size, area, rng) for size in image.shape[1:])
    return resized(image[:, rows, columns], (image.shape[1], image.shape[2]))


def mixtures_of(
    lmdb: Path,
    number: int,
    seed: int = 0,
    mirror: bool = False,
    zoom: float = 1.0,
    pad: int = 0,
    color: Optional[bool] = None,
) -> tuple[int, Records]:
    """Records of so many :func:`mixture` images of an LMDB, without labels.

    Every image is the first of two as often as any other, give or take one. A second one of another size is brought to the first's.

    Parameters
    ----------
    mirror : bool
        Whether left and right are exchanged in half of the images before they are mixed.
    zoom : float
        The least part of an image's area that is taken (:func:`zoomed`); 1 takes all of it.
    pad : int
        Pixels of 0 on every side of a mixture, for a random crop.
    color : bool, optional
        Decode encoded images in colour, or in gray; None: as they are stored.

    Raises
    ------
    UsageError
        If a number is out of its range.
    DatasetError
        If an image cannot be read, or two that are mixed differ in channels.
    """
    if number < 1:
        raise UsageError(f"--number {number}: 1 or more is needed")
    if not 0 < zoom <= 1:
        raise UsageError(f"--zoom {zoom:g}: a part of an image's area in (0, 1] is needed")
    if pad < 0:
        raise UsageError(f"--pad {pad}: 0 or more is needed")

    def records() -> Records:
        # LMDB opens a folder once in a process: not before somebody reads, and closed however that ends.
        source = ImageLmdb(Path(lmdb))
        try:
            keys = source.keys()
            for position in range(number):
                turn, at = divmod(position, len(keys))
                if at == 0:
                    order = np.random.default_rng([seed, turn]).permutation(len(keys))
                rng = np.random.default_rng([seed, turn, at])
                images = [source.image(keys[i], color).pixels for i in (int(order[at]), int(rng.integers(len(keys))))]
                if images[0].shape[0] != images[1].shape[0]:
                    raise DatasetError(
                        f"{lmdb}: images of {images[0].shape[0]} and {images[1].shape[0]} channels cannot be mixed; make the LMDB again "
                        "with one number of channels (enc-caffe data folder does, with --gray or without)"
                    )
                if images[0].shape != images[1].shape:
                    images[1] = resized(images[1], (images[0].shape[1], images[0].shape[2]))
                images = [zoomed(x[:, :, ::-1] if mirror and rng.integers(2) else x, zoom, rng) for x in images]
                made = mixture(images[0], images[1], rng)
                yield f"{position:08d}".encode(), datum_bytes(np.pad(made, ((0, 0), (pad, pad), (pad, pad))), None)
        finally:
            source.close()

    return number, records()
