"""Images exactly as Caffe's TEST phase sees them (``DataTransformer::Transform`` of BVLC Caffe 99bd997)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import DatasetError, PrototxtError

#: The largest mean image: 256 MiB hold 3 x 4700 x 4700 values.
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Transform:
    """(pixel - mean) * scale on the centre crop.

    Attributes
    ----------
    mean : ndarray or None
        (C, 1, 1) of ``mean_value``, or (C, H, W) of ``mean_file`` before cropping.
    scale : float
    crop : int
        Side of the centre crop; 0 for none.
    force_color : bool or None
        How encoded datums are decoded; None as they are stored.
    """

    mean: Optional[np.ndarray] = None
    scale: float = 1.0
    crop: int = 0
    force_color: Optional[bool] = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Transformed image, float32 (C, H, W).

        Raises
        ------
        DatasetError
            If the image is smaller than the crop or differs in size from the mean.
        """
        values = pixels.astype(np.float32)
        mean = self.mean
        if mean is not None:
            if mean.shape[0] not in (1, values.shape[0]) or (mean.shape[1] > 1 and mean.shape != values.shape):
                raise DatasetError(f"the mean has shape {mean.shape}, the image {values.shape}")
            values = values - mean
        if self.crop:
            height, width = values.shape[1:]
            if self.crop > min(height, width):
                raise DatasetError(f"crop_size {self.crop} is larger than the image {height} x {width}")
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            values = values[:, top : top + self.crop, left : left + self.crop]
        return values if self.scale == 1.0 else values * np.float32(self.scale)


def read_mean(path: Path) -> np.ndarray:
    """Mean image (C, H, W) of a binaryproto file, as ``compute_image_mean`` writes it."""
    blob = caffe_pb2().BlobProto()
    try:
        # A prototxt names this path: a device would be read for ever.
        if not Path(path).is_file() and Path(path).exists():
            raise DatasetError(f"mean_file {path}: is no file")
        if Path(path).stat().st_size > MAX_BYTES:
            raise DatasetError(
                f"mean_file {path}: {Path(path).stat().st_size} bytes; a mean image has {MAX_BYTES} at most"
            )
        blob.ParseFromString(Path(path).read_bytes())
    except DatasetError:
        raise
    except (OSError, ValueError) as exc:
        raise DatasetError(f"mean_file {path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from None
    except Exception as exc:  # protobuf's DecodeError has moved between modules
        raise DatasetError(f"mean_file {path}: is no binaryproto ({exc})") from None
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    data = np.array(blob.data, np.float32)
    if min(shape) < 1 or data.size != math.prod(shape) or data.size != math.prod(shape[-3:]) or len(shape) < 3:
        raise DatasetError(
            f"mean_file {path}: holds {data.size} values for shape {shape}; one image (C, H, W) is needed"
        )
    return data.reshape(shape[-3:])


def transform_of(net: Any, source: str) -> Transform:
    """The transformation of the TEST phase's first data layer; the identity for a network without one."""
    layers = data_layers(net, "TEST")
    if not layers:
        return Transform()
    p = layers[0].transform_param
    mean = None
    if p.mean_file and p.mean_value:
        raise PrototxtError(
            f"{source}: layer '{layers[0].name}' has both mean_file and mean_value; Caffe takes one of them"
        )
    if p.mean_value:
        mean = np.array(p.mean_value, np.float32).reshape(-1, 1, 1)
    elif p.mean_file:
        mean = read_mean(Path(p.mean_file))
    color = True if p.force_color else (False if p.force_gray else None)
    return Transform(mean, float(p.scale), int(p.crop_size), color)
