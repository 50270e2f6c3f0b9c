"""Second moments of every layer's inputs over the images, and the factors that follow from them, in workers.

One task takes a few layers over all images in their order, so that sums do not depend on the number of workers. Its
result is a file for each layer; what is there is not made again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterable, Mapping, Optional, Sequence
from urllib.parse import quote

import numpy as np
import scipy

from enc_caffe.decomposition import KeptFactors, scheme_for
from enc_caffe.decomposition.outputs import output_roots, solve_turned, turned
from enc_caffe.decomposition.patches import patch_size, patches, sampled_positions
from enc_caffe.decomposition.regression import Moments, group_weights, output_power, regular
from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.factors import factor_file, write_factors
from enc_caffe.measuring.passes import NetTask, batches, engine_of
from enc_caffe.network import Layer, Network
from enc_caffe.progress import Progress
from enc_caffe.shapes import count
from enc_caffe.workers.executor import Executor, beat, run_all

#: Images that are summed at once, at most, and bytes of their blobs: the network alone decides, so that sums do not depend
#: on the memory that there is.
BLOCK, BLOCK_BYTES = 10, 64 * 2**20
#: Output positions of an image that are looked at; larger feature maps are sampled. Neighbours see nearly the same.
POSITIONS = 256
#: Layers whose outputs see more inputs than this are decomposed by plain SVD: their moments would not fit.
LARGEST = 6000
#: Tasks that the layers are split into.
PARTS = 12


def block_of(network: Network) -> int:
    """Images of a network that are summed at once."""
    blobs = {top: shape for x in network.layers for top, shape in zip(x.tops, x.top_shapes)}
    return max(1, min(BLOCK, BLOCK_BYTES // (4 * max(1, sum(count(s[1:]) for s in blobs.values())))))


def moment_file(folder: Path, layer: str) -> Path:
    """Where a layer's moments are."""
    return Path(folder) / f"{quote(layer, safe='')}.npz"


def with_moments(layer: Layer) -> bool:
    """Whether a layer's moments can be had and are small enough to be kept."""
    return patch_size(layer) <= LARGEST and columns_known(layer)


def columns_known(layer: Layer) -> bool:
    """Whether the columns that a layer sees are those of :func:`patches`: an InnerProduct with another axis sees others."""
    return layer.convolution is not None or patch_size(layer) == int(np.prod(layer.bottom_shapes[0][1:]))


class MomentSum:
    """Sums of x x', x y', x and y over columns, one group's, in float64; what is added at once is multiplied in float32, which blobs are.

    Rounding a block's products moves the sums' eigenvalues by some 1e-6 of their mean, the ridge of all solvers is 1e-4 of it.
    """

    def __init__(self, size: int, outputs: int = 0) -> None:
        self.inputs = np.zeros((size, size), order="F")
        self.targets = np.zeros((size, outputs))
        self.input_sum, self.target_sum, self.columns = np.zeros(size), np.zeros(outputs), 0

    def add(self, x: np.ndarray, y: Optional[np.ndarray] = None) -> None:
        """Add columns x (d, n) and what is wanted for them, y (O, n)."""
        x = np.ascontiguousarray(x, np.float32)
        # x.T is what BLAS calls a matrix in column order; only the upper triangle is computed.
        self.inputs += scipy.linalg.blas.ssyrk(1.0, x.T, trans=1)
        self.input_sum += x.sum(axis=1, dtype=np.float64)
        self.columns += x.shape[1]
        if y is not None:
            y = np.asarray(y, np.float32)
            self.targets += x @ y.T
            self.target_sum += y.sum(axis=1, dtype=np.float64)

    def merge(self, other: MomentSum) -> None:
        """Add another sum."""
        self.inputs += other.inputs
        self.targets += other.targets
        self.input_sum += other.input_sum
        self.target_sum += other.target_sum
        self.columns += other.columns

    def arrays(self) -> dict[str, np.ndarray]:
        """The sums, for a file or to be sent; of the symmetric matrix all of it."""
        whole = np.triu(self.inputs) + np.triu(self.inputs, 1).T
        return {
            "inputs": whole, "targets": self.targets, "input_sum": self.input_sum, "target_sum": self.target_sum,
            "columns": np.array(self.columns),
        }  # fmt: skip


def image_patches(blob: np.ndarray, layer: Layer, group: int, first: int) -> np.ndarray:
    """Columns of some images, ``first`` the position of the first one; large feature maps are sampled, each image by itself."""
    if sampled_positions(layer, POSITIONS, 0) is None:
        return patches(blob, layer, group)
    return np.concatenate([
        patches(blob[i : i + 1], layer, group, sampled_positions(layer, POSITIONS, first + i)) for i in range(len(blob))
    ], axis=1)  # fmt: skip


def image_columns(outputs: np.ndarray, layer: Layer, first: int) -> np.ndarray:
    """Outputs (n, O, positions) as columns (O, n positions), at the positions of :func:`image_patches`."""
    if sampled_positions(layer, POSITIONS, 0) is not None:
        outputs = np.stack([o[:, sampled_positions(layer, POSITIONS, first + i)] for i, o in enumerate(outputs)])
    return outputs.transpose(1, 0, 2).reshape(outputs.shape[1], -1)


def collect(task: NetTask, folder: str, images: int) -> None:
    """Write the moments of the task's layers over the first images (in a worker)."""
    layers = {x.name: x for x in task.layers if read_arrays(moment_file(Path(folder), x.name)) is None}
    if not layers:
        return
    sums = {n: [MomentSum(patch_size(x)) for _ in range(x.groups)] for n, x in layers.items()}
    with engine_of(task) as engine:
        at = 0
        for data, _ in batches(task, 0, images):
            for name, blob in engine.inputs_of(data, list(layers)):
                for group, total in enumerate(sums[name]):
                    total.add(image_patches(blob, layers[name], group, at))
                beat()
            at += len(data)
    for name, totals in sums.items():
        if not all(np.isfinite(t.inputs).all() for t in totals):
            raise CaffeError(
                f"the inputs of layer '{name}' are not finite; do the images have the scale that the network expects?"
            )
        mean = [t.arrays()["inputs"] / t.columns for t in totals]
        columns = np.array(totals[0].columns)
        write_arrays(
            moment_file(Path(folder), name), {f"group{g}": m for g, m in enumerate(mean)} | {"columns": columns}
        )


def collect_all(task: NetTask, folder: Path, images: int, executor: Executor, memory: int, progress: Progress) -> None:
    """Moments of all layers of the task as files in ``folder``.

    Parameters
    ----------
    task : NetTask
        Its ``batch`` is :func:`block_of` the network.
    memory : int
        Bytes that the sums of all workers may take together.
    progress : callable of layers done and in all
    """
    layers = [x for x in task.layers if with_moments(x)]
    parts: list[list[Layer]] = [[]]
    room = memory / executor.workers / 2
    for layer in layers:
        size = sum(8 * x.groups * patch_size(x) ** 2 for x in [*parts[-1], layer])
        if parts[-1] and (len(parts[-1]) >= -(-len(layers) // PARTS) or size > room):
            parts.append([])
        parts[-1].append(layer)
    small = replace(task, factors="", reference="")
    jobs = [(replace(small, layers=tuple(part)), str(folder), images) for part in parts if part]
    run_all(executor, collect, jobs, [len(p) for p in parts], progress)


def factorise(
    layer: Layer, weights: np.ndarray, moments: str, folder: str, forms: Sequence[Form], outputs: Optional[np.ndarray] = None
) -> None:  # fmt: skip
    """Write a layer's weighted factors in some forms, and the part of its output's power that each loses (in a worker).

    Without moments the factors are those of plain SVD, and the part is that of the weights. ``outputs`` (g, O/g, O/g) weighs the outputs'
    errors (:mod:`enc_caffe.decomposition.outputs`).
    """
    arrays = read_arrays(Path(moments)) if with_moments(layer) else None
    if arrays is None and with_moments(layer):
        raise CaffeError(f"{moments}: second moments are missing or damaged; run the command again")
    flat = group_weights(layer, weights)
    inputs = [None if arrays is None else arrays[f"group{g}"] for g in range(len(flat))]
    columns = 0 if arrays is None else int(arrays["columns"])
    known = [Moments.of_original(x, w, columns) for x, w in zip(inputs, flat) if x is not None]
    ready = regular(layer, weights, known) if known else []
    plain = KeptFactors(lambda _: [weights])
    power = sum(map(output_power, inputs, flat))
    roots = output_roots(outputs) if outputs is not None and ready else []
    turned_moments = turned(ready, roots)
    for form in forms:
        scheme = scheme_for(form.scheme)
        if roots:
            factors = solve_turned(scheme, layer, weights, turned_moments, roots, form)
        elif ready:
            factors = scheme.solve_regular(layer, weights, ready, form)
        else:
            factors = plain(layer, form)
        effective = group_weights(layer, scheme.effective(layer, form, factors).reshape(weights.shape))
        lost = sum(output_power(x, w - other) for x, w, other in zip(inputs, flat, effective))
        write_factors(folder, layer.name, form, factors, max(0.0, lost) / power if power > 0 else 0.0)
        beat()


def factorise_all(
    layers: Mapping[str, Layer],
    weights_of: Callable[[Layer], np.ndarray],
    moments: Path,
    folder: Path,
    wanted: Iterable[tuple[str, Form]],
    executor: Executor,
    progress: Progress,
    outputs: Optional[Mapping[str, np.ndarray]] = None,
) -> None:
    """Factors of every (layer, form) as files in ``folder``; those that are there stay. ``outputs`` weighs errors of some layers'
    outputs."""
    missing: dict[str, list[Form]] = {}
    for name, form in dict.fromkeys(wanted):
        if read_arrays(factor_file(folder, name, form)) is None:
            missing.setdefault(name, []).append(form)
    jobs = [
        (layers[n], weights_of(layers[n]), str(moment_file(moments, n)), str(folder), forms, (outputs or {}).get(n))
        for n, forms in missing.items()
    ]
    run_all(executor, factorise, jobs, [len(f) for f in missing.values()], progress)
