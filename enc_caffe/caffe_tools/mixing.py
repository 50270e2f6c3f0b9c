"""A distillation's training images as mixtures of them, made once for a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Iterator

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_io.distill import has_teacher
from enc_caffe.caffe_io.mixtures import mixtures_of
from enc_caffe.errors import UsageError
from enc_caffe.files.jsonfile import read_json, write_json

FORMAT = "enc-caffe-mixtures/1"


#: Passes over its images from which on a distillation is given mixtures in their place, and bytes of pixels that these have at most.
PASSES, ROOM = 20, 2**31


def mixable(net: Any) -> bool:
    """Whether mixtures can stand for a training's images: they have no labels, so a teacher must say what they are."""
    layers = data_layers(net, "TRAIN")
    return has_teacher(net) and len(layers) == 1 and len(layers[0].top) == 1 and layers[0].type == "Data"


def wanted(net: Any, source: Path, iterations: int) -> int:
    """Mixtures that a training by images of an LMDB should have: one for each image of its batches, or 0 where it meets each image less
    than :data:`PASSES` times."""
    if not mixable(net):
        return 0
    images = ImageLmdb(Path(source))
    try:
        seen = iterations * batch_size(data_layers(net, "TRAIN")[0])
        room = max(2 * len(images), ROOM // math.prod(images.first_shape()))
        return min(seen, room) if seen >= PASSES * len(images) else 0
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


def mixed(source: Path, number: int, folder: Path, progress: Callable[[int, int], None]) -> Path:
    """An LMDB of so many mixtures of the images of another; the one that is there already, if it was made of the same.

    Parameters
    ----------
    folder : Path
        Where it is made, with a record of what it is made of.
    """
    out, record = folder / "mixtures_lmdb", folder / "mixtures.json"
    ImageLmdb(Path(source)).close()
    images = (Path(source) / "data.mdb").stat()
    this = {
        "format": FORMAT, "source": str(Path(source).absolute()), "images": number,
        # Images that are held out lie at one place, whichever they are.
        "written": images.st_mtime_ns, "bytes": images.st_size,
    }  # fmt: skip
    if record.is_file() and read_json(record, FORMAT, UsageError) == this and out.is_dir():
        return out
    number, records = mixtures_of(source, number)

    def counted() -> Iterator[tuple[bytes, bytes]]:
        for done, one in enumerate(records, 1):
            yield one
            progress(done, number)

    folder.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    write_lmdb(out, counted(), force=True)
    write_json(record, this)
    return out
