"""A plan's network fitted by blocks: from its weights to better ones, kept beside the store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import narrow_of, plain_blobs, replace_layers, write_compressed
from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.calibration.beside import ASIDE, SHIFT
from enc_caffe.calibration.blocks import (
    EPOCHS,
    FEWEST_STEPS,
    MACS,
    STEP,
    WHOLE_EPOCHS,
    WHOLE_RATES,
    WHOLE_ROUNDS,
    fit_blocks,
    fits_together,
    held_apart,
    nearer,
    runs_of,
    spans,
)
from enc_caffe.calibration.fitting import FAR, PARTS, SLOWEST, WORSE
from enc_caffe.calibration.layerwise import Blobs, flattened, grouped
from enc_caffe.calibration.moments import block_of
from enc_caffe.calibration.pairs import BATCH, HELD, RATES, ROUNDS, BlocksTask
from enc_caffe.calibration.runs import COSTS, blob_roots, scores_root
from enc_caffe.calibration.segments import held_blobs, segments_of, up_to
from enc_caffe.calibration.windows import LEAST, PART, POSITIONS, window_of
from enc_caffe.decomposition import chain_of
from enc_caffe.files.arrays import locked, read_arrays, write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.gradients import MOST_OUTPUTS
from enc_caffe.measuring.subject import Subject, net_task
from enc_caffe.network import Network
from enc_caffe.progress import Stages
from enc_caffe.shapes import Shape

#: What fits depend on beside the network, its images and weights.
KEY = [
    "blocks", "paired", 5.0, EPOCHS, BATCH, PARTS, ROUNDS, HELD, COSTS, MACS, FEWEST_STEPS, *RATES,
    "beside", "activations", ASIDE, "windows", PART, LEAST, POSITIONS, FAR, SLOWEST, WORSE, WHOLE_EPOCHS, WHOLE_ROUNDS, SHIFT, STEP, *WHOLE_RATES,
]  # fmt: skip


def blocks_task(
    made: Subject, model: CaffeModel, forms: Mapping[str, Form], placement: str, base: Blobs, folder: Path,
    together: bool = False,
) -> BlocksTask:  # fmt: skip
    """Both networks, the compressed one's weights written into the folder, and the runs between them; ``together``: only the first one,
    of all of them, where there is one.

    Raises
    ------
    UsageError
        If there are too few images, or no run of layers.
    """
    network = made.look.network
    net = replace_layers(made.net, network, forms, placement)
    described = describe(net, None, "the plan's network", network.data_shapes)
    path = folder / "plan.caffemodel"
    # Channels that are taken out would be filled: the narrow network is fitted.
    narrow, known = narrow_of(model, network, described, forms, base)
    write_compressed(path, model, network, forms, blobs=known, narrow=narrow)
    if narrow is not None:
        net = narrow.net(net)
        described = describe(net, None, "the plan's network", network.data_shapes)
    plain, block = replace(made, fold=False), block_of(network)
    compressed, original = net_task(plain, (), block, path, net, described), net_task(plain, (), block)
    nets = [from_text(task.prototxt) for task in (original, compressed)]
    whole, small = (up_to(own, task.scores) for own, task in zip(nets, (original, compressed)))
    parts = segments_of(whole, small, network, forms)
    held = held_blobs(whole, small, parts)
    blobs = _blobs(small)
    # What is changed by a blob is as large as itself, and so is its distance from the original's; that goes forward only.
    step = sum(
        size * sum(int(np.prod(shape[1:])) for shape in own.values())
        for size, own in ((8, blobs), (4, _blobs(whole)), (4, {name: blobs[name] for name in held}))
    )
    # What is kept of an image: it alone where all runs are fitted together, and what enters and leaves one where they are one by one.
    sizes = [sum(_values(whole, b) for b in (part.bottom, part.top)) for part in parts]
    alone = together and fits_together(parts, step)
    used = spans(made.look.images, int(np.prod(made.look.shape)) if alone else max(sizes, default=1), block)
    window = window_of(zip(nets, (whole, small)), made.look.shape, held[-1]) if held else ()
    part = float(np.prod(window) / np.prod(made.look.shape[1:])) if window else 1.0
    runs = runs_of(parts, sum(stop - first for first, stop in used), made.macs, step, together, held, window, part)
    beside = net_task(made, (), block)
    return BlocksTask(compressed, original, beside, str(folder), runs[:1] if alone else runs, used)


def _blobs(network: Network) -> dict[str, Shape]:
    return {top: shape for x in network.layers for top, shape in zip(x.tops, x.top_shapes)}


def _values(network: Network, blob: str) -> int:
    return int(np.prod(network.shape_of(blob)[1:]))


def widened(
    made: Subject, model: CaffeModel, forms: Mapping[str, Form], placement: str, base: Blobs, fitted: Blobs
) -> Blobs:  # fmt: skip
    """Fitted weights as wide as those of ``base``: what a narrow network does not have is as it was."""
    network = made.look.network
    wide = describe(
        replace_layers(made.net, network, forms, placement), None, "the plan's network", network.data_shapes
    )
    narrow, known = narrow_of(model, network, wide, forms, base)
    if narrow is None:
        return fitted
    for name, form in forms.items():
        # Chains of plain SVD are in no caffemodel, and in no base.
        if name + chain_of(network[name], form).stages[0].suffix not in known:
            known.update(plain_blobs(model, network[name], form))

    def before(name: str) -> list[np.ndarray]:
        return list(known[name]) if name in known else [model.array(b) for b in model.layers[name].blobs]

    return {n: narrow.widened(n, own, before(n)) if narrow.touches(n) else own for n, own in fitted.items()}


def _weighable(network: Network, blobs: Sequence[str]) -> list[str]:
    """Each blob once whose channels are few enough for what changes of them cost, a matrix of these channels: not all outputs in one."""
    return [blob for blob in dict.fromkeys(blobs) if network.shape_of(blob)[1] <= MOST_OUTPUTS]


def _roots(made: Subject, task: BlocksTask, progress: Stages) -> Callable[[Sequence[str]], dict[str, np.ndarray]]:
    """What gives blobs, where runs end, their roots."""

    def of(blobs: Sequence[str]) -> dict[str, np.ndarray]:
        known = scores_root(task.original, made.look.network) if task.original.scores in blobs else None
        costs = {} if known is None else {task.original.scores: known}
        rest = _weighable(made.look.network, [blob for blob in blobs if blob not in costs])
        if rest:
            costs.update(blob_roots(
                task.original, rest, made.look.images, made.executor, lambda d, a: progress("what blobs cost", d, a)
            ))  # fmt: skip
        return costs

    return of


def reconstructed(
    made: Subject, model: CaffeModel, forms: Mapping[str, Form], placement: str, base: Blobs, folder: Path, key: str,
    progress: Stages, together: bool = False,
) -> Blobs:  # fmt: skip
    """Weights of all layers that differ from the original's, fitted by blocks from ``base`` on, or only all runs ``together``; ``base``
    itself where images that are held out speak against it.

    Parameters
    ----------
    folder : Path
        Of the subject's arrays.
    key : str
        Of the plan and the way it is made.
    """
    kept, work = folder / f"{key}.npz", folder / key[:32]
    with locked(work.with_suffix(".lock")):
        found = grouped(read_arrays(kept) or {})
        if not found:
            work.mkdir(parents=True, exist_ok=True)
            task = blocks_task(made, model, forms, placement, base, work, together)
            fitted, _ = fit_blocks(
                task, made.executor, lambda d, a: progress("steps of fits", d, a), _roots(made, task, progress)
            )
            # Each run came nearer on images that it did not see; what the scores say on them must not speak against it.
            apart = made.executor.result(made.executor.submit(held_apart, task, fitted)) if fitted else None
            found = dict(base)
            if apart is not None and nearer(apart):
                found.update(widened(made, model, forms, placement, base, fitted))
            write_arrays(kept, flattened(found))
        shutil.rmtree(work, ignore_errors=True)
    return found
