"""The one gate to h5py: caffemodels in HDF5, as ``snapshot_format: HDF5`` writes them (``/data/LAYER/0``, ``1``, ...)."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import numpy as np

from enc_caffe.errors import WeightsError

#: How a file begins that is HDF5, whatever its name.
MAGIC = b"\x89HDF\r\n\x1a\n"


def hdf5_layers(path: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Name and blobs (float32) of each layer, one at a time.

    Raises
    ------
    WeightsError
        If h5py is not installed, or the file is none that Caffe wrote.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(
            f"{path}: is HDF5, and h5py is not installed; pip install h5py, or save it by net.save('x.caffemodel') in pycaffe"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            if not isinstance(data, h5py.Group):
                raise WeightsError(f"{path}: is HDF5, but has no group 'data' with Caffe's layers")
            for name, group in data.items():
                blobs = group if isinstance(group, h5py.Group) else {}
                order = sorted(blobs, key=lambda key: (len(key), key))
                if order != [str(i) for i in range(len(order))]:
                    raise WeightsError(
                        f"{path}: layer '{name}' has blobs {', '.join(order)}, not 0 to {len(order) - 1}"
                    )
                yield name, [np.asarray(blobs[key][()], np.float32) for key in order]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as exc:
        raise WeightsError(f"{path}: is HDF5 that cannot be read ({str(exc).splitlines()[0]})") from None
