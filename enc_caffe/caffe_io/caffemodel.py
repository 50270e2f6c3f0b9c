"""Caffemodel files, read and written at the level of protobuf's wire format.

A caffemodel is a NetParameter whose size is almost wholly packed floats. The file is mapped into memory and only its
structure is walked, so blobs are views of the file: nothing is copied until a layer is used, and layers that stay whole
are written back byte for byte. Files of 2013 and 2014 (V0LayerParameter, V1LayerParameter; blobs with num, channels, height
and width in place of a shape) are read as they are. Message numbers: ``caffe.proto`` of BVLC Caffe 99bd997.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator, Optional, Sequence, Union

import numpy as np

from enc_caffe.caffe_io.hdf5 import MAGIC, hdf5_layers
from enc_caffe.caffe_io.looks import HEAD, looks_like
from enc_caffe.caffe_io.storedblob import BLOB_DATA, BLOB_LEGACY, BLOB_SHAPE, StoredBlob, stored_blob
from enc_caffe.caffe_io.wire import Buffer, encode, fields, message, tag
from enc_caffe.decomposition import KeptFactors
from enc_caffe.errors import BlobShapeError, WeightsError
from enc_caffe.network import Layer, Network

_NET_NAME, _NET_LAYER, _NET_V1 = 1, 100, 2
_LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS = 1, 2, 7
_V1_NAME, _V1_BLOBS, _V1_V0 = 4, 6, 1
_V0_NAME, _V0_BLOBS = 1, 50

#: A LayerParameter's bytes in pieces, views of the file among them.
Record = list[Union[bytes, memoryview]]


@dataclass(frozen=True)
class StoredLayer:
    """One layer's record: name, type, blobs, and the span of its bytes (None: an old format, not to be copied)."""

    name: str
    type: str
    blobs: tuple[StoredBlob, ...]
    span: Optional[tuple[int, int]]


def _text(data: Buffer, a: int, b: int) -> str:
    return bytes(data[a:b]).decode("utf-8", errors="replace")


def _layer(data: Buffer, start: int, end: int, v1: bool) -> StoredLayer:
    if v1:
        # The oldest files have a whole V0LayerParameter in each V1LayerParameter.
        inner = [(a, b) for n, wire, a, b in fields(data, start, end) if n == _V1_V0 and wire == 2]
        if inner:
            name, _, blobs = _named(data, *inner[-1], _V0_NAME, None, _V0_BLOBS)
        else:
            name, _, blobs = _named(data, start, end, _V1_NAME, None, _V1_BLOBS)
        return StoredLayer(name, "", tuple(blobs), None)
    name, kind, blobs = _named(data, start, end, _LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS)
    return StoredLayer(name, kind, tuple(blobs), (start, end))


def _named(
    data: Buffer, start: int, end: int, name_field: int, type_field: Optional[int], blob_field: int
) -> tuple[str, str, list[StoredBlob]]:
    name = kind = ""
    blobs: list[StoredBlob] = []
    for number, wire, a, b in fields(data, start, end):
        if wire != 2:
            continue
        if number == name_field:
            name = _text(data, a, b)
        elif number == type_field:
            kind = _text(data, a, b)
        elif number == blob_field:
            try:
                blobs.append(stored_blob(data, a, b))
            except WeightsError as exc:
                raise WeightsError(f"layer '{name}', blob {len(blobs)}: {exc}") from None
    return name, kind, blobs


#: Bytes of decompositions that a process keeps of a caffemodel; those of VGG-16, fully connected layers too, are 1.1 GB.
PLAIN = 3 * 2**29


class CaffeModel:
    """A caffemodel opened for reading; blobs are read-only views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._checked: list[Network] = []
        try:
            with open(self.path, "rb") as handle:
                if self.path.stat().st_size == 0:
                    raise WeightsError(f"{path}: is empty")
                hdf5 = handle.read(len(MAGIC)) == MAGIC
                if not hdf5:
                    self._data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            if hdf5:
                self._data = _converted(self.path)
        except (OSError, ValueError) as exc:
            raise WeightsError(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from None
        self.name = ""
        self.layers: dict[str, StoredLayer] = {}
        self._order: list[StoredLayer] = []
        try:
            self._walk()
        except WeightsError as exc:
            text = bytes(self._data[:HEAD])
            if looks_like(text):
                raise WeightsError(f"{path}: {looks_like(text)}") from None
            if text.isascii() and b"\n" in text:
                raise WeightsError(
                    f"{path}: is text, not a binary caffemodel (was a prototxt given as --weights?)"
                ) from None
            raise WeightsError(f"{path}: is no whole caffemodel, {exc}; copy or download it again") from None
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

    @cached_property
    def plain(self) -> KeptFactors:
        """Factors by plain SVD, of a layer and its form; decompositions are kept as long as the file is open (:func:`opened`)."""
        # Held weakly: together they would stay until the collector of cycles comes by.
        own = weakref.proxy(self)
        return KeptFactors(lambda layer: own.weights(layer), PLAIN)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[StoredLayer]:
        return iter(self._order)

    def array(self, blob: StoredBlob) -> np.ndarray:
        """Values of a blob in its stored shape: float32 (a view where they stand in one piece)."""
        parts = [np.frombuffer(self._data, blob.dtype, (b - a) // int(blob.dtype[-1]), a) for a, b in blob.spans]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, np.float32)
        # A blob that was never filled has neither values nor a shape.
        return flat.astype(np.float32, copy=False).reshape(blob.shape if blob.shape or flat.size else (0,))

    def bytes_of(self, span: tuple[int, int]) -> memoryview:
        """A part of the file, not copied."""
        return memoryview(self._data)[span[0] : span[1]]

    def record(self, layer: StoredLayer) -> Union[bytes, memoryview]:
        """A layer's LayerParameter bytes, unchanged and not copied; of an old format, name and blobs, these byte for byte.

        Stock Caffe compares a blob with num, channels, height and width otherwise than one with a shape: a bias of (1, 1, 1, N)
        is right as the former and wrong as the latter, so that blobs keep their form.
        """
        if layer.span is not None:
            return self.bytes_of(layer.span)
        out = message(_LAYER_NAME, layer.name.encode())
        return out + b"".join(message(_LAYER_BLOBS, bytes(self.bytes_of(blob.span))) for blob in layer.blobs)

    def stored(self, name: str) -> StoredLayer:
        """What the file has of a layer; :class:`WeightsError` where that is nothing."""
        if name not in self.layers:
            raise WeightsError(
                f"{self.path}: layer '{name}' of the prototxt is not in the caffemodel; call it as it is called "
                "there, or give the caffemodel that belongs to the prototxt"
            )
        return self.layers[name]

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
        stored, where = self.stored(layer.name), f"{self.path}: layer '{layer.name}'"
        shapes = expected_shapes(layer)
        if len(stored.blobs) != len(shapes):
            raise WeightsError(
                f"{where} has {len(stored.blobs)} blobs, the prototxt needs {len(shapes)} "
                f"({'with' if len(shapes) == 2 else 'without'} bias)"
            )
        arrays = []
        for blob, shape in zip(stored.blobs, shapes):
            if not same_shape(blob.shape, shape):
                raise BlobShapeError(f"{where} has a blob of shape {blob.shape}, the prototxt needs {shape}")
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
        if any(known is network or known == network for known in self._checked):
            return
        for layer in network.layers:
            if layer.has_weights:
                if layer.name in self.layers or not missing_ok:
                    self.weights(layer)
            elif layer.name in self.layers and not all(map(_finite, map(self.array, self.layers[layer.name].blobs))):
                raise WeightsError(f"{self.path}: layer '{layer.name}' ({layer.type}) holds NaN or infinity")
        if not missing_ok:
            self._checked = [*self._checked[-3:], network]


#: Caffemodels that this process has open, the last ones, by path, size and time: a command opens and checks a file once.
_OPEN: OrderedDict[tuple[str, int, int], CaffeModel] = OrderedDict()
_KEPT = 3


def opened(path: Path) -> CaffeModel:
    """A caffemodel, the one that this process has open already where the file is the same.

    Raises
    ------
    WeightsError
        As :class:`CaffeModel`.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return CaffeModel(path)
    key = (str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns)
    if key not in _OPEN:
        _OPEN[key] = CaffeModel(path)
        while len(_OPEN) > _KEPT:
            _OPEN.popitem(last=False)
    _OPEN.move_to_end(key)
    return _OPEN[key]


def _converted(path: Path) -> mmap.mmap:
    """A caffemodel in HDF5 as one in protobuf, in a file without a name."""
    with tempfile.TemporaryFile() as handle:
        write_caffemodel(handle, "", (layer_record(name, "", blobs) for name, blobs in hdf5_layers(path)))
        handle.flush()
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


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


def fits(blob: StoredBlob, needed: tuple[int, ...]) -> bool:
    """Whether stock Caffe takes a stored blob for one of its own (``Blob::ShapeEquals``)."""
    if blob.legacy:
        return len(needed) <= 4 and blob.shape == (1,) * (4 - len(needed)) + needed
    return blob.shape == needed


def layer_record(name: str, kind: str, arrays: Iterable[np.ndarray]) -> bytes:
    """LayerParameter bytes with name, type and float32 blobs."""
    return b"".join([*_head(name, kind), *(piece for array in arrays for piece in _blob_pieces(array))])


def kept_record(
    model: CaffeModel,
    layer: StoredLayer,
    kind: str = "",
    needed: Optional[Sequence[tuple[int, ...]]] = None,
    arrays: Optional[Sequence[np.ndarray]] = None,
) -> Record:
    """LayerParameter of a layer that stays whole, in a form that stock Caffe accepts; no blob that keeps its values is copied.

    Parameters
    ----------
    kind : str
        Layer type, for files of an old format, which have none in words.
    needed : sequence of shapes, optional
        What Caffe gives the layer's blobs, where that is known: blobs that it would not take for those get these shapes.
    arrays : sequence of ndarray, optional
        New values of the blobs.
    """
    shapes: list[Optional[tuple[int, ...]]] = [b.shape if b.raw else None for b in layer.blobs]
    if needed is not None and len(needed) == len(layer.blobs):
        shapes = [k if fits(b, s) or b.size != math.prod(s) else s for k, b, s in zip(shapes, layer.blobs, needed)]
    if layer.span is not None and arrays is None and not any(s is not None for s in shapes):
        return [model.bytes_of(layer.span)]
    out = _head(layer.name, kind or layer.type)
    for i, (blob, shape) in enumerate(zip(layer.blobs, shapes)):
        if arrays is None and shape is None:
            size = blob.span[1] - blob.span[0]
            out += [tag(_LAYER_BLOBS, 2) + encode(size), model.bytes_of(blob.span)]
            continue
        array = model.array(blob) if arrays is None else np.asarray(arrays[i])
        out += _blob_pieces(array.reshape(blob.shape if shape is None else shape), blob.legacy and shape is None)
    return out


def _head(name: str, kind: str) -> list[Union[bytes, memoryview]]:
    return [message(_LAYER_NAME, name.encode()), message(_LAYER_TYPE, kind.encode()) if kind else b""]


def _blob_pieces(array: np.ndarray, legacy: bool = False) -> list[Union[bytes, memoryview]]:
    values = np.ascontiguousarray(array, "<f4").reshape(-1)
    before = tag(BLOB_DATA, 2) + encode(values.nbytes)
    if legacy:
        after = b"".join(tag(field, 0) + encode(d) for field, d in zip(BLOB_LEGACY, array.shape))
    else:
        after = message(BLOB_SHAPE, message(1, b"".join(encode(d) for d in array.shape)))
    size = len(before) + values.nbytes + len(after)
    return [tag(_LAYER_BLOBS, 2) + encode(size) + before, values.view(np.uint8).data, after]


def write_caffemodel(handle: BinaryIO, name: str, records: Iterable[Union[bytes, memoryview, Record]]) -> None:
    """Write a NetParameter from LayerParameter records, one at a time; a record may come in pieces."""
    handle.write(message(_NET_NAME, name.encode()))
    for record in records:
        pieces = record if isinstance(record, list) else [record]
        handle.write(tag(_NET_LAYER, 2) + encode(sum(len(piece) for piece in pieces)))
        for piece in pieces:
            handle.write(piece)
