"""A distillation's training images as mixtures of them, made for a training and gone with its end."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_io.distill import has_teacher
from enc_caffe.caffe_io.mixtures import mixtures_of
from enc_caffe.caffe_io.transform import color_of
from enc_caffe.errors import UsageError

#: Passes over its images from which on a distillation is given mixtures in their place, and bytes of pixels that these have at most.
PASSES, ROOM = 20, 2**31
NAME = "mixtures-{}_lmdb"


def mixable(net: Any) -> bool:
    """Whether mixtures can stand for a training's images: they have no labels, so a teacher must say what they are."""
    layers = data_layers(net, "TRAIN")
    return has_teacher(net) and len(layers) == 1 and len(layers[0].top) == 1 and layers[0].type == "Data"


def wanted(net: Any, source: Path, iterations: int) -> int:
    """Mixtures that a training by images of an LMDB should have: one for each image of its batches, as far as there is :data:`ROOM`.

    0 where it meets each image less than :data:`PASSES` times, or where not two mixtures for each image have room.
    """
    if not mixable(net):
        return 0
    layer, images = data_layers(net, "TRAIN")[0], ImageLmdb(Path(source))
    try:
        seen = iterations * batch_size(layer)
        first = next(images.images(0, 1, color_of(layer, str(source))))
        room = ROOM // first.pixels.nbytes
        return min(seen, room) if seen >= PASSES * len(images) and room >= 2 * len(images) else 0
    finally:
        images.close()


def check_mixable(net: Any, path: Path, number: int) -> None:
    """Raise UsageError where so many mixtures cannot be had (:func:`mixable`)."""
    if number < 1:
        raise UsageError(f"--mixtures {number}: 1 or more is needed")
    if not mixable(net):
        raise UsageError(
            f"--mixtures: {path} does not learn from one LMDB of images by a teacher's outputs alone, and mixtures of images have no labels; "
            "leave the flag out, or emit with --distill and without --distill_labels"
        )


@dataclass(frozen=True)
class Mixtures:
    """Mixtures in the place of a training's images.

    Attributes
    ----------
    source : Path
        LMDB of the images.
    number : int
    color : bool, optional
        How encoded images are decoded (:func:`enc_caffe.caffe_io.transform.color_of`).
    path : Path
        The LMDB that :meth:`make` makes. Its name says of what: a training by other mixtures has another text.
    """

    source: Path
    number: int
    color: Optional[bool]
    path: Path

    def make(self, progress: Callable[[int, int], None]) -> None:
        """Make them, unless they are there; those of other trainings in the same folder go."""
        for other in self.path.parent.glob(NAME.format("*")):
            if other != self.path:
                shutil.rmtree(other)
        if self.path.is_dir():
            return
        number, records = mixtures_of(self.source, self.number, color=self.color)

        def counted() -> Iterator[tuple[bytes, bytes]]:
            for done, one in enumerate(records, 1):
                yield one
                progress(done, number)

        write_lmdb(self.path, counted())

    def remove(self) -> None:
        """Give their room back; made again, they are the same."""
        shutil.rmtree(self.path, ignore_errors=True)


def put_mixtures(train: Any, number: int, folder: Path) -> Mixtures:
    """Let the TRAIN phase of a network read mixtures of its images, which are yet to be made.

    Parameters
    ----------
    train : NetParameter
        Its source is replaced.
    folder : Path
        Where they will be.

    Raises
    ------
    DatasetError
        If the images cannot be read.
    """
    layer = data_layers(train, "TRAIN")[0]
    source, color = Path(layer.data_param.source).absolute(), color_of(layer, layer.name)
    ImageLmdb(source).close()
    # Images that are held out lie at one place, whichever they are.
    images = (source / "data.mdb").stat()
    made_of = [str(source), images.st_mtime_ns, images.st_size, number, color]
    path = folder / NAME.format(hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16])
    layer.data_param.source = str(path)
    return Mixtures(source, number, color, path)
