"""What to measure with, from files: tasks of :mod:`measure`, their contexts in the store, and batches within a memory budget."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import opened
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers, write_compressed
from enc_caffe.caffe_io.fold import can_fold, fold
from enc_caffe.caffe_io.own_phase import check_repeatable
from enc_caffe.caffe_io.perimage import per_image
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.several import output_sizes
from enc_caffe.caffe_io.transform import Transform
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.decomposition import form_cost
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.files.output import scratch_folder
from enc_caffe.fork import DIGEST
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.early import Undecided, measure_early
from enc_caffe.measuring.images import Images, look_at
from enc_caffe.measuring.layers import (
    ORIGINAL,
    Pair,
    check_folding,
    chunk_size,
    measure,
    measure_chunk,
    scores_of,
    stored,
)
from enc_caffe.measuring.passes import NetTask
from enc_caffe.measuring.scores import ERROR, NATS, Counts, Units, units_of
from enc_caffe.measuring.store import ResultStore, digest_of
from enc_caffe.network import Network
from enc_caffe.progress import Progress, by_name, silent
from enc_caffe.workers.defaults import MEMORY
from enc_caffe.workers.executor import Executor, run_all
from enc_caffe.workers.limits import check_device

#: Images of one forward pass at most; more bring nothing, since Caffe's convolutions go image by image.
LARGEST_BATCH = 50
#: Raised when a change of the code changes what is measured, so that older results do not stand for new ones.
VERSION = 3
#: Images on which the folded net is held against the plain one.
PROBE = 4
#: Images that say how much each output varies.
UNIT_IMAGES = 48


@dataclass(frozen=True)
class Subject:
    """A network with images: all that evaluations of it share; ``remark`` is what a person should know of the network."""

    net: Any
    source: str
    weights: Path
    lmdb: Path
    look: Images
    macs: int
    executor: Executor
    store: Optional[ResultStore] = None
    memory: int = MEMORY
    fold: bool = True
    remark: str = ""
    units: Units = ()

    @property
    def unit(self) -> str:
        """What divergences are counted in."""
        return NATS if self.look.scores.softmax else ERROR

    @property
    def chunk(self) -> int:
        """Images of one task."""
        return chunk_size(self.macs, self.look.images)

    def key(self) -> dict[str, Any]:
        """What results depend on, by content."""
        assert self.store is not None
        return {
            "version": VERSION,
            "network": digest_of(to_text(per_image(deploy_net(self.net, self.look.network, 1), self.look.network))),
            "weights": self.store.file_digest(self.weights),
            "images": self.store.file_digest(self.lmdb / "data.mdb"),
            "fed": digest_of(self.look.transform.key()),
            "arithmetic": self.executor.arithmetic.key(),
            **({"units": self.units, "units of gradients": True} if self.units else {}),
            **({"caffe": os.environ[DIGEST]} if DIGEST in os.environ else {}),
        }

    def context(self, key: Mapping[str, Any]) -> str:
        """Digest of the context in the store, noted with what a person wants to know of it."""
        if self.store is None:
            return ""
        about = {
            "network": self.look.network.name, "model": str(Path(self.source).absolute()),
            "weights": str(self.weights.absolute()), "lmdb": str(self.lmdb.absolute()), "images": self.look.images,
            "fed": self.look.transform.words(), "computed by": self.executor.arithmetic.words(),
            **({"caffe": os.environ["CAFFE_ROOT"]} if DIGEST in os.environ else {}),
            **{f"digest of {k}": v for k, v in key.items() if k in ("weights", "images")},
        }  # fmt: skip
        return self.store.context(about, dict(key))


def subject(
    net: Any,
    source: str,
    weights: Path,
    lmdb: Path,
    macs: int,
    executor: Executor,
    store: Optional[ResultStore] = None,
    memory: int = MEMORY,
    transform: Optional[Transform] = None,
) -> Subject:
    """Hold network, weights and images against each other, and see once whether the folded net may stand for the plain one.

    Raises
    ------
    WeightsError, DatasetError
        As :func:`enc_caffe.measuring.evaluate.look_at`.
    NetworkError
        If two passes of the same images would differ.
    CaffeError
        If the network cannot be run from a layer on.
    """
    weights, lmdb = Path(weights).absolute(), Path(lmdb).absolute()
    check_repeatable(net, source)
    look = look_at(net, source, weights, lmdb, transform, any_output=True)
    check_device(net, source, executor.arithmetic.device)
    made = Subject(net, source, weights, lmdb, look, macs, executor, store, memory)
    # Every layer that some pass may begin at.
    layers = made.look.network.weighted
    plain, simple = (net_task(replace(made, fold=f), layers, PROBE) for f in (False, True))
    agrees = check_folding(plain, simple, executor, min(PROBE, made.look.images))
    return replace(made, fold=agrees and bool(simple.followers), units=_units(made, plain))


def _units(made: Subject, task: NetTask) -> Units:
    """What the squared errors of outputs are parts of, by the original's outputs on the first images; class scores have none."""
    if made.look.scores.softmax:
        return ()
    sizes = output_sizes(made.look.network) or (made.look.scores.classes,)
    spans = range(0, min(UNIT_IMAGES, made.look.images), PROBE)
    jobs = [(task, at, min(at + PROBE, made.look.images), False) for at in spans]
    parts = run_all(made.executor, scores_of, jobs, [PROBE] * len(jobs))
    return units_of(np.concatenate([scores for scores, _ in parts]), sizes)


def net_task(
    made: Subject, layers: Sequence[Any], batch: int, weights: Optional[Path] = None,
    net: Any = None, network: Optional[Network] = None,
) -> NetTask:  # fmt: skip
    """The task of a network on the subject's images: the subject's own, or ``net`` described by ``network`` with ``weights``."""
    described = network or made.look.network
    batch = min(batch, made.look.most or batch)
    deploy = per_image(deploy_net(net or made.net, described, batch), described)
    followers = {}
    weights = weights or made.weights
    if made.fold:
        simple, found = fold(deploy)
        if found and can_fold(opened(weights), found):
            deploy, followers = simple, found
    look = made.look
    return NetTask(
        to_text(deploy), str(weights), str(made.lmdb), look.transform, look.data, look.scores.scores, batch,
        look.labelled, tuple(layers), followers, look.scores.softmax,
        shape=look.shape, units=made.units,
    )  # fmt: skip


def batch_for(network: Network, memory: int, workers: int, factors: int = 0) -> int:
    """Images of a pass so that all workers stay within ``memory`` bytes beyond the weights; at least 1.

    An image needs its blobs; a worker needs the unfolded input (im2col) of every convolution, and ``factors`` bytes.
    """
    blobs: dict[str, int] = {}
    columns = 0
    for layer in network.layers:
        for top, shape in zip(layer.tops, layer.top_shapes):
            blobs[top] = max(blobs.get(top, 0), int(np.prod(shape[1:])))
        if layer.convolution is not None:
            columns += int(np.prod(layer.kernel)) * layer.in_channels * int(np.prod(layer.output))
    # Splits share their memory; layers that are not in place were counted by their tops.
    image = 4 * sum(blobs.values())
    # The interpreter, Caffe and its libraries take about 150 MB in every worker.
    room = memory / workers - 4 * columns - factors - 150 * 2**20
    return int(max(1, min(LARGEST_BATCH, room // max(1, image))))


def counts_key(made: Subject, key: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """What counts of single layers depend on."""
    return {**made.key(), **(key or {})}


def layer_counts(
    made: Subject,
    pairs: Sequence[Pair],
    progress: Callable[[int, int], None] = lambda done, all_: None,
    factors: str = "",
    key: Optional[Mapping[str, Any]] = None,
) -> dict[Pair, Counts]:
    """Counts of the original and of every (layer, form) over all images.

    Parameters
    ----------
    factors : str
        Folder with the factors to measure with, instead of plain SVD.
    key : mapping, optional
        What those factors depend on beside the network and the images.
    """
    task, context = _pairs_task(made, pairs, factors, key)
    return measure(task, pairs, made.look.images, made.chunk, made.executor, made.store, context, progress=progress)


def early_counts(
    made: Subject,
    pairs: Sequence[Pair],
    undecided: Undecided,
    progress: Callable[[int, int], None] = lambda done, all_: None,
    factors: str = "",
    key: Optional[Mapping[str, Any]] = None,
) -> tuple[dict[Pair, Counts], dict[Pair, int]]:
    """As :func:`layer_counts`, but forms that ``undecided`` does not name end early: how many images those saw is told too."""
    task, context = _pairs_task(made, pairs, factors, key)
    return measure_early(
        task, pairs, made.look.images, made.chunk, made.executor, undecided, made.store, context, progress
    )


def _pairs_task(made: Subject, pairs: Sequence[Pair], factors: str, key: Optional[Mapping[str, Any]]) -> tuple[NetTask, str]:  # fmt: skip
    network = made.look.network
    layers = [network[name] for name in dict.fromkeys(name for name, _ in pairs)]
    # What a worker keeps of every scheme's factors is about twice the layer's weights.
    kept = 0 if factors else sum(8 * form_cost(network[n], WHOLE)[1] for n, _ in {(n, f.scheme) for n, f in pairs})
    batch = min(batch_for(network, made.memory, made.executor.workers, kept), made.chunk)
    task = replace(net_task(made, layers, batch), factors=factors)
    return task, made.context(counts_key(made, key)) if made.store else ""


def first_counts(made: Subject) -> Counts:
    """Counts of the original on the images of the first task alone: soon known, and not kept."""
    batch = min(batch_for(made.look.network, made.memory, made.executor.workers), made.chunk)
    stop, task = min(made.chunk, made.look.images), net_task(made, (), batch)
    (counts,) = made.executor.result(made.executor.submit(measure_chunk, task, [ORIGINAL], 0, stop))
    return counts  # type: ignore[no-any-return]


def reference_scores(made: Subject, folder: Path) -> Path:
    """File of the original's scores, one row for each image, float32."""
    path = Path(folder) / "reference.npz"
    kept = read_arrays(path)
    if kept is not None and len(kept["scores"]) == made.look.images:
        return path
    batch = min(batch_for(made.look.network, made.memory, made.executor.workers), made.chunk)
    task = net_task(made, (), batch)
    spans = [(i, min(i + made.chunk, made.look.images)) for i in range(0, made.look.images, made.chunk)]
    parts = run_all(made.executor, scores_of, [(task, a, b, False) for a, b in spans], [b - a for a, b in spans])
    write_arrays(path, {"scores": np.concatenate([scores for scores, _ in parts]).astype(np.float32)})
    return path


#: Seconds within which a network is made without a word.
SOON = 2.0


class PlanEvaluator:
    """Counts of whole plans, each evaluated once; the pairs' net with folded BatchNorm is measured fastest.

    Parameters
    ----------
    made : Subject
    placement : {'exact', 'published'}
    top_k : int
        1 or 5: the accuracy that a call gives.
    progress : callable of plans evaluated, images done and in all of the present one
    blobs_of : callable of the plan's forms, optional
        Weights by layer that differ from what plain SVD gives; ``name`` says how they are made.
    reference : Path, optional
        Scores of the original, to know the divergence from.
    decomposing : callable of layers decomposed and in all, of a plan that takes seconds to make
    """

    def __init__(
        self,
        made: Subject,
        placement: str = "exact",
        top_k: int = 1,
        progress: Callable[[int, int, int], None] = lambda plans, done, all_: None,
        blobs_of: Optional[Callable[[Mapping[str, Form]], Mapping[str, Any]]] = None,
        name: Sequence[Any] = (),
        reference: Optional[Path] = None,
        decomposing: Progress = silent,
    ) -> None:
        self._decomposing = decomposing
        self._made, self._placement = made, placement
        self._top_k, self._progress = top_k, progress
        self._blobs_of, self._name, self._reference = blobs_of, list(name), reference
        self.known: dict[tuple[tuple[str, Form], ...], Counts] = {}

    def __call__(self, forms: Mapping[str, Form]) -> float:
        """Top-1 or top-5 accuracy of the network in these forms; layers that are absent stay whole."""
        found = self.counts(forms)
        return (found.correct if self._top_k == 1 else found.correct_5) / found.images

    def divergence(self, forms: Mapping[str, Form]) -> float:
        """Mean divergence of the network in these forms from the original, which needs the reference."""
        found = self.counts(forms)
        return max(0.0, found.divergence / found.images)

    def counts(self, forms: Mapping[str, Form]) -> Counts:
        """Counts of the network in these forms; without a reference the divergence is not known and 0."""
        key = tuple(sorted(forms.items()))
        if key not in self.known:
            self.known[key] = self._evaluate(dict(key))
        return self.known[key]

    def _evaluate(self, forms: Mapping[str, Form]) -> Counts:
        made, network = self._made, self._made.look.network
        how = [
            {n: str(f) for n, f in forms.items()},
            self._placement,
            *self._name,
            *(["reference"] if self._reference else []),
        ]
        name = "plan " + json.dumps(how, sort_keys=True)
        context = made.context({**made.key(), "plans": True}) if made.store else ""
        if made.store:
            # Before the plan's network is made, which costs more than asking.
            kept = stored(made.store, context, name, made.look.images, made.chunk)
            if kept is not None:
                return kept
        blobs = self._blobs_of(forms) if self._blobs_of else {}
        # Beside the store, since workers on other machines read these files too.
        beside = made.store.path.parent if made.store else None
        with scratch_folder(beside, "enc-caffe-plan-") as folder:
            caffemodel = folder / "plan.caffemodel"
            pairs = replace_layers(made.net, network, forms, self._placement)
            described = describe(pairs, None, "the plan's network", network.data_shapes)
            layers = by_name(self._decomposing, len(forms), SOON)
            write_compressed(caffemodel, opened(made.weights), network, forms, layers, blobs)
            batch = min(batch_for(described, made.memory, made.executor.workers), made.chunk)
            task = net_task(made, (), batch, caffemodel, pairs, described)
            task = replace(task, reference=str(self._reference or ""))
            result = measure(
                task, (), made.look.images, made.chunk, made.executor, made.store, context, name,
                lambda done, all_: self._progress(len(self.known), done, all_),
            )  # fmt: skip
        return result[ORIGINAL]
