"""How long a compression with images will take on this machine, said before it starts.

One pass of a few images and one matrix product are timed in a worker; all else follows from MACs and matrix sizes. Moments,
factors and metrics that are kept already are taken off; which whole networks a search will meet is not known.
"""

from __future__ import annotations

import time
from typing import Mapping, Optional, Sequence

import numpy as np
from scipy.linalg import blas

from enc_caffe.calibration.moments import PARTS, POSITIONS, with_moments
from enc_caffe.calibration.remaining import Remaining, everything
from enc_caffe.decomposition.patches import patch_size
from enc_caffe.decomposition.regression import ROUNDS, STEPS
from enc_caffe.form import Form
from enc_caffe.measuring.passes import NetTask, batches, engine_of
from enc_caffe.measuring.probes import number_of_probes
from enc_caffe.measuring.subject import Subject, batch_for, net_task
from enc_caffe.network import Layer, Network

#: Ranks in all over the first ones, where more are measured at bends (339 over 272 on ResNet-56).
DENSE = 1.25
#: Bytes a second of the blobs that both networks keep between two layers, written and read.
KEPT = 3e8
#: Passes over the images for gradients: of the sampled forms, and of those that were chosen.
GRADIENT_PASSES = 2
#: A backward pass with its products over a forward pass (2.5 to 2.7 on ResNet-56).
DIRECTION = 2.6
#: Images of the pass that is timed.
TIMED = 20


def speed(task: NetTask, images: int) -> tuple[float, float]:
    """Seconds of a pass for one image, and floating-point operations a second in double precision (in a worker)."""
    with engine_of(task) as engine:
        data = next(iter(batches(task, 0, images)))[0]
        engine.run(data)
        start = time.perf_counter()
        engine.run(data)
        seconds = (time.perf_counter() - start) / len(data)
    x = np.ones((4096, 512), order="F")
    blas.dsyrk(1.0, x, trans=1)
    start = time.perf_counter()
    blas.dsyrk(1.0, x, trans=1)
    return seconds, 512**2 * 4096 / (time.perf_counter() - start)


def stages(
    made: Subject,
    layers: Sequence[Layer],
    forms: Mapping[str, Sequence[Form]],
    kind: str,
    measured: bool,
    networks: int,
    dense: bool = False,
    left: Optional[Remaining] = None,
    predicted: bool = False,
) -> dict[str, float]:
    """Seconds by stage.

    Parameters
    ----------
    layers : sequence of Layer
        Those that may be decomposed.
    forms : mapping of layer to sampled forms
    kind : str
        Of :data:`enc_caffe.calibration.decomposer.KINDS`.
    measured : bool
        Whether metrics are measured at the sampled ranks.
    networks : int
        Whole networks that are made and measured.
    dense : bool
        Whether metrics are measured at more ranks where they bend.
    left : Remaining, optional
        What is not known yet; without it nothing is.
    predicted : bool
        Whether gradients predict the metrics.
    """
    left = left or everything(forms)
    batch = min(TIMED, made.look.images, batch_for(made.look.network, made.memory, made.executor.workers))
    once, rate = made.executor.result(made.executor.submit(speed, net_task(made, (), batch), batch))
    images, workers = made.look.images, made.executor.workers
    remaining = _remaining(made.look.network)
    known = [x for x in layers if with_moments(x)]
    found: dict[str, float] = {}
    if kind != "svd":
        fresh = [x for x in known if x.name in left.moments]
        sums = sum(patch_size(x) ** 2 * x.groups * _positions(x) for x in fresh)
        passes = once * PARTS / 2 * len(fresh) / max(1, len(known))
        found["second moments"] = images * (sums / rate + passes) / workers
        factors = [_alternation(x, f) for x in known for f in forms[x.name] if (x.name, f) in left.factors]
        found["factors"] = sum(factors) / rate / workers
    if measured:
        passes = sum(remaining[x.name] * left.metrics[x.name, f] for x in layers for f in forms[x.name])
        passes *= DENSE if dense else 1
        found["metrics"] = images * once * passes / workers
    scores = made.look.scores
    gradients = images * once * (1 + DIRECTION * number_of_probes(scores.classes, scores.softmax)) / workers
    if kind.endswith("fisher") and left.factors:
        # What outputs cost, other factors by it, and what both change: three passes, one of them over half of the images.
        found["what outputs cost"] = 2.5 * gradients + found["factors"]
    if predicted:
        found["gradients"] = GRADIENT_PASSES * gradients
    if networks:
        each = images * once / workers
        if kind.startswith("asymmetric"):
            size = sum((patch_size(x) + 2 * x.out_channels) * patch_size(x) * x.groups * _positions(x) for x in known)
            solve = sum(_alternation(x, forms[x.name][len(forms[x.name]) // 2]) for x in known) / rate
            kept = sum(8.0 * (int(np.prod(x.bottom_shapes[0][1:])) + int(np.prod(x.top_shapes[0][1:]))) for x in known)
            each += images * (2 * once + size / rate + kept / KEPT) / workers + solve
        found["whole networks"] = networks * each
    return found


def _remaining(network: Network) -> dict[str, float]:
    """Part of the MACs that a pass from each layer on takes."""
    macs = [(x.name, patch_size(x) * x.out_channels * int(np.prod(x.output))) for x in network.weighted]
    total, found, left = sum(m for _, m in macs), {}, 1.0
    for name, own in macs:
        found[name] = left
        left -= own / total
    return found


def _positions(layer: Layer) -> int:
    return min(POSITIONS, int(np.prod(layer.output)))


def _alternation(layer: Layer, form: Form) -> float:
    """Floating-point operations of one layer's factors in one form, as those of a split kernel of the largest rank."""
    dw, rank = layer.kernel[1], max(form.ranks)
    strip, outputs = patch_size(layer) // dw, layer.out_channels // layer.groups
    each = 2.0 * (STEPS + 2) * dw**2 * strip**2 * rank + 2.0 * (dw * rank) ** 2 * (dw * rank + outputs)
    start = (dw * strip) ** 2 * (dw * strip / 3 + 2 * outputs) + 20.0 * strip * dw * outputs * min(strip, dw * outputs)
    return layer.groups * (ROUNDS * each + start)


def words(seconds: Mapping[str, float], workers: int) -> str:
    """``about 9 minutes with 2 workers: second moments 1, metrics 5, whole networks 3``."""
    total = sum(seconds.values())
    if total < 90:
        number = max(1, round(total))
        return f"about {number} second{'s' if number > 1 else ''} with {workers} worker{'s' if workers > 1 else ''}"
    parts = ", ".join(f"{name} {value / 60:.0f}" for name, value in seconds.items() if value >= 30)
    return f"about {total / 60:.0f} minutes with {workers} worker{'s' if workers > 1 else ''}" + (
        f": {parts}" if parts else ""
    )
