"""What every form of every layer changes in the scores, image by image, from gradients: in workers, kept, resumable.

A task takes the images of one chunk through one forward pass and a backward pass for every direction of the scores, and
multiplies the gradients of its layers with what their forms change in the weights. Chunks and parts are fixed by the network
alone. Every task's result is a file; when all are there, they become one file a layer, and what is there is not made again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterable, Mapping, Optional, Sequence
from urllib.parse import quote

import numpy as np

from enc_caffe.caffe_io.backward import backward_text
from enc_caffe.calibration.moments import block_of, columns_known
from enc_caffe.decomposition.patches import patch_size
from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import locked, read_arrays, write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.gradients import MOST_OUTPUTS, Changes, backward, output_moments
from enc_caffe.measuring.layers import Pair
from enc_caffe.measuring.passes import Engine, NetTask, batches, engine_of
from enc_caffe.measuring.store import digest_of
from enc_caffe.measuring.subject import Subject, net_task
from enc_caffe.network import Layer
from enc_caffe.progress import Progress
from enc_caffe.workers.executor import Executor, run_all

#: Bytes of changed weights that a worker holds at once.
STACK = 192 * 2**20

Part = tuple[tuple[str, tuple[Form, ...]], ...]


@dataclass(frozen=True)
class BackwardTask:
    """A network to go backward through.

    Attributes
    ----------
    task : NetTask
        Its ``layers`` are those whose gradients are wanted.
    blocked : frozenset of layer names
        Those that the scores depend on only through a layer without a gradient.
    """

    task: NetTask
    blocked: frozenset[str]

    @property
    def layers(self) -> dict[str, Layer]:
        """Layers that a gradient arrives at, by name."""
        return {x.name: x for x in self.task.layers}


def backward_task(made: Subject, layers: Sequence[Layer], factors: str = "", needed: bool = True) -> BackwardTask:
    """The subject's network for backward passes to those of the layers whose gradients can be had.

    Raises
    ------
    CaffeError
        If no gradient of the scores arrives at any of them, and one is ``needed``.
    """
    task = net_task(made, layers, block_of(made.look.network))
    text, reached, blocked = backward_text(task.prototxt, task.scores)
    # The scores do not depend on a layer that the text lacks: its gradient is known, and 0.
    images = made.look.network.shape_of(made.look.data)[0]
    # Behind an LSTM the first axis of a blob may be time: its rows are no images.
    single = {x.name for x in layers if columns_known(x) and x.bottom_shapes[0][0] == images}
    kept = tuple(x for x in layers if x.name in reached and x.name in single)
    if needed and not kept:
        raise CaffeError(
            f"{made.source}: no gradient of '{task.scores}' arrives at a layer that can be decomposed: layers without a gradient "
            "lie between; search by divergences that are measured instead (--metric divergence)"
        )
    unknown = {x.name for x in layers if x.name in reached and x.name not in single}
    return BackwardTask(replace(task, prototxt=text, layers=kept, factors=factors), blocked | unknown)


def change_file(folder: Path, layer: str) -> Path:
    """Where a layer's changes of the scores are."""
    return Path(folder) / f"{quote(layer, safe='')}.npz"


_HELD: dict[tuple[int, str], list[Changes]] = {}


def _changes(engine: Engine, part: Part, key: str) -> list[Changes]:
    """What the part's forms change, made once in a worker for all of its tasks in a row."""
    own = (id(engine), key)
    if own not in _HELD:
        _HELD.clear()
        _HELD[own] = [Changes(engine, name, forms) for name, forms in part]
    return _HELD[own]


def sense(task: NetTask, part: Part, key: str, folder: str, start: int, stop: int, outputs: bool) -> None:
    """Write what the part's forms change in the scores of images at positions start to stop (in a worker).

    ``outputs``: also sum the second moments of the outputs' gradients.
    """
    path = Path(folder) / f"{start}.npz"
    if read_arrays(path) is not None:
        return
    found: dict[str, list[np.ndarray]] = {}
    moments: dict[str, np.ndarray] = {}
    at = start
    with engine_of(task) as engine:
        held = _changes(engine, part, key)
        for data, _ in batches(task, start, stop):
            passed = backward(engine, data, at, [name for name, _ in part])
            for (name, _), changes in zip(part, held):
                diffs, layer = passed.diffs[name], engine.layers[name]
                found.setdefault(f"changes/{name}", []).append(changes.along(engine.bottom(name), diffs))
                if outputs and _kept_moments(layer):
                    own = output_moments(layer.groups, diffs, passed.probes.roots)
                    if name in engine.parts:
                        # Of the convolution itself, before what was folded into it.
                        gain = engine.parts[name][0].reshape(layer.groups, -1)
                        own = own * gain[:, :, None] * gain[:, None, :]
                    moments[name] = moments[name] + own if name in moments else own
            found.setdefault("scores", []).append(passed.scores[None])
            found.setdefault("roots", []).append(passed.probes.roots[None])
            at += len(data)
    arrays = {k: np.concatenate(v, axis=1) for k, v in found.items()}
    write_arrays(path, {**arrays, **{f"moments/{k}": v for k, v in moments.items()}})


def parts_of(layers: Mapping[str, Layer], wanted: Mapping[str, Sequence[Form]]) -> list[Part]:
    """Layers and forms by the room that their changed weights take; the network and the forms alone decide."""
    parts: list[list[tuple[str, tuple[Form, ...]]]] = [[]]
    room = STACK
    for name, forms in wanted.items():
        layer = layers[name]
        size = 4 * patch_size(layer) * layer.out_channels if layer.inner_product is None else 0
        most = max(32, STACK // max(1, size) // 32 * 32)
        for at in range(0, len(forms), most):
            own = tuple(forms[at : at + most])
            taken = size * -(-len(own) // 32) * 32
            if parts[-1] and taken > room:
                parts.append([])
                room = STACK
            parts[-1].append((name, own))
            room -= taken
    return [tuple(p) for p in parts if p]


@dataclass(frozen=True)
class Sensed:
    """Changes of the scores along their directions.

    Attributes
    ----------
    changes : mapping of (layer, form) to ndarray, shape (images, m), float32
    scores : ndarray, shape (images, K)
    roots : ndarray, shape (images, m, m)
        R such that half of |R s|^2 is the divergence to second order.
    softmax : bool
    """

    changes: Mapping[Pair, np.ndarray]
    scores: np.ndarray
    roots: np.ndarray
    softmax: bool


def sense_all(
    backward: BackwardTask, folder: Path, pairs: Iterable[Pair], images: int, chunk: int, executor: Executor, progress: Progress,
    outputs: Optional[Path] = None,
) -> Sensed:  # fmt: skip
    """What every (layer, form) changes; those that the files of the folder have are not computed again.

    Layers that the scores do not depend on change nothing; pairs of ``blocked`` layers must not be among them.

    Parameters
    ----------
    outputs : Path, optional
        Folder that :func:`output_moments_of` will be asked for: the same passes give what it needs of the layers that they are for.
    """
    layers, task = backward.layers, backward.task
    wanted: dict[str, list[Form]] = {}
    for name, form in dict.fromkeys(pairs):
        wanted.setdefault(name, []).append(form)
    known = {name: read_arrays(change_file(folder, name)) or {} for name in wanted}
    missing = {
        n: [f for f in forms if str(f) not in known[n]] for n, forms in wanted.items() if n in layers
    }  # fmt: skip
    missing = {n: forms for n, forms in missing.items() if forms}
    probes = read_arrays(Path(folder) / "probes.npz")
    if probes is None or len(probes["scores"]) != images:
        missing = {n: forms for n, forms in wanted.items() if n in layers} or {next(iter(layers)): []}
    for part in parts_of(layers, missing) or ([((next(iter(layers)), ()),)] if probes is None else []):
        lacking = outputs is not None and any(
            _kept_moments(layers[n]) and read_arrays(change_file(outputs, n)) is None for n, _ in part
        )
        arrays = _run(task, part, folder, images, chunk, executor, progress, lacking)
        if outputs is not None and lacking:
            _keep_moments(outputs, arrays, images, chunk)
        probes = {"scores": arrays["scores"][0], "roots": arrays["roots"][0]}
        write_arrays(Path(folder) / "probes.npz", probes)
        for name, forms in part:
            found = {str(f): a for f, a in zip(forms, arrays[f"changes/{name}"])}
            with locked(change_file(folder, name).with_suffix(".lock")):
                # Another command may have added forms meanwhile.
                known[name] = {**(read_arrays(change_file(folder, name)) or {}), **known[name], **found}
                write_arrays(change_file(folder, name), known[name])
    assert probes is not None
    none = np.zeros((images, probes["roots"].shape[1]), np.float32)
    changes = {(n, f): known[n].get(str(f), none) for n, forms in wanted.items() for f in forms}
    if not any(np.any(c) for c in changes.values()) and changes:
        raise CaffeError(
            "the scores do not change with the weights of any layer, to first order: every image's softmax is certain, or its "
            "outputs are dead; search by divergences that are measured instead (--metric divergence)"
        )
    for (name, form), own in changes.items():
        if not np.isfinite(own).all():
            raise CaffeError(
                f"layer '{name}' as {form}: what gradients say of the scores is not finite, which the scores are: they may be too large "
                "for float32; search by divergences that are measured instead (--metric divergence)"
            )
    return Sensed(changes, probes["scores"], probes["roots"], task.softmax)


def output_moments_of(
    backward: BackwardTask, folder: Path, images: int, chunk: int, executor: Executor, progress: Progress
) -> dict[str, np.ndarray]:
    """Mean of G (g, O/g, O/g) of the layers' outputs over the images of :func:`looked_at`, where it is small enough to be kept."""
    layers = {n: x for n, x in backward.layers.items() if _kept_moments(x)}
    found = {n: read_arrays(change_file(folder, n)) for n in layers}
    missing = tuple((n, ()) for n, kept in found.items() if kept is None)
    if missing:
        arrays = _run(backward.task, missing, folder, images, chunk, executor, progress, True)
        found.update(_keep_moments(folder, arrays, images, chunk))
    return {n: kept["outputs"] for n, kept in found.items() if kept is not None}


def _kept_moments(layer: Layer) -> bool:
    return layer.out_channels // layer.groups <= MOST_OUTPUTS


def _keep_moments(
    folder: Path, arrays: Mapping[str, np.ndarray], images: int, chunk: int
) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for key, total in arrays.items():
        if key.startswith("moments/"):
            name = key.partition("/")[2]
            found[name] = {"outputs": total / looked_at(images, chunk).sum()}
            write_arrays(change_file(folder, name), found[name])
    return found


def looked_at(images: int, chunk: int) -> np.ndarray:
    """Which images G is of: every other chunk, so that the others can say whether it helps. A single chunk is both."""
    return np.arange(images) // chunk % 2 == 0


def _run(
    task: NetTask, part: Part, folder: Path, images: int, chunk: int, executor: Executor, progress: Progress, outputs: bool
) -> dict[str, np.ndarray]:  # fmt: skip
    """Arrays of all chunks, in the order of the images, and sums of the outputs' moments over those of :func:`looked_at`; without forms
    only these are gone through."""
    key = digest_of([[[name, [str(f) for f in forms]] for name, forms in part], *(["outputs"] if outputs else [])])[:32]
    work = Path(folder) / f"chunks-{key}"
    seen = looked_at(images, chunk)
    spans = [(start, min(start + chunk, images)) for start in range(0, images, chunk)]
    spans = [s for s in spans if not outputs or seen[s[0]] or any(forms for _, forms in part)]
    jobs = [(task, part, key, str(work), start, stop, outputs and bool(seen[start])) for start, stop in spans]
    run_all(executor, sense, jobs, [stop - start for start, stop in spans], progress)
    parts: list[dict[str, np.ndarray]] = []
    for start, _ in spans:
        arrays: Optional[dict[str, np.ndarray]] = read_arrays(work / f"{start}.npz")
        if arrays is None:
            raise CaffeError(f"{work}: changes of the scores are missing or damaged; run the command again")
        parts.append(arrays)
    found = {k: np.concatenate([p[k] for p in parts], axis=1) for k in parts[0] if not k.startswith("moments/")}
    for k in parts[0]:
        if k.startswith("moments/"):
            total = parts[0][k]
            for other in parts[1:]:
                total = total + other[k] if k in other else total
            found[k] = total
    shutil.rmtree(work, ignore_errors=True)
    return found
