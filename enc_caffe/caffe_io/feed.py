"""What a network is fed: the user's word first, else the transformation of the file's TEST data layer; never a guess."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.caffe_io.describe import data_layers, reads_data
from enc_caffe.caffe_io.transform import Transform, read_mean, transform_of
from enc_caffe.errors import UsageError

ORDERS = ("bgr", "rgb")


@dataclass(frozen=True)
class Feed:
    """What the user says of the images; None (or empty) leaves it to the prototxt.

    Attributes
    ----------
    mean_value : tuple of float
        One for each channel of what is fed, or one for all.
    mean_file : Path, optional
        Mean image as ``compute_image_mean`` writes it.
    scale : float, optional
    crop : int, optional
        Side of the centre crop; 0 for none.
    order : {'', 'bgr', 'rgb'}
        Order of the channels that the network is fed; images are stored as BGR, as Caffe's tools do.
    resize : (H, W), optional
    color : bool, optional
        Decode encoded images in colour, or in gray.
    """

    mean_value: tuple[float, ...] = ()
    mean_file: Optional[Path] = None
    scale: Optional[float] = None
    crop: Optional[int] = None
    order: str = ""
    resize: Optional[tuple[int, int]] = None
    color: Optional[bool] = None

    def __post_init__(self) -> None:
        if self.mean_value and self.mean_file is not None:
            raise UsageError("--mean_value and --mean_file exclude each other")
        if not all(map(math.isfinite, self.mean_value)):
            raise UsageError(f"--mean_value {','.join(map(str, self.mean_value))}: finite numbers are needed")
        if self.scale is not None and (not math.isfinite(self.scale) or self.scale == 0):
            raise UsageError(f"--scale {self.scale}: a finite number other than 0 is needed")
        if self.crop is not None and self.crop < 0:
            raise UsageError(f"--crop_size {self.crop}: 0 (none) or more pixels are needed")
        if self.order not in ("", *ORDERS):
            raise UsageError(f"--channel_order {self.order}: known are {', '.join(ORDERS)}")

    @property
    def given(self) -> bool:
        """Whether the user says anything."""
        return self != Feed()

    def written(self, net: Any) -> Any:
        """A network whose data layers of images say what the user says; the order of channels and a resize cannot be said."""
        first = next(iter(data_layers(net, "TEST") or data_layers(net, "TRAIN")), None)
        if not self.given or first is None or not first.top:
            return net
        out = type(net)()
        out.CopyFrom(net)
        for layer in out.layer:
            if reads_data(layer) and layer.top and layer.top[0] == first.top[0]:
                self._write(layer.transform_param)
                if self.resize and layer.type == "ImageData":
                    layer.image_data_param.new_height, layer.image_data_param.new_width = self.resize
        return out

    def _write(self, p: Any) -> None:
        if self.mean_value or self.mean_file is not None:
            p.ClearField("mean_value")
            p.ClearField("mean_file")
            p.mean_value.extend(self.mean_value)
            if self.mean_file is not None:
                p.mean_file = str(Path(self.mean_file).absolute())
        if self.scale is not None:
            p.scale = self.scale
        if self.crop is not None:
            p.crop_size = self.crop
        if self.color is not None:
            p.ClearField("force_color")
            p.ClearField("force_gray")
            setattr(p, "force_color" if self.color else "force_gray", True)

    def transform(self, net: Any, source: str, pixels: bool = True) -> Transform:
        """The whole transformation of a network's images, as :func:`enc_caffe.caffe_io.transform.transform_of`.

        Raises
        ------
        UsageError
            If channels are to be turned round, but a mean image has them as they are stored.
        DatasetError
            If the mean image cannot be read.
        """
        rule = transform_of(self.written(net), source, pixels)
        if not self.given:
            return rule
        if not data_layers(net, "TEST"):
            mean = np.array(self.mean_value, np.float32).reshape(-1, 1, 1) if self.mean_value else None
            if self.mean_file is not None and pixels:
                mean = read_mean(self.mean_file)
            rule = Transform(mean, self.scale or 1.0, self.crop or 0, self.color)
        if self.order == "rgb" and rule.mean is not None and rule.mean.shape[0] == 3 and rule.mean.shape[1] > 1:
            raise UsageError(
                "--channel_order rgb: the channels of a mean image are those of the images as stored; give --mean_value R,G,B"
            )
        origin = f"the flags and {rule.origin}" if rule.origin else "the flags"
        return replace(rule, resize=self.resize or rule.resize, rgb=self.order == "rgb", origin=origin)

    def flags(self) -> str:
        """What the user says, as flags of the command line."""
        return " ".join(
            [
                *([f"--mean_value {','.join(f'{v:g}' for v in self.mean_value)}"] if self.mean_value else []),
                *([f"--mean_file {shlex.quote(str(self.mean_file))}"] if self.mean_file is not None else []),
                *([f"--scale {self.scale:g}"] if self.scale is not None else []),
                *([f"--crop_size {self.crop}"] if self.crop is not None else []),
                *([f"--channel_order {self.order}"] if self.order else []),
                *([f"--resize {self.resize[0]},{self.resize[1]}"] if self.resize else []),
                *([f"--force_{'color' if self.color else 'gray'}"] if self.color is not None else []),
            ]
        )

    def remark(self) -> str:
        """A comment for an emitted prototxt: what the network was fed, and what of it Caffe's data layers cannot do."""
        if not self.given:
            return ""
        words = "".join(c if c.isprintable() else " " for c in self.flags())
        lines = [f"What the network was fed: {words}"]
        if self.order == "rgb" or self.resize:
            undone = " and ".join([*(["RGB"] if self.order == "rgb" else []), *(["resized"] if self.resize else [])])
            lines.append(f"A Data layer takes images as they are stored, so the LMDBs must hold them {undone}.")
        return "".join(f"# {line}\n" for line in lines)


#: The user says nothing: what the prototxt says holds.
AS_WRITTEN = Feed()
