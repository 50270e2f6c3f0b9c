"""How a plan's layers get their weights: plain SVD, or from images, with what follows them put right."""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

import numpy as np

from enc_caffe.caffe_io.caffemodel import opened
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import chain_blobs, replace_layers, write_compressed
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.layerwise import Blobs, CalibrationTask, Step, calibrate, flattened, grouped
from enc_caffe.calibration.moments import POSITIONS, block_of, collect_all, columns_known, factorise_all, with_moments
from enc_caffe.calibration.outputs import better_factors, costs_of_outputs
from enc_caffe.calibration.reconstruction import KEY, reconstructed
from enc_caffe.calibration.rectified import Behind, behind
from enc_caffe.decomposition import chain_of
from enc_caffe.decomposition.outputs import OUTPUT_RIDGE, Root, output_roots
from enc_caffe.decomposition.regression import FEW as FEW_COLUMNS
from enc_caffe.decomposition.regression import RIDGE, ROUNDS, STEPS
from enc_caffe.errors import UsageError
from enc_caffe.files.arrays import locked, read_arrays, write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.factors import read_error, read_factors
from enc_caffe.measuring.probes import FEW, MOST
from enc_caffe.measuring.store import digest_of
from enc_caffe.measuring.subject import Subject, net_task, reference_scores
from enc_caffe.network import Layer, Made, Network
from enc_caffe.progress import Stages, quiet


def affected(network: Network, forms: Mapping[str, Form]) -> list[Layer]:
    """Layers of the plan, and those whose input changes because of them, in order."""
    walk, found = network.walk, []
    changed: set[Made] = set()
    for layer in network.layers:
        if layer.name in forms or changed & set(walk.bottoms[layer.name]):
            changed |= set(walk.tops[layer.name])
            found.append(layer)
    return found


def steps_for(
    network: Network, forms: Mapping[str, Form], how: Decomposition, shared: frozenset[str] = frozenset(),
    after: Optional[Mapping[str, Behind]] = None,
) -> list[Step]:  # fmt: skip
    """What is put right in a plan's network, in the order of its layers.

    ``shared`` are BatchNorm layers that stay as they are: they share their statistics with others, or take those of the
    batch. ``after`` is what follows layers whose errors count behind it; the statistics there are put right with the layers.
    """
    known = after or {}
    taken = {known[n].norm.name for n in forms if n in known and known[n].norm is not None}  # type: ignore[union-attr]
    layers = affected(network, forms)
    norms = {x.bottoms[0] for x in layers if x.type == "BatchNorm"} if {"bn", "change"} & how.recalibrate else set()
    steps = []
    for layer in layers:
        if layer.name in forms:
            form = forms[layer.name]
            names = tuple(layer.name + stage.suffix for stage in chain_of(layer, form).stages)
            biased = layer.bias and "bias" in how.recalibrate and columns_known(layer)
            if how.kind == "asymmetric_relu" and with_moments(layer):
                own = known.get(layer.name)
                # Without a place for a constant there is none, and the target is linear.
                free = layer.bias or (own is not None and own.norm is not None)
                steps.append(Step("chain", layer, form, names, free, own if free else None))
            elif how.asymmetric and with_moments(layer):
                free = biased or layer.tops[0] in norms
                steps.append(Step("chain", layer, form, names, free))
            elif biased and layer.tops[0] not in norms:
                steps.append(Step("bias", layer, form, names))
        elif layer.type == "BatchNorm" and {"bn", "change"} & how.recalibrate and layer.name not in shared | taken:
            steps.append(Step("norm" if "bn" in how.recalibrate else "change", layer))
    return steps


def fixed_norms(net: Any) -> frozenset[str]:
    """BatchNorm layers of a NetParameter whose statistics are not theirs alone, or are the batch's in the TEST phase too."""
    return frozenset(
        p.name for p in net.layer if p.type == "BatchNorm" and (
            any(s.name for s in p.param)
            or (p.batch_norm_param.HasField("use_global_stats") and not p.batch_norm_param.use_global_stats)
        )
    )  # fmt: skip


class Decomposer:
    """Weights of plans on one network, its images and a way to decompose; moments and factors are made once and kept.

    Parameters
    ----------
    made : Subject
    how : Decomposition
    placement : {'exact', 'published'}
    progress : callable of what is done, how much of it, and in all
    """

    def __init__(
        self,
        made: Subject,
        how: Decomposition,
        placement: str = "exact",
        progress: Stages = quiet,
    ) -> None:
        self.made, self.how, self.placement, self.progress = made, how, placement, progress
        self._part = self._begun_by = 0
        self._temporary = None if made.store else tempfile.TemporaryDirectory(prefix="enc-caffe-")
        self._model = opened(made.weights)
        self._blobs: dict[str, Blobs] = {}
        self._roots: dict[str, Optional[list[Root]]] = {}

    def of_part(self, images: int) -> Decomposer:
        """The same with a plan's layers put right by so many of the images, where there are more: enough to compare plans by.

        What is kept of moments, factors and gradients is that of both.
        """
        if images >= self.made.look.images:
            return self
        other = copy.copy(self)
        other._part, other._blobs = images, {}
        return other

    def begun_by(self, images: int) -> Decomposer:
        """The same with a fit by blocks that begins with layers put right by so many of the images, where there are more."""
        other = copy.copy(self)
        other._begun_by, other._blobs = images if images < self.made.look.images else 0, {}
        return other

    def key(self) -> dict[str, Any]:
        """What factors depend on beside the images and the network."""
        if self.how.kind == "svd":
            return {}
        outputs = ["fisher", OUTPUT_RIDGE] if self.how.kind == "fisher" else ["weighted"]
        return {"decomposition": [*outputs, RIDGE, FEW_COLUMNS, ROUNDS, STEPS, POSITIONS]}

    @property
    def factors_kind(self) -> str:
        """What factors of :meth:`prepare` minimise: asymmetric ones begin as weighted ones, whatever weighs the errors later."""
        return self.how.kind if self.how.kind in ("svd", "fisher") else "weighted"

    def folder(self, kind: str) -> Path:
        """Where arrays of a kind are kept, whoever makes them."""
        if self._temporary is not None:
            return Path(self._temporary.name) / kind
        made = self.made
        assert made.store is not None
        key: dict[str, Any] = {"arrays": [RIDGE, FEW_COLUMNS, ROUNDS, STEPS, POSITIONS]}
        if kind.startswith(("changes-", "factors-", "outputs")):
            key["gradients"] = [MOST, FEW, OUTPUT_RIDGE]
        return made.store.folder(made.context({**made.key(), **key})) / kind

    def _layers(self, names: Iterable[str]) -> dict[str, Layer]:
        return {n: self.made.look.network[n] for n in names}

    def prepare(self, pairs: Iterable[tuple[str, Form]]) -> str:
        """Folder with the factors of these layers and forms for :class:`NetTask`; empty for plain SVD."""
        if self.how.kind == "svd":
            return ""
        wanted = list(dict.fromkeys(pairs))
        layers, made = self._layers(dict.fromkeys(n for n, _ in wanted)), self.made
        moments, factors = self.folder("moments"), self.folder("factors")
        task = net_task(made, tuple(layers.values()), block_of(made.look.network))
        collect_all(
            task,
            moments,
            made.look.images,
            made.executor,
            made.memory,
            lambda d, a: self.progress("second moments", d, a),
        )
        factorise_all(
            layers, lambda x: self._model.weights(x)[0], moments, factors, wanted, made.executor,
            lambda d, a: self.progress("factors", d, a),
        )  # fmt: skip
        if self.factors_kind != "fisher":
            return str(factors)
        return str(
            better_factors(
                made, layers, lambda x: self._model.weights(x)[0], self.folder, wanted, self.progress,
            )
        )  # fmt: skip

    def errors(self, pairs: Iterable[tuple[str, Form]]) -> dict[tuple[str, Form], float]:
        """Part of the power of each layer's output that its weighted factors lose on the images."""
        wanted = list(dict.fromkeys(pairs))
        folder = self.prepare(wanted)
        return {(name, form): read_error(folder, name, form) for name, form in wanted}

    def blobs(self, forms: Mapping[str, Form]) -> Blobs:
        """Weights, by layer of the compressed network, that differ from what plain SVD of the caffemodel gives."""
        key = digest_of([sorted((n, str(f)) for n, f in forms.items()), self.placement, self.name()])
        if key not in self._blobs:
            # The last plan alone: weights of all that a refinement looks at would fill the memory.
            self._blobs = {key: self._make(dict(forms), key)}
        return self._blobs[key]

    def name(self) -> list[Any]:
        """How the store calls plans that are made so."""
        if self.how.plain:
            return []
        own = [self.how.kind, *sorted(self.how.recalibrate), *self.key().values()]
        own += [OUTPUT_RIDGE] if self.how.kind == "asymmetric_fisher" else []
        own += ["of", self._part] if self._part else []
        own += ["begun by", self._begun_by] if self._begun_by else []
        return [*own, KEY] if self.how.by_blocks else own

    def reference(self) -> Path:
        """File of the original's scores on the images."""
        return reference_scores(self.made, self.folder("scores"))

    def _make(self, forms: dict[str, Form], key: str) -> Blobs:
        if self.how.plain or not forms:
            return {}
        network = self.made.look.network
        self.check(forms)
        if self.how.by_blocks:
            before = Decomposer(self.made, replace(self.how, reconstruct="none"), self.placement, self.progress)
            base = (before.of_part(self._begun_by) if self._begun_by else before).blobs(forms)
            folder = self.folder("blocks")
            return reconstructed(self.made, self._model, forms, self.placement, base, folder, key, self.progress)
        initial = self._initial(forms)
        shared = fixed_norms(self.made.net)
        after = behind(self.made.net, network, self._model, shared) if self.how.kind == "asymmetric_relu" else None
        steps = steps_for(network, forms, self.how, shared, after)
        if not steps:
            return initial
        kept = self.folder("calibrated") / f"{key}.npz"
        work = self.folder("calibration") / key[:32]
        # Two commands that make the same plan: the second waits, and takes what the first found.
        with locked(work.with_suffix(".lock")):
            found = grouped(read_arrays(kept) or {})
            if not found:
                work.mkdir(parents=True, exist_ok=True)
                found = self._calibrated(forms, initial, steps, work)
                write_arrays(kept, flattened(found))
            shutil.rmtree(work, ignore_errors=True)
        return {**initial, **found}

    def _initial(self, forms: Mapping[str, Form]) -> Blobs:
        folder, blobs = self.prepare(forms.items()), {}
        for name, layer in self._layers(forms).items():
            form = forms[name]
            known = read_factors(folder, name, form) if folder else self._model.plain(layer, form)
            blobs.update(chain_blobs(layer, form, self._model.weights(layer), known))
        return blobs

    def _weights(self, layer: Layer) -> list[np.ndarray]:
        if layer.has_weights:
            return self._model.weights(layer)
        return [self._model.array(b) for b in self._model.stored(layer.name).blobs]

    def check(self, forms: Mapping[str, Form]) -> None:
        """Raise :class:`UsageError` where some layer cannot be made in this way."""
        if self.placement != "published" or not self.how.asymmetric:
            return
        for name, layer in self._layers(forms).items():
            published, exact = (chain_of(layer, forms[name], p) for p in ("published", "exact"))
            if published != exact and layer.convolution is not None:
                raise UsageError(
                    f"--decomposition asymmetric: layer '{name}' has stride {layer.convolution.stride}, and "
                    "--stride_placement published changes its function; use --stride_placement exact"
                )

    def _calibrated(self, forms: dict[str, Form], initial: Blobs, steps: list[Step], work: Path) -> Blobs:
        made = self.made
        network = made.look.network
        caffemodel = work / "plan.caffemodel"
        pairs = replace_layers(made.net, network, forms, self.placement)
        described = describe(pairs, None, "the plan's network", network.data_shapes)
        write_compressed(caffemodel, self._model, network, forms, blobs=initial)
        plain = replace(made, fold=False)
        original: Optional[Any] = None
        block = block_of(network)
        if any(s.kind != "norm" for s in steps):
            original = net_task(plain, (), block)
        roots = self._output_roots(forms) if self.how.kind == "asymmetric_fisher" else {}
        task = CalibrationTask(
            net_task(plain, (), block, caffemodel, pairs, described),
            original,
            str(work),
            made.look.images,
            roots,
            self._part,
        )
        return calibrate(
            task, steps, initial, self._weights, made.executor,
            lambda d, a: self.progress("calibrated layers", d, a),
        )  # fmt: skip

    def _output_roots(self, forms: Mapping[str, Form]) -> dict[str, list[Root]]:
        """Roots of what changes of the outputs cost; the same for every network, and kept."""
        layers = self._layers(forms)
        new = {name: layer for name, layer in layers.items() if name not in self._roots}
        if new:
            costs = costs_of_outputs(self.made, new, self.folder, self.progress)
            self._roots.update({name: output_roots(costs[name]) if name in costs else None for name in new})
        return {name: roots for name in layers if (roots := self._roots[name]) is not None}
