"""Factors of a layer in a form, kept in a file of their own: workers write them, the emission and measurements read them."""

from __future__ import annotations

from pathlib import Path
from typing import Union
from urllib.parse import quote

import numpy as np

from enc_caffe.decomposition import Factors
from enc_caffe.errors import EncError
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.form import Form


def factor_file(folder: Union[str, Path], layer: str, form: Form) -> Path:
    """Where the factors of a layer in a form are."""
    return Path(folder) / f"{quote(layer, safe='')}-{str(form).replace(':', '-')}.npz"


def write_factors(folder: Union[str, Path], layer: str, form: Form, factors: Factors, error: float) -> None:
    """Keep the weights of every stage, in the single precision that a caffemodel has, and the error of the layer's output."""
    arrays = {f"stage{i}": x.astype(np.float32) for i, x in enumerate(factors)}
    arrays["error"] = np.array(error)
    write_arrays(factor_file(folder, layer, form), arrays)


def read_factors(folder: Union[str, Path], layer: str, form: Form) -> Factors:
    """Weights of every stage.

    Raises
    ------
    EncError
        If they are not there or damaged.
    """
    arrays = _factor_arrays(folder, layer, form)
    return [arrays[f"stage{i}"] for i in range(len(arrays) - 1)]


def read_error(folder: Union[str, Path], layer: str, form: Form) -> float:
    """Part of the power of the layer's output that its factors lose."""
    return float(_factor_arrays(folder, layer, form)["error"])


def _factor_arrays(folder: Union[str, Path], layer: str, form: Form) -> dict[str, np.ndarray]:
    path = factor_file(folder, layer, form)
    arrays = read_arrays(path)
    if arrays is None or "error" not in arrays:
        raise EncError(f"{path}: factors are missing or damaged; run the command again")
    return arrays
