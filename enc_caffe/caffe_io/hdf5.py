"""The one gate to h5py: caffemodels in HDF5, as ``snapshot_format: HDF5`` writes them (``/data/LAYER/0``, ``1``, ...), and what HDF5Data
layers read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Optional, Sequence

import numpy as np

from enc_caffe.errors import DatasetError, WeightsError
from enc_caffe.shapes import Shape

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


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by how it begins; what is no file is not opened."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def hdf5_files(source: Path) -> list[Path]:
    """The HDF5 files that a person names: one, or a list as an HDF5Data layer reads it; none where it is something else."""
    if is_hdf5(source):
        return [source]
    try:
        with source.open() as file:
            first = next((line.strip() for line in file if line.strip()), "")
        return listed(source) if first and is_hdf5(Path(first)) else []
    except (OSError, UnicodeDecodeError):
        return []


def hdf5_images(files: Sequence[Path]) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Images (N, C, H, W) of HDF5 files, of the dataset ``data`` or the only one that has four axes, and labels (N,) where the dataset
    ``label`` has one class for each.

    Raises
    ------
    DatasetError
        If a file cannot be read, or has no such dataset.
    """
    images: list[np.ndarray] = []
    labels: list[Optional[np.ndarray]] = []
    for path in files:
        try:
            import h5py

            with h5py.File(path, "r") as file:
                fit = [name for name, own in file.items() if isinstance(own, h5py.Dataset) and own.ndim == 4]
                if not fit or ("data" not in fit and len(fit) > 1):
                    raise DatasetError(
                        f"{path}: has {'several datasets' if fit else 'no dataset'} of four axes (N, C, H, W)"
                        f"{', and none of them is data' if fit else ''}; it has {', '.join(map(str, file)) or 'none at all'}"
                    )
                images.append(np.asarray(file["data" if "data" in fit else fit[0]][()]))
                labels.append(_classes(np.asarray(file["label"][()])) if "label" in file else None)
        except ImportError:
            raise DatasetError(f"{path}: is HDF5, and h5py is not installed; pip install h5py") from None
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as exc:
            raise DatasetError(f"{path}: is HDF5 that cannot be read ({str(exc).splitlines()[0]})") from None
    if len({a.shape[1:] for a in images}) > 1:
        raise DatasetError(f"{files[0]} and others: images have several sizes, {sorted({a.shape[1:] for a in images})}")
    known = [a for a in labels if a is not None]
    return np.concatenate(images), np.concatenate(known) if len(known) == len(images) else None


def _classes(values: np.ndarray) -> Optional[np.ndarray]:
    """Classes of images, which HDF5Data has as floats; None where they are several values of an image, or no whole numbers."""
    flat = values.reshape(-1)
    if values.ndim < 1 or len(flat) != len(values) or not np.issubdtype(flat.dtype, np.number):
        return None
    return flat.astype(np.int64) if np.all(flat == np.floor(flat)) and np.all(flat >= 0) else None


def listed(source: Path) -> list[Path]:
    """The HDF5 files that the list of an HDF5Data layer names, one a line; a file that is HDF5 itself stands alone.

    Raises
    ------
    DatasetError
        If it is not there, or names a file that is not.
    """
    if not source.is_file():
        raise DatasetError(f"'{source}' is not there")
    if is_hdf5(source):
        return [source]
    try:
        files = [Path(line) for line in source.read_text().split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise DatasetError(f"'{source}' is no list of HDF5 files") from None
    missing = [f for f in files if not f.is_file()]
    if missing:
        raise DatasetError(f"'{source}' names '{missing[0]}', which is not there")
    if not files:
        raise DatasetError(f"'{source}' names no HDF5 file")
    return files


def dataset_shapes(source: Path, tops: Sequence[str]) -> dict[str, Shape]:
    """Shapes of the datasets that the tops of an HDF5Data layer have the names of, (N, ...), from the first file of its list.

    Raises
    ------
    DatasetError
        If they cannot be known; in words that follow the name of the layer.
    """
    file = listed(Path(source))[0]
    found = {}
    try:
        import h5py

        with h5py.File(file, "r") as data:
            for top in tops:
                if not isinstance(data.get(top), h5py.Dataset):
                    raise DatasetError(f"'{file}' has no dataset '{top}' ({', '.join(map(str, data))})")
                found[top] = tuple(int(n) for n in data[top].shape)
    except ImportError:
        raise DatasetError(f"'{file}' is HDF5, and h5py is not installed (pip install h5py)") from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as exc:
        raise DatasetError(f"'{file}' is HDF5 that cannot be read ({str(exc).splitlines()[0]})") from None
    return found
