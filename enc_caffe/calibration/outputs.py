"""Factors weighted by what changes of the outputs cost, kept where they are better on images that the weights are not of."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np

from enc_caffe.calibration.moments import factorise_all
from enc_caffe.calibration.sensitivity import (
    Sensed,
    backward_task,
    change_file,
    looked_at,
    output_moments_of,
    sense_all,
)
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.factors import factor_file
from enc_caffe.measuring.layers import Pair
from enc_caffe.measuring.probes import predicted
from enc_caffe.measuring.subject import Subject
from enc_caffe.network import Layer
from enc_caffe.progress import Stages

#: Folder of a kind of arrays.
FolderOf = Callable[[str], Path]


def costs_of_outputs(
    made: Subject, layers: Mapping[str, Layer], folder: FolderOf, progress: Stages
) -> dict[str, np.ndarray]:
    """G (g, O/g, O/g) of the layers that a gradient arrives at; others are not in it."""
    task = backward_task(made, list(layers.values()), needed=False)
    return {} if not task.layers else output_moments_of(
        task, folder("outputs"), made.look.images, made.chunk, made.executor,
        lambda d, a: progress("what outputs cost", d, a),
    )  # fmt: skip


def better_factors(
    made: Subject,
    layers: Mapping[str, Layer],
    weights_of: Callable[[Layer], np.ndarray],
    folder: FolderOf,
    wanted: Sequence[Pair],
    progress: Stages,
) -> Path:
    """Folder with each layer's factors, weighted by what outputs cost where that is better, else by the inputs alone.

    G is of every other chunk of the images; the divergence that gradients predict on the chunks between decides, for every layer and
    form. Factors by the inputs alone must be there. A layer that no gradient arrives at has those.
    """
    chosen = folder("factors-fisher")
    missing = [p for p in wanted if read_arrays(factor_file(chosen, *p)) is None]
    if not missing:
        return chosen
    costs = costs_of_outputs(made, layers, folder, progress)
    rivals = [p for p in missing if p[0] in costs]
    factorise_all(
        layers, weights_of, folder("moments"), folder("factors-outputs"), rivals, made.executor,
        lambda d, a: progress("factors by outputs", d, a), costs,
    )  # fmt: skip
    sides: list[Sensed] = []
    for kind in ("weighted", "outputs") if rivals else ():
        source = folder("factors" if kind == "weighted" else "factors-outputs")
        task = backward_task(made, list(layers.values()), str(source))
        sides.append(
            sense_all(
                task,
                folder(f"changes-{kind}"),
                rivals,
                made.look.images,
                made.chunk,
                made.executor,
                lambda d, a: progress("gradients", d, a),
            )  # fmt: skip
        )
    better = {p for p in rivals if _better(p, sides, ~looked_at(made.look.images, made.chunk))}
    _keep_changes(folder("changes-fisher"), rivals, better, sides)
    for pair in missing:
        arrays = read_arrays(factor_file(folder("factors-outputs" if pair in better else "factors"), *pair))
        assert arrays is not None
        write_arrays(factor_file(chosen, *pair), arrays)
    return chosen


def _better(pair: Pair, sides: Sequence[Sensed], held: np.ndarray) -> bool:
    images = held if held.any() else ~held
    before, after = (_value(side, pair, images) for side in sides)
    return after < before


def _value(side: Sensed, pair: Pair, images: np.ndarray) -> float:
    known = side.softmax and side.roots.shape[1] == side.scores.shape[1] - 1
    return predicted(side.changes[pair][images], side.roots[images], side.scores[images] if known else None)


def _keep_changes(folder: Path, pairs: Sequence[Pair], better: set[Pair], sides: Sequence[Sensed]) -> None:
    """What the chosen factors change is known: a search by predictions need not go through the images again."""
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for pair in pairs:
        own: tuple[str, Form] = pair
        by_layer.setdefault(own[0], {})[str(own[1])] = sides[pair in better].changes[pair]
    for name, found in by_layer.items():
        write_arrays(change_file(folder, name), {**(read_arrays(change_file(folder, name)) or {}), **found})
    if sides:
        write_arrays(Path(folder) / "probes.npz", {"scores": sides[0].scores, "roots": sides[0].roots})
