"""How long a compression with images will take on this machine, said before it starts.

One pass of a few images and one matrix product are timed in a worker; all else follows from MACs and matrix sizes. Moments,
factors and metrics that are kept already are taken off; which whole networks a search will meet is not known.
"""

from __future__ import annotations

import time
from typing import Mapping, Optional, Sequence

import numpy as np
import scipy

from enc_caffe.calibration.fitting import PARTS as FIT_PARTS
from enc_caffe.calibration.moments import PARTS, POSITIONS, with_moments
from enc_caffe.calibration.remaining import Remaining, everything
from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.patches import patch_size
from enc_caffe.form import Form
from enc_caffe.measuring.passes import NetTask, batches, engine_of
from enc_caffe.measuring.probes import number_of_probes
from enc_caffe.measuring.subject import Subject, batch_for, net_task
from enc_caffe.network import Layer, Network

#: Ranks in all over the first ones, where more are measured at bends (339 over 272 on ResNet-56).
DENSE = 1.25
#: Part of the forms that are measured where a layer has several schemes: others are clearly beaten (961 of 1,150 on ResNet-56).
WORTH = 0.85
#: Speed of factors as a part of that of one large matrix product, and seconds that a form takes besides.
SMALLER, EACH = 0.5, 0.004
#: Bytes a second of the blobs that both networks keep between two layers, written and read.
KEPT = 1e9
#: Passes over the images for gradients: of the sampled forms, and, where cross terms have a say, of those near the chosen ones.
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
    scipy.linalg.blas.dsyrk(1.0, x, trans=1)
    start = time.perf_counter()
    scipy.linalg.blas.dsyrk(1.0, x, trans=1)
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
    trained: int = 0,
    predicted: float = 0.0,
    fitted: int = 0,
    more: int = 0,
    compared: tuple[int, int] = (0, 0),
    simple: int = 0,
) -> dict[str, float]:
    """Seconds by stage.

    Parameters
    ----------
    layers : sequence of Layer
        Those that may be decomposed.
    forms : mapping of layer to sampled forms
    kind : str
        Of :data:`enc_caffe.calibration.decomposition.KINDS`.
    measured : bool
        Whether metrics are measured at the sampled ranks.
    networks : int
        Whole networks that are made and measured.
    dense : bool
        Whether metrics are measured at more ranks where they bend.
    left : Remaining, optional
        What is not known yet; without it nothing is.
    trained : int
        Images that pass through both networks in a distillation, which one process computes.
    predicted : float
        Part of the metrics that gradients are still to predict.
    fitted : int
        Images that pass forward and backward through the network in a fit by blocks.
    more : int
        Images of another set that pass forward and backward in a fit of all layers together.
    compared : tuple of two int
        Further networks, and how many of the images their layers are put right with.
    simple : int
        Further networks, of factors that are known.
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
        wanted = ((x, [f for f in forms[x.name] if (x.name, f) in left.factors]) for x in known)
        found["factors"] = sum(_solving(x, own, rate) for x, own in wanted) / workers
    if measured:
        passes = sum(remaining[x.name] * left.metrics[x.name, f] for x in layers for f in forms[x.name])
        passes *= DENSE if dense else 1
        passes *= WORTH if kind != "svd" and any(len({f.scheme for f in own}) > 1 for own in forms.values()) else 1
        found["metrics"] = images * once * passes / workers
    scores = made.look.scores
    gradients = images * once * (1 + DIRECTION * number_of_probes(scores.classes, scores.softmax)) / workers
    if kind == "asymmetric_fisher" and left.factors and not predicted:
        # Over half of the images; where forms are predicted, in the same passes.
        found["what outputs cost"] = 0.5 * gradients
    if kind == "fisher" and left.factors:
        # What outputs cost, other factors by it, and what both change: three passes, one of them over half of the images.
        found["what outputs cost"] = 2.5 * gradients + found["factors"]
    if predicted:
        found["gradients"] = (1 if kind.startswith("asymmetric") else GRADIENT_PASSES) * gradients * predicted
    if networks or compared[0] or simple:
        each, right, solve = images * once / workers, 0.0, 0.0
        if kind.startswith("asymmetric"):
            size = sum((patch_size(x) + 2 * x.out_channels) * patch_size(x) * x.groups * _positions(x) for x in known)
            solve = sum(_solving(x, [forms[x.name][len(forms[x.name]) // 2]], rate) for x in known)
            kept = sum(8.0 * (int(np.prod(x.bottom_shapes[0][1:])) + int(np.prod(x.top_shapes[0][1:]))) for x in known)
            right = (2 * once + size / rate + kept / KEPT) / workers
        summed = networks * images + compared[0] * min(images, compared[1])
        found["whole networks"] = (networks + compared[0]) * (each + solve) + summed * right + simple * each
    if fitted:
        # The original forward, the compressed network forward and backward.
        found["blocks"] = fitted * once * (2 + DIRECTION) / min(workers, FIT_PARTS)
    if more:
        found["fit to more images"] = more * once * (2 + DIRECTION) / min(workers, FIT_PARTS)
    if trained:
        # The original forward; the compressed network, which is smaller, forward and backward.
        found["distillation"] = trained * once * 3
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


def _solving(layer: Layer, forms: Sequence[Form], rate: float) -> float:
    """Seconds for a layer's factors in some forms, and for what each loses of the output."""
    operations = 2.0 * layer.out_channels * patch_size(layer) ** 2 * (len(forms) + 1) if forms else 0.0
    for name in dict.fromkeys(f.scheme for f in forms):
        operations += scheme_for(name).work(layer, [f for f in forms if f.scheme == name])
    return operations / (SMALLER * rate) + EACH * len(forms)


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
