"""The loss of a run of layers: its net for a solver, and what changes of a blob's channels cost."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Iterable, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.as_test import as_in_test, passes
from enc_caffe.caffe_io.backward import NO_GRADIENT, backward_text, set_apart
from enc_caffe.caffe_io.lacking import blob_count
from enc_caffe.caffe_io.prototxt import from_text, to_text
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.calibration.segments import Segment
from enc_caffe.decomposition.outputs import output_roots
from enc_caffe.measuring.gradients import output_moments
from enc_caffe.measuring.passes import Engine, NetTask, batches, engine_of
from enc_caffe.measuring.probes import probes_of, unit_roots
from enc_caffe.network import Network
from enc_caffe.progress import Progress
from enc_caffe.workers.executor import Executor, beat, run_all

#: Layers whose weights are fitted. BatchNorm layers keep their statistics.
FITTED = ("Convolution", "Deconvolution", "InnerProduct", "Scale", "Bias", "PReLU")
#: Names of what is added to a run.
TARGET, CHANGE, TURN, LOSS = (f"enc_caffe_{what}" for what in ("target", "change", "turn", "loss"))
#: Images that say what changes of the channels cost, and the tasks that they are split into.
COSTS, COST_CHUNKS = 256, 4


@lru_cache(maxsize=4)
def parsed(prototxt: str) -> Any:
    """A network, not to be changed: a fit asks for the same one hundreds of times, and text takes a tenth of a second."""
    return from_text(prototxt)


def training_net(
    prototxt: str, segment: Segment, shapes: Sequence[tuple[int, ...]], power: float, root: Optional[np.ndarray]
) -> tuple[str, list[str]]:
    """Prototxt of a run with its loss, and the layers whose weights are fitted; none where a layer has no gradient.

    Parameters
    ----------
    shapes : two shapes
        Of what enters and of the target, a batch each.
    power : float
        Power of the target, an image, weighted as the loss is: what the loss is a part of.
    root : array (C, C) or (C,), optional
        What the channels are turned by, or each is multiplied by; its values are put into the layer :data:`TURN` later.
    """
    whole = parsed(prototxt)
    out = type(whole)(name="run")
    layer = out.layer.add(name=TARGET, type="Input", top=[segment.bottom, TARGET])
    for shape in shapes:
        layer.input_param.shape.add(dim=shape)
    fitted = add_fitted(out, whole.layer[segment.first : segment.stop])
    if fitted is None:
        return "", []
    set_apart(out)
    add_loss(out, segment.top, TARGET, shapes[1], 1.0 / (shapes[1][0] * max(power, 1e-30)), root)
    return to_text(out), fitted


def add_fitted(out: Any, layers: Iterable[Any]) -> Optional[list[str]]:
    """Add layers as they are fitted, and say which ones have weights that are; None where a layer has no gradient."""
    fitted = []
    for param in layers:
        if param.type in NO_GRADIENT or param.type not in caffe_types():
            return None
        if passes(param):
            continue
        layer = out.layer.add()
        layer.CopyFrom(param)
        as_in_test(layer)
        shared = any(p.name for p in param.param)
        del layer.param[:]
        if param.type in FITTED and not shared:
            if blob_count(param):
                fitted.append(param.name)
        elif param.type != "BatchNorm":
            # What is not fitted keeps its weights, or the others would be fitted to weights that nobody gets.
            keep_weights(layer)
    return fitted


def keep_weights(layer: Any) -> None:
    """Learning rates of 0."""
    for _ in range(blob_count(layer)):
        layer.param.add(lr_mult=0, decay_mult=0)


def add_loss(
    out: Any, top: str, target: str, shape: tuple[int, ...], weight: float, root: Optional[np.ndarray], suffix: str = ""
) -> None:
    """Sum of squares of what a blob differs from its target in, its channels turned by its root; names end in ``suffix``."""
    change, turn, loss = (name + suffix for name in (CHANGE, TURN, LOSS))
    layer = out.layer.add(name=change, type="Eltwise", bottom=[top, target], top=[change])
    layer.eltwise_param.coeff[:] = [1.0, -1.0]
    last = change
    if root is not None:
        kind = "Scale" if root.ndim == 1 else "Convolution" if len(shape) == 4 else "InnerProduct"
        layer = out.layer.add(name=turn, type=kind, bottom=[change], top=[turn])
        layer.param.add(lr_mult=0, decay_mult=0)
        last = turn
    if root is not None and root.ndim == 2:
        own = layer.convolution_param if kind == "Convolution" else layer.inner_product_param
        own.num_output, own.bias_term = shape[1], False
        if kind == "Convolution":
            own.kernel_size.append(1)
    layer = out.layer.add(name=loss, type="Reduction", bottom=[last], top=[loss], loss_weight=[weight])
    layer.reduction_param.operation = layer.reduction_param.SUMSQ


def add_distance(out: Any, top: str, target: str, power: float, name: str) -> None:
    """The sum of squares of what a blob differs from its target in, as a part of its power, an image: one layer, which passes over blobs half
    as often as those of :func:`add_loss`. The blob has images first, and four axes at most."""
    # EuclideanLoss is the half of it.
    weight = 2.0 / max(power, 1e-30)
    out.layer.add(name=name, type="EuclideanLoss", bottom=[top, target], top=[name], loss_weight=[weight])


def turned_power(root: Optional[np.ndarray], images: np.ndarray) -> float:
    """Sum of squares of some images, turned."""
    flat = np.asarray(images, np.float64).reshape(len(images), images.shape[1], -1)
    if root is not None:
        flat = flat * root[:, None] if root.ndim == 1 else np.einsum("ab,nbp->nap", root, flat, optimize=True)
    return float(np.sum(np.square(flat)))


def behind(engine: Engine, blob: str) -> int:
    """Place behind the last layer that makes or changes a blob."""
    return max(at for at, name in enumerate(engine.names) if blob in engine.net.top_names[name]) + 1


def sense_blobs(task: NetTask, blobs: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Sums of what changes of some blobs cost, (C, C) each, over images at positions start to stop (in a worker).

    Parameters
    ----------
    task : NetTask
        Of a network that :func:`enc_caffe.caffe_io.backward.backward_net` made.
    """
    found: dict[str, np.ndarray] = {}
    at = start
    with engine_of(task) as engine:
        net = engine.net
        # Where a blob is changed in place, its gradient is that of its last value only until those layers go backward.
        places = sorted(((behind(engine, blob), blob) for blob in blobs), reverse=True)
        for data, _ in batches(task, start, stop):
            probes = probes_of(engine.run(data), task.softmax, at, task.units)
            diffs: dict[str, list[np.ndarray]] = {}
            for direction in np.moveaxis(probes.directions, 1, 0):
                scores = net.blobs[task.scores]
                scores.diff[...] = direction.reshape(scores.diff.shape)
                last = len(engine.names) - 1
                for place, blob in places:
                    if place <= last:
                        net._backward(last, place)
                        last = place - 1
                    diff = net.blobs[blob].diff
                    diffs.setdefault(blob, []).append(diff.reshape(len(data), diff.shape[1], -1).copy())
                beat()
            for blob, parts in diffs.items():
                own = output_moments(1, np.stack(parts, axis=1), probes.roots)[0]
                found[blob] = found[blob] + own if blob in found else own
            at += len(data)
    return found


def scores_root(task: NetTask, network: Network) -> Optional[np.ndarray]:
    """Roots (C,) of what changes of the scores' channels cost where these are no class scores: known, and not to be estimated from
    gradients. None for class scores, and where values of one channel cost differently."""
    values, shape = sum(size for size, _ in task.units), network.shape_of(task.scores)
    # Images are the first axis, or it is no matter of channels.
    if not values or len(shape) < 2 or int(np.prod(shape[1:])) != values:
        return None
    own = (unit_roots(values, task.units) / np.sqrt(values)).reshape(shape[1], -1)
    return own[:, 0] if np.all(own == own[:, :1]) else None


def blob_roots(
    task: NetTask, blobs: Sequence[str], images: int, executor: Executor, progress: Progress
) -> dict[str, np.ndarray]:  # fmt: skip
    """Roots (C, C) of what changes of some blobs' channels cost; blobs that no gradient of the scores arrives at are absent.

    Parameters
    ----------
    task : NetTask
        Of the original, not folded.
    """
    text, reached, _ = backward_text(task.prototxt, task.scores)
    makers = {top: layer.name for layer in from_text(text).layer for top in layer.top}
    own = tuple(blob for blob in blobs if makers.get(blob) in reached)
    if not own:
        return {}
    used = min(images, COSTS)
    edges = [images * c // COST_CHUNKS for c in range(COST_CHUNKS)]
    pieces = [(first, min(images, first + -(-used // COST_CHUNKS))) for first in edges]
    jobs = [(replace(task, prototxt=text), own, first, stop) for first, stop in pieces if stop > first]
    (sums,) = run_all(executor, sense_blobs, jobs, [job[3] - job[2] for job in jobs], progress, fold=_added)
    finite = {blob: total for blob, total in sums.items() if np.isfinite(total).all()}
    return {blob: output_roots(total[None])[0][0] for blob, total in finite.items()}


def _added(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: first[name] + second[name] for name in first}
