"""One parameter blob of a caffemodel, at the level of protobuf's wire format: its shape, and where its values are.

Message numbers: ``BlobProto`` in ``caffe.proto`` of BVLC Caffe 99bd997, and of NVIDIA's Caffe 0.16 for raw values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional

import numpy as np

from enc_caffe.caffe_io.wire import Buffer, fields, varint
from enc_caffe.errors import WeightsError

BLOB_LEGACY, BLOB_DATA, BLOB_SHAPE, _BLOB_DOUBLE = (1, 2, 3, 4), 5, 7, 8
#: NVIDIA's Caffe writes a blob's values as bytes of a type that it names, in 16 bits too.
_BLOB_RAW_TYPE, _BLOB_RAW = 10, 12
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
#: ``kMaxBlobAxes`` of Caffe.
MAX_AXES = 32


@dataclass(frozen=True)
class StoredBlob:
    """One parameter blob: its shape as stored, where its floats are, and the span of its whole message.

    A ``legacy`` blob has num, channels, height and width, which are its shape whatever else it says (``Blob::ShapeEquals``).
    A ``raw`` one has its values where stock Caffe does not look for them.
    """

    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    dtype: str
    legacy: bool = False
    raw: bool = False
    span: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(end - start for start, end in self.spans) // int(self.dtype[-1])


def stored_blob(data: Buffer, start: int, end: int) -> StoredBlob:
    """The blob whose message is between two places.

    Raises
    ------
    WeightsError
        If its values are not those of its shape, or of a type that cannot be read.
    """
    legacy: dict[int, int] = {}
    shape: Optional[tuple[int, ...]] = None
    values: dict[int, list[tuple[int, int]]] = {BLOB_DATA: [], _BLOB_DOUBLE: [], _BLOB_RAW: []}
    kind = 0
    for number, wire, a, b in fields(data, start, end):
        if number in BLOB_LEGACY and wire == 0:
            legacy[number] = a
        elif number == BLOB_SHAPE and wire == 2:
            shape = tuple(_dims(data, a, b))
        elif number == _BLOB_RAW_TYPE and wire == 0:
            kind = a
        elif number in values and wire != 0 and b > a:
            values[number].append((a, b))
    # Of a blob with several, Caffe takes the old sizes, and the doubles.
    shape = tuple(legacy.get(n, 0) for n in BLOB_LEGACY) if legacy else shape or ()
    number = next((n for n in (_BLOB_DOUBLE, BLOB_DATA) if values[n]), _BLOB_RAW)
    if number == _BLOB_RAW and values[number] and kind not in _RAW_TYPES:
        raise WeightsError(f"a blob has raw values of type {kind}; double, float and half (0 to 2) can be read")
    dtype = {_BLOB_DOUBLE: "<f8", BLOB_DATA: "<f4"}.get(number) or _RAW_TYPES.get(kind, "<f4")
    raw = number == _BLOB_RAW and bool(values[number])
    blob = StoredBlob(shape, tuple(values[number]), dtype, bool(legacy), raw, (start, end))
    if any((b - a) % int(dtype[-1]) for a, b in blob.spans):
        raise WeightsError(
            f"a blob has {blob.spans[0][1] - blob.spans[0][0]} bytes of values of {dtype[-1]} bytes each"
        )
    if len(shape) > MAX_AXES:
        raise WeightsError(f"a blob has {len(shape)} axes; Caffe takes at most {MAX_AXES}")
    expected = int(np.prod(shape, dtype=object)) if shape else 1
    # A blob without shape and values was never filled; one with a shape must have them all, or Caffe aborts on it.
    if blob.size != expected and (blob.size or shape):
        raise WeightsError(f"a blob of shape {shape} holds {blob.size} values, not {expected}")
    return blob


def _dims(data: Buffer, start: int, end: int) -> Iterator[int]:
    for number, wire, a, b in fields(data, start, end):
        if number != 1:
            continue
        if wire == 0:
            yield a
            continue
        at = a
        while at < b:
            value, at = varint(data, at, b)
            yield value
