"""Images exactly as Caffe's TEST phase sees them (``DataTransformer::Transform`` of BVLC Caffe 99bd997)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generator, Optional

import numpy as np

from enc_caffe.caffe_io.datum import MAX_PIXELS, Image, ImageLmdb
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import DatasetError, PrototxtError, UsageError

#: The largest mean image: 256 MiB hold 3 x 4700 x 4700 values.
MAX_BYTES = 256 * 2**20
#: How a file of NumPy's begins.
NUMPY = b"\x93NUMPY"


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
    resize : (H, W) or None
        Size that images are brought to first, as ``convert_imageset`` does.
    rgb : bool
        Whether three channels are turned round first: Caffe's tools store blue, green, red.
    origin : str
        What says all this, in words; empty: nothing does.
    """

    mean: Optional[np.ndarray] = None
    scale: float = 1.0
    crop: int = 0
    force_color: Optional[bool] = None
    resize: Optional[tuple[int, int]] = None
    rgb: bool = False
    origin: str = ""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Transformed image, float32 (C, H, W).

        Raises
        ------
        DatasetError
            If the image is smaller than the crop or differs in size from the mean.
        """
        if self.resize and pixels.shape[1:] != self.resize:
            pixels = resized(pixels, self.resize)
        if self.rgb:
            if len(pixels) != 3:
                raise DatasetError(f"--channel_order rgb: the image has {len(pixels)} channels, and 3 are needed")
            pixels = pixels[::-1]
        values = pixels.astype(np.float32)
        mean = self.mean
        if mean is not None:
            if mean.shape[0] not in (1, values.shape[0]) or (mean.shape[1] > 1 and mean.shape != values.shape):
                raise DatasetError(
                    f"the mean has shape {mean.shape}, the image {values.shape} (C, H, W); one value, one for each channel (--mean_value), or an "
                    "image of the same size (--mean_file) is needed"
                )
            values = values - mean
        if self.crop:
            height, width = values.shape[1:]
            if self.crop > min(height, width):
                raise DatasetError(
                    f"crop_size {self.crop} is larger than the image {height} x {width}; --resize H,W makes it larger, --crop_size 0 leaves it whole"
                )
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            values = values[:, top : top + self.crop, left : left + self.crop]
        return values if self.scale == 1.0 else values * np.float32(self.scale)

    def sized(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of an image once it has been resized, before the crop."""
        return (shape[0], *self.resize) if self.resize else shape

    def key(self) -> dict[str, Any]:
        """What results depend on."""
        return {
            "mean": None if self.mean is None else np.asarray(self.mean).tolist(),
            "transformation": [self.scale, self.crop, self.force_color, self.resize, self.rgb],
        }

    def words(self) -> str:
        """What becomes of a value, for a person."""
        value = "value"
        if self.mean is not None and self.mean.shape[1:] != (1, 1):
            value = f"(value - a mean image of {'x'.join(map(str, self.mean.shape))})"
        elif self.mean is not None:
            shown = ", ".join(f"{v:g}" for v in self.mean.reshape(-1))
            value = f"(value - {shown})" if self.mean.size == 1 else f"(value - [{shown}])"
        if self.scale != 1.0:
            value += f" * {self.scale:g}"
        steps = [
            *([f"resized to {self.resize[0]}x{self.resize[1]}"] if self.resize else []),
            *(["decoded in colour" if self.force_color else "decoded in gray"] if self.force_color is not None else []),
            *(["channels turned round to RGB"] if self.rgb else []),
            *([f"the middle {self.crop}x{self.crop}"] if self.crop else []),
        ]
        return ", ".join([value if value != "value" else "values as they are", *steps])


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (C, H, W) of another height and width, interpolated as ``convert_imageset`` does."""
    import cv2

    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise UsageError(
            f"images cannot be resized to {size[0]}x{size[1]} (height x width): 1 or more each, and {MAX_PIXELS} pixels in all at most"
        )
    made = cv2.resize(np.ascontiguousarray(pixels.transpose(1, 2, 0)), (size[1], size[0]))
    return made[None] if made.ndim == 2 else made.transpose(2, 0, 1)


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
        raw = Path(path).read_bytes()
        if raw.startswith(NUMPY):
            raise _numpy_mean(path)
        blob.ParseFromString(raw)
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


def _numpy_mean(path: Path) -> DatasetError:
    """That a mean is a .npy file, as pycaffe's examples have it, and what to give: emitted files name one that Caffe reads."""
    what = f"mean_file {path}: is a NumPy file, and Caffe reads a binaryproto"
    try:
        mean = np.load(path, allow_pickle=False)
        while mean.ndim > 3 and len(mean) == 1:
            mean = mean[0]
        first = mean.ndim == 1 or (mean.ndim == 3 and len(mean) in (1, 3))
        if not first and not (mean.ndim == 3 and mean.shape[-1] in (1, 3)):
            raise ValueError("no axis of channels")
        values = mean.reshape(len(mean), -1).mean(1, dtype=np.float64) if first else mean.mean((0, 1), dtype=np.float64)
    except (OSError, ValueError, TypeError):
        return DatasetError(f"{what}; give --mean_value with one number for each channel")
    given = f"give --mean_value {','.join(f'{v:.6g}' for v in values)}, the means of its channels"
    whole = " (as pycaffe's examples take it), or write it by caffe.io.array_to_blobproto(np.load(file)[None]).SerializeToString()"
    return DatasetError(f"{what}; its array is {mean.shape}: {given}{whole if mean.ndim == 3 and first else ''}")


def color_of(layer: Any, source: str) -> Optional[bool]:
    """How a data layer decodes encoded images: in colour, in gray, or as they are stored (None).

    Raises
    ------
    PrototxtError
        If it asks for both, which Caffe refuses.
    """
    p = layer.transform_param
    if p.force_color and p.force_gray:
        raise PrototxtError(
            f"{source}: layer '{layer.name}' has both force_color and force_gray; Caffe takes one of them"
        )
    if layer.type == "ImageData" and not p.force_color and not p.force_gray:
        return bool(layer.image_data_param.is_color)
    return True if p.force_color else (False if p.force_gray else None)


def resize_of(layer: Any) -> Optional[tuple[int, int]]:
    """(H, W) that a data layer brings images to before it crops them, where it does."""
    p = layer.image_data_param
    return (int(p.new_height), int(p.new_width)) if layer.type == "ImageData" and p.new_height and p.new_width else None


def transform_of(net: Any, source: str, pixels: bool = True) -> Transform:
    """The transformation of the TEST phase's first data layer; the identity for a network without one.

    Parameters
    ----------
    pixels : bool
        Whether the values are wanted too, for which a mean image is read; else only what gives images their size.
    """
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
    elif p.mean_file and pixels:
        mean = read_mean(Path(p.mean_file))
    return Transform(
        mean, float(p.scale), int(p.crop_size), color_of(layers[0], source), resize_of(layers[0]),
        origin=f"layer '{layers[0].name}' of {source}",
    )  # fmt: skip


def first_size(lmdb: Path, rule: Transform) -> tuple[int, int, int]:
    """(C, H, W) of an LMDB's first image, decoded and resized, before the crop."""
    images = ImageLmdb(Path(lmdb))
    try:
        return rule.sized(images.first_shape(rule.force_color))
    finally:
        # LMDB opens a folder once in a process, and the network may name it too.
        images.close()


def fed_images(lmdb: Path, rule: Transform, shape: tuple[int, ...], start: int = 0, stop: Optional[int] = None) -> Generator[Image, None, None]:  # fmt: skip
    """Images as the network is fed them, in key order; each must have ``shape`` (C, H, W) then.

    Raises
    ------
    DatasetError
        With the record's key and both shapes, where one has another.
    """
    images = ImageLmdb(Path(lmdb))
    try:
        for image in images.images(start, stop, rule.force_color):
            try:
                made = rule(image.pixels)
            except DatasetError as exc:
                raise DatasetError(f"{lmdb}: key {image.key!r}: {exc}") from None
            if made.shape != shape:
                raise DatasetError(
                    f"{lmdb}: key {image.key!r}: the image becomes {made.shape} (C, H, W), but the network needs {shape}; "
                    f"{remedy(made.shape, shape)}"
                )
            yield Image(image.key, made, image.label)
    finally:
        images.close()


def remedy(shape: tuple[int, ...], needed: tuple[int, ...]) -> str:
    """What brings images of one shape (C, H, W) to another."""
    if len(needed) != len(shape):
        return "it takes no images; metrics without images, search and emit compress the network"
    if shape[0] != needed[0] == shape[-1]:
        return "arrays are (N, C, H, W), and these look like (N, H, W, C): images.transpose(0, 3, 1, 2) turns them"
    if shape[0] != needed[0]:
        way = {
            3: "--force_color decodes encoded gray images in colour",
            1: "--force_gray decodes encoded images in gray",
        }
        return way.get(needed[0], "the channels must be as many as the network has")
    return "--resize H,W (or --crop_size N) brings all to one size"


def blame(net: Any, shape: tuple[int, ...], lmdb: Path) -> str:
    """What to add where a caffemodel does not fit a network whose data layer takes the size (C, H, W) of an LMDB's images."""
    if not data_layers(net, "TEST"):
        return ""
    if shape[0] not in (1, 3) and shape[-1] in (1, 3) and min(shape[:2]) > 4:
        return f"; with images of {shape} (C, H, W), the size of those in {lmdb}; {remedy(shape, (shape[-1], *shape[:-1]))}"
    return (
        f"; with images of {shape} (C, H, W), the size of those in {lmdb}; --force_color and --force_gray say how encoded images "
        "are decoded, --resize H,W and --crop_size N how large they are"
    )
