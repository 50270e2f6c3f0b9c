"""A compressed network put right layer by layer: factors, biases and statistics for the inputs that really reach them.

Both networks, the original and the compressed one, go through the images together, from one layer that is put right to
the next. Between two of them only the blobs that later layers read are kept, as files; where they would take too much
room, the pass begins again at the last place whose blobs were kept. What was solved is kept too, so that a stopped run
goes on where it was.

Source: the asymmetric reconstruction of [16] (Zhang et al.), section 3.4; statistics by the definition of BVLC's BatchNorm.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.calibration.moments import MomentSum, image_columns, image_patches
from enc_caffe.calibration.rectified import Behind, ResponseSum, placed, solved_behind, width
from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.outputs import Root, solve_turned, turned
from enc_caffe.decomposition.patches import patch_size
from enc_caffe.decomposition.regression import Moments, group_weights, regular
from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.files.passed_on import handed_on, handing_on
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.passes import Engine, NetTask, batches, engine_of
from enc_caffe.network import Layer
from enc_caffe.workers.executor import Executor, run_all

#: Tasks that the images are split into, whatever the number of workers, so that sums do not depend on it.
CHUNKS = 8
#: Bytes of blobs that are kept between two steps.
LIVE = 4 * 2**30

#: By how much ``change`` may change a variance at most.
RATIO = (1 / 16, 16.0)
#: Names of both networks in the files.
SIDES = "co"

Blobs = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Step:
    """One layer that is put right.

    Attributes
    ----------
    kind : {'chain', 'bias', 'norm', 'change'}
        Factors for the inputs that come (and the bias with them), the bias alone, or a BatchNorm's statistics: estimated
        again, or changed by as much as they differ between both networks.
    layer : Layer
        Of the original network.
    form : Form
        Of a chain or bias: what becomes of the layer.
    names : tuple of str
        Of a chain or bias: the layers that stand for it.
    free : bool
        Of a chain: whether a constant may be added to its output, because its bias or the statistics after it take it up.
    after : Behind, optional
        Of a chain whose errors count behind what follows it: that.
    """

    kind: str
    layer: Layer
    form: Form = WHOLE
    names: tuple[str, ...] = ()
    free: bool = False
    after: Optional[Behind] = None

    @property
    def rectified(self) -> bool:
        """Whether it is errors behind a ReLU that count."""
        return self.after is not None and self.after.relu and width(self.layer, self.form) > 0


@dataclass(frozen=True)
class CalibrationTask:
    """Both networks (the original only where some step needs it), not folded, and the folder of what is kept between steps.

    The tasks' ``batch`` is how many images are summed at once. ``outputs`` has the roots of G, group by group, of layers whose
    outputs' errors are weighted. ``part`` images, the first of every chunk, are enough to compare plans by; 0: all.
    """

    compressed: NetTask
    original: Optional[NetTask]
    folder: str
    images: int
    outputs: Mapping[str, Sequence[Root]] = field(default_factory=dict)
    part: int = 0

    @property
    def used(self) -> int:
        """Images that are summed over."""
        return self.part or self.images

    def span(self, chunk: int) -> tuple[int, int]:
        """Positions of the images of a chunk that are summed over."""
        first, stop = span(self.images, chunk, self.compressed.batch)
        return first, first + -(-(stop - first) * self.used // self.images)


def advance(
    task: CalibrationTask, base: int, at: int, steps: Sequence[Step], chunk: int, blobs: Blobs, keep: bool
) -> Any:
    """Bring one chunk of images from step ``base`` (-1: the images) to step ``at``, and sum what that needs (in a worker).

    Parameters
    ----------
    steps : sequence of Step
        All of them.
    blobs : dict of layer to arrays
        Weights of the compressed network that changed since ``base`` was reached.
    keep : bool
        Write the blobs that the next steps go on from.
    """  # fmt: skip
    step, sums = steps[at], _sums(steps[at], task.used)
    with contextlib.ExitStack() as stack:
        engines = _engines(task, stack)
        engines[0].put(blobs)
        kept = handing_on(Path(task.folder), _live_name(chunk), at, base)
        write = stack.enter_context(kept) if keep else None
        for number, (first, states) in enumerate(_blocks(task, base, chunk, engines)):
            for engine, state, side in zip(engines, states, SIDES):
                begin = place(engine, steps[base], side) if base >= 0 else 0
                for name, value in state.items():
                    engine.net.blobs[name].data[...] = value
                engine.part(begin, place(engine, step, side))
            _add(sums, step, engines, first)
            if write is not None:
                for engine, side in zip(engines, SIDES):
                    for name in engine.live(place(engine, step, side)):
                        write(f"{number}/{side}/{name}", engine.net.blobs[name].data)
    return sums


def _engines(task: CalibrationTask, stack: contextlib.ExitStack) -> list[Engine]:
    tasks = [task.compressed, *([task.original] if task.original else [])]
    return [stack.enter_context(engine_of(t)) for t in tasks]


def live_sizes(task: CalibrationTask, steps: Sequence[Step]) -> list[int]:
    """Bytes of the blobs that are kept at each step for one image (in a worker)."""
    with contextlib.ExitStack() as stack:
        engines = _engines(task, stack)
        for engine in engines:
            engine.size(1)
        return [
            sum(
                4 * int(np.prod(engine.net.blobs[name].data.shape))
                for engine, side in zip(engines, SIDES) for name in engine.live(place(engine, step, side))
            )
            for step in steps
        ]  # fmt: skip


def place(engine: Engine, step: Step, side: str) -> int:
    """Place in a net's order up to which a step runs it: before what is put right, and behind the
    original's layer."""
    name = step.layer.name
    if step.kind in ("norm", "change"):
        return engine.place[name]
    if side == "o":
        return engine.place[name] + 1
    # Before the bias that is to change: what is kept must not hold the old one.
    return engine.place[step.names[0 if step.kind == "chain" else -1]]


def _blocks(
    task: CalibrationTask, base: int, chunk: int, engines: Sequence[Engine]
) -> Iterator[tuple[int, list[dict[str, np.ndarray]]]]:
    block = task.compressed.batch
    start, stop = task.span(chunk)
    if base < 0:
        for data, _ in batches(task.compressed, start, stop):
            for engine in engines:
                engine.size(len(data))
            yield start, [{e.task.data: data} for e in engines]
            start += len(data)
        return
    arrays = handed_on(Path(task.folder), _live_name(chunk), base)
    if arrays is None:
        raise CaffeError(f"{task.folder}: kept blobs are missing or damaged; run the command again")
    for number, first in enumerate(range(start, stop, block)):
        states = []
        for engine, side in zip(engines, SIDES):
            engine.size(min(block, stop - first))
            prefix = f"{number}/{side}/"
            states.append({k[len(prefix) :]: array for k, array in arrays.items() if k.startswith(prefix)})
        yield first, states


def span(images: int, chunk: int, block: int) -> tuple[int, int]:
    """Positions of the images of a chunk, in whole blocks."""
    blocks = -(-images // block)
    first, last = (blocks * c // CHUNKS for c in (chunk, chunk + 1))
    return first * block, min(images, last * block)


def _live_name(chunk: int) -> str:
    return f"live-{chunk}"


def _sums(step: Step, images: int) -> Any:
    if step.kind == "chain":
        size, outputs = patch_size(step.layer), step.layer.out_channels // step.layer.groups
        if step.rectified:
            return [ResponseSum(size, outputs, images)]
        return [MomentSum(size, outputs) for _ in range(step.layer.groups)]
    if step.kind == "bias":
        return np.zeros((2, step.layer.out_channels)), [0]
    return np.zeros((4 if step.kind == "change" else 2, step.layer.bottom_shapes[0][1])), [0]


def _add(sums: Any, step: Step, engines: Sequence[Engine], first: int) -> None:
    compressed, original = engines[0], engines[-1]
    if step.kind == "chain":
        blob, wanted = compressed.bottom(step.names[0]), original.top(step.layer.name)
        outputs = wanted.reshape(len(wanted), step.layer.groups, -1, int(np.prod(step.layer.output)))
        for group, total in enumerate(sums):
            # Where positions are sampled, the same ones of the outputs.
            columns = image_patches(blob, step.layer, group, first), image_columns(outputs[:, group], step.layer, first)
            if isinstance(total, ResponseSum):
                total.add_images(*columns, len(blob))
            else:
                total.add(*columns)
        return
    if step.kind in ("norm", "change"):
        both = engines if step.kind == "change" else engines[:1]
        blobs = [np.asarray(engine.bottom(step.layer.name), np.float64) for engine in both]
        parts = [power for blob in blobs for power in (blob, blob**2)]
    else:
        compressed.part(place(compressed, step, SIDES[0]), place(compressed, step, SIDES[0]) + 1)
        names = ((compressed, step.names[-1]), (original, step.layer.name))
        parts = [np.asarray(engine.top(name), np.float64) for engine, name in names]
    shaped = [p.reshape(len(p), p.shape[1], -1) for p in parts]
    sums[0][...] += [p.sum(axis=(0, 2)) for p in shaped]
    sums[1][0] += len(shaped[0]) * shaped[0].shape[2]


def calibrate(
    task: CalibrationTask,
    steps: Sequence[Step],
    initial: Blobs,
    weights_of: Callable[[Layer], list[np.ndarray]],
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> Blobs:
    """New weights of the compressed network's layers, step by step.

    Parameters
    ----------
    steps : sequence of Step
        In the order of the net.
    initial : dict of layer to arrays
        Weights of all chains as the compressed caffemodel has them: right for the original's own inputs.
    weights_of : callable
        Weight and bias of a layer of the original.
    progress : callable of steps done and in all

    Returns
    -------
    dict of layer to arrays
        Blobs in Caffe's order; layers that no step changed are absent.
    """
    # Workers sum; what weighs the outputs stays here.
    folder, small = Path(task.folder), replace(task, outputs={})
    chunks = [c for c in range(CHUNKS) if len(range(*task.span(c)))]
    done, base, found = _resume(folder, len(steps), chunks)
    progress(done, len(steps))
    sizes = executor.result(executor.submit(live_sizes, task, steps)) if done < len(steps) else []
    for at in range(done, len(steps)):
        step = steps[at]
        known = step.kind == "chain" and not found and not step.free and step.layer.name not in task.outputs
        keep = sizes[at] * task.used <= LIVE and not known
        if known:
            # Nothing before it changed: the inputs are the original's own, and no constant is to be found.
            blobs = {n: initial[n] for n in step.names}
        else:
            since = {n for s in steps[max(base, 0) : at] for n in _changes(s)}
            changed = {n: b for n, b in found.items() if n in since}
            jobs = [(small, base, at, steps, c, changed, keep) for c in chunks]
            (sums,) = run_all(executor, advance, jobs, [1] * len(chunks), fold=_merged)
            if step.rectified and step.after is not None:
                blobs = solved_behind(step.layer, step.form, step.names, sums[0], step.after, weights_of)
            else:
                blobs = _solved(step, sums, initial, weights_of, task.outputs.get(step.layer.name))
        found.update(blobs)
        base = at if keep else base
        _remember(folder, at + 1, base, found)
        progress(at + 1, len(steps))
    return found


def _changes(step: Step) -> list[str]:
    norm = [step.after.norm.name] if step.after is not None and step.after.norm is not None else []
    return {"chain": [*step.names, *norm], "bias": list(step.names[-1:])}.get(step.kind, [step.layer.name])


def _merged(first: Any, second: Any) -> Any:
    if isinstance(first, list):
        for group, other in zip(first, second):
            group.merge(other)
        return first
    return first[0] + second[0], [first[1][0] + second[1][0]]


def _solved(
    step: Step, sums: Any, initial: Blobs, weights_of: Callable[[Layer], list[np.ndarray]], roots: Optional[Sequence[Root]] = None
) -> Blobs:  # fmt: skip
    layer = step.layer
    if step.kind == "norm":
        mean, square = sums[0] / sums[1][0]
        return {layer.name: [mean, np.maximum(square - mean**2, 0.0), np.ones(1)]}
    arrays = weights_of(layer)
    if step.kind == "change":
        mean, square, before, square_before = sums[0] / sums[1][0]
        old_mean, old_variance, factor = (np.asarray(a, np.float64).reshape(-1) for a in arrays)
        scale = 1.0 / factor[0] if factor[0] else 0.0
        ours, theirs = square - mean**2, square_before - before**2
        # A channel that hardly varies on these images says nothing of how its variance changed.
        known = theirs > np.maximum(1e-6 * old_variance * scale, 1e-10 * square_before)
        ratio = np.where(known, np.clip(ours / np.where(known, theirs, 1.0), *RATIO), 1.0)
        return {layer.name: [old_mean * scale + mean - before, old_variance * scale * ratio, np.ones(1)]}
    if step.kind == "bias":
        ours, theirs = sums[0] / sums[1][0]
        last = step.names[-1]
        return {last: [initial[last][0], arrays[1].reshape(-1) + theirs - ours]}
    scheme = scheme_for(step.form.scheme)
    bias = np.asarray(arrays[1], np.float64).reshape(layer.groups, -1) if len(arrays) > 1 else None
    moments, means = [], []
    for group in range(layer.groups):
        own = sums[group]
        inputs, targets, x, y = (a / own.columns for a in (own.inputs, own.targets, own.input_sum, own.target_sum))
        inputs = np.triu(inputs) + np.triu(inputs, 1).T
        constant = y if step.free else np.zeros_like(y) if bias is None else bias[group]
        middle = x if step.free else np.zeros_like(x)
        moments.append(Moments(inputs - np.outer(middle, middle), targets - np.outer(x, constant), own.columns))
        means.append((x, y))
    ready = regular(layer, arrays[0], moments)
    if roots is None:
        factors = scheme.solve_regular(layer, arrays[0], ready, step.form)
    else:
        factors = solve_turned(scheme, layer, arrays[0], turned(ready, roots), roots, step.form)
    blobs = {name: [factor] for name, factor in zip(step.names, factors)}
    new = np.zeros(0) if bias is None else bias.reshape(-1)
    if step.free:
        effective = scheme.effective(layer, step.form, [np.asarray(f, np.float64) for f in factors])
        own = group_weights(layer, effective.reshape(arrays[0].shape))
        new = np.concatenate([y - w @ x for w, (x, y) in zip(own, means)])
    return placed(blobs, step.names[-1], new, len(arrays) > 1, step.after, weights_of)


def flattened(blobs: Blobs) -> dict[str, np.ndarray]:
    """Blobs as named arrays of a file."""
    return {f"{i}/{name}": a for name, own in blobs.items() for i, a in enumerate(own)}


def grouped(arrays: Mapping[str, np.ndarray]) -> Blobs:
    """Blobs from what :func:`flattened` gave."""
    found: Blobs = {}
    for key in sorted(arrays, key=lambda k: int(k.split("/", 1)[0])):
        found.setdefault(key.split("/", 1)[1], []).append(arrays[key])
    return found


def _remember(folder: Path, done: int, base: int, found: Blobs) -> None:
    write_arrays(folder / "solved.npz", {**flattened(found), "state": np.array([done, base])})


def _resume(folder: Path, steps: int, chunks: Sequence[int]) -> tuple[int, int, Blobs]:
    arrays = read_arrays(folder / "solved.npz") or {}
    state = arrays.pop("state", None)
    if state is None or state[0] > steps:
        return 0, -1, {}
    done, base = (int(v) for v in state)
    if base >= 0 and any(handed_on(folder, _live_name(c), base) is None for c in chunks):
        base = -1
    return done, base, grouped(arrays)
