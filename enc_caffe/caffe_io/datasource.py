"""What the sources of data layers say of the shapes of their tops, and in words why they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.hdf5 import dataset_shapes
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import DatasetError
from enc_caffe.shapes import Shape


def lmdb_of(layer: Any) -> Optional[ImageLmdb]:
    """The LMDB that a Data layer reads, where it is there; whoever asks closes it."""
    source = Path(layer.data_param.source)
    if layer.type != "Data" or not (source / "data.mdb").is_file():
        return None
    return ImageLmdb(source)


def hdf5_tops(layer: Any) -> dict[str, Shape]:
    """Full shapes of the tops of an HDF5Data layer, of its own batch; none of another layer, or where its files do not say them."""
    if layer.type != "HDF5Data":
        return {}
    try:
        shapes = dataset_shapes(Path(layer.hdf5_data_param.source), list(layer.top))
    except DatasetError:
        return {}
    return {top: (max(1, int(layer.hdf5_data_param.batch_size)), *shape[1:]) for top, shape in shapes.items()}


def why_unknown(layer: Any) -> str:
    """Why the source of a data layer does not say how large its images are, to follow ``and``; empty where nothing is known of it."""
    if layer.type == "HDF5Data":
        try:
            dataset_shapes(Path(layer.hdf5_data_param.source), list(layer.top))
        except DatasetError as exc:
            return f"its source {exc}" if str(exc).startswith(f"'{layer.hdf5_data_param.source}'") else str(exc)
    if layer.type == "Data":
        source = Path(layer.data_param.source)
        if layer.data_param.backend == caffe_pb2().DataParameter.LEVELDB and source.is_dir():
            return f"its source '{source}' is a LevelDB, which is not read here"
        return f"its source '{source}' is {'no LMDB' if source.exists() else 'not there'}"
    if layer.type == "ImageData":
        return f"images of its list '{layer.image_data_param.source}' keep their own (no new_height, new_width)"
    return ""
