"""Caffemodel files, read and written at the level of protobuf's wire format.

A caffemodel is a NetParameter whose size is almost wholly packed floats. The file is mapped into memory and only its
structure is walked, so blobs are views of the file: nothing is copied until a layer is used, and layers that stay whole
are written back byte for byte. Message numbers: ``caffe.proto`` of BVLC Caffe 99bd997.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator, Optional, Union

import numpy as np

from enc_caffe.caffe_io.wire import Buffer, encode, fields, message, tag, varint
from enc_caffe.errors import WeightsError
from enc_caffe.network import Layer, Network

_NET_NAME, _NET_LAYER, _NET_V1 = 1, 100, 2
_LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS = 1, 2, 7
_V1_NAME, _V1_BLOBS, _V1_V0 = 4, 6, 1
_BLOB_LEGACY, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLE = (1, 2, 3, 4), 5, 7, 8

#: ``kMaxBlobAxes`` of Caffe.
MAX_AXES = 32


@dataclass(frozen=True)
class StoredBlob:
    """One parameter blob: its shape as stored (legacy blobs have four axes), and where its floats are."""

    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    double: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(end - start for start, end in self.spans) // (8 if self.double else 4)


@dataclass(frozen=True)
class StoredLayer:
    """One layer's record: name, type, blobs, and the span of its bytes (None: an old format, not to be copied)."""

    name: str
    type: str
    blobs: tuple[StoredBlob, ...]
    span: Optional[tuple[int, int]]


def _blob(data: Buffer, start: int, end: int) -> StoredBlob:
    legacy: dict[int, int] = {}
    shape: Optional[tuple[int, ...]] = None
    singles: list[tuple[int, int]] = []
    doubles: list[tuple[int, int]] = []
    for number, wire, a, b in fields(data, start, end):
        if number in _BLOB_LEGACY and wire == 0:
            legacy[number] = a
        elif number == _BLOB_SHAPE and wire == 2:
            shape = tuple(_dims(data, a, b))
        elif number in (_BLOB_DATA, _BLOB_DOUBLE) and wire != 0 and b > a:
            size = 8 if number == _BLOB_DOUBLE else 4
            if (b - a) % size:
                raise WeightsError(f"a blob has {b - a} bytes of values of {size} bytes each")
            (doubles if number == _BLOB_DOUBLE else singles).append((a, b))
    if shape is None:
        shape = tuple(legacy.get(n, 0) for n in _BLOB_LEGACY) if legacy else ()
    # Of a blob with both, Caffe takes the doubles.
    blob = StoredBlob(shape, tuple(doubles or singles), bool(doubles))
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


def _text(data: Buffer, a: int, b: int) -> str:
    return bytes(data[a:b]).decode("utf-8", errors="replace")


def _layer(data: Buffer, start: int, end: int, v1: bool) -> StoredLayer:
    name = kind = ""
    blobs = []
    name_field, blob_field = (_V1_NAME, _V1_BLOBS) if v1 else (_LAYER_NAME, _LAYER_BLOBS)
    for number, wire, a, b in fields(data, start, end):
        if wire != 2:
            continue
        if number == name_field:
            name = _text(data, a, b)
        elif number == _LAYER_TYPE and not v1:
            kind = _text(data, a, b)
        elif v1 and number == _V1_V0:
            raise WeightsError("is in Caffe's V0 format; upgrade it with upgrade_net_proto_binary OLD NEW")
        elif number == blob_field:
            try:
                blobs.append(_blob(data, a, b))
            except WeightsError as exc:
                raise WeightsError(f"layer '{name}', blob {len(blobs)}: {exc}") from None
    return StoredLayer(name, kind, tuple(blobs), None if v1 else (start, end))


class CaffeModel:
    """A caffemodel opened for reading; blobs are read-only views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as handle:
                if self.path.stat().st_size == 0:
                    raise WeightsError(f"{path}: is empty")
                self._data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as exc:
            raise WeightsError(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from None
        self.name = ""
        self.layers: dict[str, StoredLayer] = {}
        self._order: list[StoredLayer] = []
        try:
            self._walk()
        except WeightsError as exc:
            text = bytes(self._data[:200])
            if text.isascii() and b"\n" in text:
                raise WeightsError(
                    f"{path}: is text, not a binary caffemodel (was a prototxt given as --weights?)"
                ) from None
            raise WeightsError(f"{path}: is no whole caffemodel, {exc}") from None
        if not self._order:
            raise WeightsError(f"{path}: holds no layer; a caffemodel is needed")

    def _walk(self) -> None:
        for number, wire, a, b in fields(self._data, 0, len(self._data)):
            if wire != 2:
                continue
            if number == _NET_NAME:
                self.name = _text(self._data, a, b)
            elif number in (_NET_LAYER, _NET_V1):
                layer = _layer(self._data, a, b, number == _NET_V1)
                self._order.append(layer)
                self.layers.setdefault(layer.name, layer)

    def __iter__(self) -> Iterator[StoredLayer]:
        return iter(self._order)

    def array(self, blob: StoredBlob) -> np.ndarray:
        """Values of a blob in its stored shape: float32 (a view where they stand in one piece)."""
        dtype = "<f8" if blob.double else "<f4"
        parts = [np.frombuffer(self._data, dtype, (b - a) // np.dtype(dtype).itemsize, a) for a, b in blob.spans]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, np.float32)
        # A blob that was never filled has neither values nor a shape.
        return flat.astype(np.float32, copy=False).reshape(blob.shape if blob.shape or flat.size else (0,))

    def record(self, layer: StoredLayer) -> Union[bytes, memoryview]:
        """A layer's LayerParameter bytes, unchanged and not copied; of an old format, written anew with name and blobs."""
        if layer.span is not None:
            return memoryview(self._data)[layer.span[0] : layer.span[1]]
        return layer_record(layer.name, layer.type, [self.array(b) for b in layer.blobs])

    def weights(self, layer: Layer) -> list[np.ndarray]:
        """Weight and bias of a convolution or fully connected layer, checked against the prototxt.

        Returns
        -------
        list of ndarray : weight (O, I/g, Dh, Dw) or (O, I), and bias (O,) where the layer has one

        Raises
        ------
        WeightsError
            If the layer is missing, its shapes differ, or a value is not finite.
        """
        stored = self.layers.get(layer.name)
        where = f"{self.path}: layer '{layer.name}'"
        if stored is None:
            raise WeightsError(f"{where} of the prototxt is not in the caffemodel")
        shapes = expected_shapes(layer)
        if len(stored.blobs) != len(shapes):
            raise WeightsError(
                f"{where} has {len(stored.blobs)} blobs, the prototxt needs {len(shapes)} "
                f"({'with' if len(shapes) == 2 else 'without'} bias)"
            )
        arrays = []
        for blob, shape in zip(stored.blobs, shapes):
            if not same_shape(blob.shape, shape):
                raise WeightsError(f"{where} has a blob of shape {blob.shape}, the prototxt needs {shape}")
            array = self.array(blob).reshape(shape)
            if not _finite(array):
                raise WeightsError(f"{where} holds NaN or infinity")
            arrays.append(array)
        return arrays

    def check(self, network: Network, missing_ok: bool = False) -> None:
        """Hold every weighted layer of the prototxt against the caffemodel; :class:`WeightsError` names the first misfit.

        Parameters
        ----------
        missing_ok : bool
            Layers that the caffemodel does not have are left to Caffe, which initialises them (training only).
        """
        for layer in network.weighted:
            if layer.name in self.layers or not missing_ok:
                self.weights(layer)


def _finite(array: np.ndarray) -> bool:
    # In pieces: the mask of a whole fully connected layer would be a hundred megabytes.
    flat = array.reshape(-1)
    return all(np.isfinite(flat[i : i + 2**20]).all() for i in range(0, flat.size, 2**20))


def expected_shapes(layer: Layer) -> list[tuple[int, ...]]:
    """Blob shapes that Caffe gives a convolution or fully connected layer."""
    if layer.convolution is not None:
        weight: tuple[int, ...] = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    elif layer.inner_product is not None and layer.inner_product.transposed:
        weight = (layer.in_channels, layer.out_channels)
    else:
        weight = (layer.out_channels, layer.in_channels)
    return [weight, (layer.out_channels,)] if layer.bias else [weight]


def same_shape(stored: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Whether a stored blob fits; legacy blobs carry leading ones (``Blob::ShapeEquals``)."""
    padded = (1,) * (len(stored) - len(needed)) + needed if len(stored) == 4 else needed
    return stored in (padded, needed)


def layer_record(name: str, kind: str, arrays: Iterable[np.ndarray]) -> bytes:
    """LayerParameter bytes with name, type and float32 blobs."""
    out = message(_LAYER_NAME, name.encode())
    if kind:
        out += message(_LAYER_TYPE, kind.encode())
    for array in arrays:
        dims = message(1, b"".join(encode(d) for d in array.shape))
        body = message(_BLOB_DATA, np.ascontiguousarray(array, "<f4").tobytes()) + message(_BLOB_SHAPE, dims)
        out += message(_LAYER_BLOBS, body)
    return out


def write_caffemodel(handle: BinaryIO, name: str, records: Iterable[Union[bytes, memoryview]]) -> None:
    """Write a NetParameter from LayerParameter records, one at a time."""
    handle.write(message(_NET_NAME, name.encode()))
    for record in records:
        handle.write(tag(_NET_LAYER, 2) + encode(len(record)))
        handle.write(record)
