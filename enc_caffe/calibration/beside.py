"""All layers of a compressed network fitted together, the original beside it: at every step both see the same images, mirrored and shifted
by chance, and every blob between two runs is held to the original's.

The last blob alone says too little of a thousand images: weights come nearer on these, and less so on others. What the original gives
on the way is said by the same images, and is what the layers were trained to give.

Source: blobs on the way as targets: Romero et al., "FitNets: Hints for thin deep nets" (2015), section 2.2, one of them there.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.as_test import as_in_test, passes
from enc_caffe.caffe_io.backward import set_apart
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.calibration.pairs import BATCH, BlocksTask, Kept, Place, put_blob, put_root
from enc_caffe.calibration.runs import (
    LOSS,
    add_distance,
    add_fitted,
    add_loss,
    behind,
    keep_weights,
    parsed,
    turned_power,
)
from enc_caffe.measuring.passes import engine_of

#: Before the names of the original's layers and blobs.
ORIGINAL = "enc_caffe_original/"
#: An image is shifted by at most one part of so many of its rows and columns.
SHIFT = 16
#: What the error of an activation inside a run counts for, those behind runs for 1: a network that keeps little cannot compute all of them.
ASIDE = 0.3
#: Axes of a blob that Caffe's EuclideanLoss takes.
LEGACY = 4


def varied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image (C, H, W) as chance has it: mirrored or not, and shifted, the edge repeated. What has no rows and columns stays."""
    if image.ndim != 3:
        return image
    image = image[..., ::-1] if rng.integers(2) else image
    for axis in (1, 2):
        size = image.shape[axis]
        reach = max(1, round(size / SHIFT)) if size > 1 else 0
        by = int(rng.integers(-reach, reach + 1))
        if by:
            image = image.take(np.clip(np.arange(size) + by, 0, size - 1), axis=axis)
    return image


def part_of(image: np.ndarray, window: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """A window of an image (C, H, W), where chance has it; the whole image where there is none."""
    for axis, size in enumerate(window, 1):
        first = int(rng.integers(image.shape[axis] - size + 1))
        image = image.take(range(first, first + size), axis=axis)
    return image


class Beside:
    """Both networks side by side; see :class:`enc_caffe.calibration.pairs.Source`."""

    def __init__(self, task: BlocksTask, at: int) -> None:
        self._task, self._run = task, task.runs[at]
        # Folded it has no blob between a convolution and its BatchNorm.
        made = {top for param in parsed(task.beside.prototxt).layer for top in param.top}
        needed = {*self._run.targets, self._run.segment.bottom}
        self._original = task.beside if needed <= made else task.original
        # Of the last target alone: on the way channels count alike. What changes of them cost made nothing better there, and takes a product as
        # large as a 1x1 layer.
        self._root = task.roots.get(self._run.segment.top)
        self.kept = Kept(task, at, sides=1)

    def powers(self) -> tuple[float, ...]:
        """Of every target."""
        held, found = self.kept.held, np.zeros(len(self._run.targets))
        with engine_of(self._original) as engine:
            for first in range(0, len(held), BATCH):
                data = self.kept.stacked(held[first : first + BATCH], 0)
                engine.size(len(data))
                engine.net.blobs[self._original.data].data[...] = data
                engine.part(0, behind(engine, self._run.targets[-1]))
                found += [turned_power(self._root_of(name), engine.net.blobs[name].data) for name in self._run.targets]
        return tuple(float(total) / len(held) for total in found)

    def net(self, images: int, powers: Sequence[float]) -> tuple[str, list[str]]:
        """The original up to the last target, the compressed network's runs behind it, and a loss for every target."""
        with engine_of(self._original) as engine:
            shapes = [tuple(engine.net.blobs[name].data.shape) for name in self._run.targets]
            passed = len(engine.net.blobs[self._original.data].data)
        whole, small = (parsed(task.prototxt) for task in (self._original, self._task.compressed))
        out = type(small)(name="together")
        segment, targets = self._run.segment, self._run.targets
        names = self._add_original(out, whole, images)
        if names is None:
            return "", []
        begin = len(out.layer)
        fitted = add_fitted(out, (p for p in small.layer[segment.first : segment.stop] if p.type != "Input"))
        if fitted is None:
            return "", []
        # The layers in front of the runs are the same in both.
        for layer in out.layer[begin:]:
            layer.bottom[:] = [names[b] if b == segment.bottom else b for b in layer.bottom]
        set_apart(out)
        for at, (blob, shape, power) in enumerate(zip(targets, shapes, powers)):
            # What counts less is a smaller part of a larger power.
            power /= ASIDE if blob in self._run.aside else 1.0
            # The last one's names have no suffix.
            suffix = f"_{at}" if blob != segment.top else ""
            if suffix and len(shape) <= LEGACY and shape[0] == passed:
                add_distance(out, blob, names[blob], power, LOSS + suffix)
            else:
                weight = 1.0 / (images * max(power, 1e-30))
                add_loss(out, blob, names[blob], shape, weight, self._root_of(blob), suffix)
        return to_text(out), fitted

    def _root_of(self, target: str) -> Optional[np.ndarray]:
        return self._root if target == self._run.segment.top else None

    def _add_original(self, out: Any, whole: Any, images: int) -> Optional[dict[str, str]]:
        """Add the original up to the last target; what its blobs are called there, or None where stock Caffe has not all of its layers."""
        names: dict[str, str] = {}
        last = max(at for at, param in enumerate(whole.layer) if self._run.targets[-1] in param.top)
        for param in whole.layer[: last + 1]:
            if param.type not in caffe_types():
                return None
            if passes(param):
                continue
            layer = out.layer.add()
            layer.CopyFrom(param)
            if param.type == "Input":
                names.update({top: top for top in param.top})
                for top, shape in zip(layer.top, layer.input_param.shape):
                    if top == self._original.data:
                        shape.dim[0] = images
                continue
            as_in_test(layer)
            layer.name = ORIGINAL + param.name
            layer.bottom[:] = [names[blob] for blob in param.bottom]
            names.update({top: ORIGINAL + top for top in param.top})
            layer.top[:] = [names[top] for top in param.top]
            shared = [ORIGINAL + spec.name if spec.name else "" for spec in param.param]
            del layer.param[:]
            keep_weights(layer)
            for spec, name in zip(layer.param, shared):
                if name:
                    spec.name = name
        return names

    def ready(self, net: Any) -> None:
        """The original's weights, and the root."""
        with engine_of(self._original) as engine:
            for name, blobs in engine.net.params.items():
                for blob, known in zip(net.params.get(ORIGINAL + name, ()), blobs):
                    blob.data[...] = known.data
        put_root(net, self._root)

    def put(self, net: Any, which: Sequence[Place], rng: Optional[np.random.Generator] = None) -> None:
        """Images: whole as they are, or a window of each, as chance has it."""
        images = [self.kept.one(place, 0) for place in which]
        if rng is not None:
            images = [part_of(varied(x, rng), self._run.window, rng) for x in images]
        put_blob(net, self._original.data, np.stack(images))
