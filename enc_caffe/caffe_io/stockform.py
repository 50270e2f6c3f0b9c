"""Caffemodels whose values stand where stock Caffe does not look for them, as copies that it reads.

NVIDIA's Caffe (0.16 and later, which DIGITS runs too) writes every blob as bytes of a type that it names, in 16 bits where the
network is so. Stock Caffe would abort on such a file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Callable, Optional

from enc_caffe.caffe_io.caffemodel import kept_record, opened, write_caffemodel
from enc_caffe.errors import WeightsError
from enc_caffe.files.output import atomic_file
from enc_caffe.installation import cache_folder


def kept_weights() -> Path:
    """Where copies are kept, in the user's cache."""
    return cache_folder() / "weights"


def in_stock_form(
    weights: Path, notice: Callable[[str], None] = lambda line: None, cache: Optional[Path] = None
) -> Path:
    """A caffemodel that stock Caffe reads: the file itself, or a copy of the same name in a folder of the cache.

    Parameters
    ----------
    notice : callable of a line that a person should read
    cache : Path, optional
        Folder in which copies are kept, each by its file's path, size and time (default: :func:`kept_weights`).

    A file that cannot be read is given back as it is, for whoever reads it first to say so.
    """
    weights = Path(weights)
    try:
        model = opened(weights)
    except WeightsError:
        return weights
    raw = [blob for layer in model for blob in layer.blobs if blob.raw]
    if not raw:
        return weights
    stat = weights.stat()
    key = json.dumps([str(weights.absolute()), stat.st_size, stat.st_mtime_ns])
    copy = (
        (cache or kept_weights()) / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:24] / weights.name
    )
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(copy) as handle:
            write_caffemodel(handle, model.name, (kept_record(model, layer) for layer in model))
    bits = " and ".join(str(8 * int(t[-1])) for t in sorted({b.dtype for b in raw}))
    notice(
        f"{weights}: holds raw values of {bits} bits, as NVIDIA's Caffe writes them; stock Caffe gets a copy that it can load ({copy})"
    )
    return copy
