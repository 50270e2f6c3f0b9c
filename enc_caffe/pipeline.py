"""The order of the stages. Commands and scripts call these functions; no other module knows what comes after what."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.blobs import needed_blobs
from enc_caffe.caffe_io.caffemodel import CaffeModel, opened
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers, describe, set_state
from enc_caffe.caffe_io.emit import NONE, Blobs, replace_layers, write_compressed
from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.caffe_io.inference import for_inference
from enc_caffe.caffe_io.inputs import lacks_size, set_input_shape
from enc_caffe.caffe_io.notices import notices
from enc_caffe.caffe_io.partial import deploy_shapes
from enc_caffe.caffe_io.prototxt import leading_comments, read_net, read_solver, to_text, verbatim_text, write_prototxt
from enc_caffe.caffe_io.runnable import Runnable, runnable
from enc_caffe.caffe_io.several import several_outputs
from enc_caffe.caffe_io.transform import Transform, blame, first_size
from enc_caffe.caffe_io.unsized import sized_by_weights
from enc_caffe.caffe_io.variants import deploy_net, sized_network, solver_param, train_val_or_same
from enc_caffe.complexity import Complexity, network_complexity
from enc_caffe.decomposition import Scheme, check_form, check_worth, form_cost, group_spectra, scheme_for
from enc_caffe.decomposition.policy import PAPER, Policy, Schemes, policy_for
from enc_caffe.errors import DatasetError, MetricsError, PlanError, UnknownSizeError, UsageError, WeightsError
from enc_caffe.form import CONVENTIONS, WHOLE, Form
from enc_caffe.metrics.sampling import Sampler, energy_samples, ladder_samples, vbmf_samples
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.network import Network
from enc_caffe.output import atomic_folder
from enc_caffe.plan import Plan, write_plan
from enc_caffe.runtime.loading import Original, check_loads
from enc_caffe.shapes import Shape

Progress = Callable[[str], None]


def _silent(name: str) -> None:
    return None


@dataclass(frozen=True)
class LoadedNetwork:
    """A network read from its files: NetParameter, description, which layers are decomposed, whether Python ones are allowed.

    Where it is not ``sized``, the heights and widths of its description only stand in for those of images, which nothing says.
    """

    path: Path
    net: Any
    network: Network
    policy: Policy
    python_layers: bool = False
    level: Optional[int] = None
    stages: tuple[str, ...] = ()
    feed: Feed = AS_WRITTEN
    sized_by: str = ""
    top_shapes: Optional[Mapping[str, Shape]] = None
    sized: bool = True
    _models: dict[Path, CaffeModel] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def model(self, weights: Path) -> CaffeModel:
        """A caffemodel for this network, opened and held against it once.

        Raises
        ------
        WeightsError
            If it cannot be read, or does not fit; where images gave the sizes, it may be they that do not.
        """
        weights = Path(weights)
        if weights not in self._models:
            model = opened(weights)
            try:
                model.check(self.network)
            except WeightsError as exc:
                raise WeightsError(f"{exc}{self.sized_by}") from None
            self._models[weights] = model
        return self._models[weights]

    def with_fully_connected(self, plan: Plan) -> LoadedNetwork:
        """The same with fully connected layers among those that are decomposed, where a plan has one of them."""
        if not any(n in self.network and self.network[n].inner_product is not None for n in plan.forms):
            return self
        return replace(self, policy=policy_for(self.network, PAPER, True))

    @functools.cached_property
    def runnable(self) -> Runnable:
        """What stock Caffe can run of it, with all its outputs in one blob where there are several."""
        part = runnable(self.net, self.network, str(self.path))
        return part if part.words else several_outputs(self.net, self.network, str(self.path))

    def measurable(self) -> LoadedNetwork:
        """The same network, layers that stock Caffe cannot reach left whole: nothing can be measured there."""
        missing = self.runnable.missing & set(self.policy.schemes)
        if not missing:
            return self
        schemes = {n: v for n, v in self.policy.schemes.items() if n not in missing}
        why = dict.fromkeys(sorted(missing), "it lies behind a layer that stock Caffe cannot run")
        return replace(self, policy=replace(self.policy, schemes=schemes, whole={**self.policy.whole, **why}))

    def check_measurable(self, layers: Iterable[str], source: str) -> None:
        """Raise UsageError where layers of a plan, or of metrics, cannot be measured."""
        missing = sorted(self.runnable.missing & set(layers))
        if missing:
            raise UsageError(
                f"{source}: layer '{missing[0]}' lies behind one that stock Caffe cannot run, so images say nothing of it; make "
                "metrics with images, or leave it whole (--whole)"
            )

    @property
    def transform(self) -> Transform:
        """What becomes of an image before the network sees it."""
        return self.feed.transform(self.net, str(self.path))

    def without_flags(self, net: Any) -> Any:
        """A network of the same file without the level and the stages that the file itself does not have."""
        if self.level is None and not self.stages:
            return net
        out = type(net)()
        out.CopyFrom(net)
        out.ClearField("state")
        own = read_net(self.path, python_layers=True)
        if own.HasField("state"):
            out.state.CopyFrom(own.state)
        return out

    def notices(self) -> list[str]:
        """What a person should know of a network that stock Caffe does not wholly have."""
        return notices(self.net, self.network, str(self.path))


def load(
    model: Path,
    lmdb: Optional[Path] = None,
    input_shape: Optional[Shape] = None,
    fully_connected: bool = False,
    python_layers: bool = False,
    input_shapes: Optional[Mapping[str, Shape]] = None,
    level: Optional[int] = None,
    stages: Sequence[str] = (),
    feed: Feed = AS_WRITTEN,
    schemes: Schemes = PAPER,
    describe_only: bool = False,
    weights: Optional[Path] = None,
) -> LoadedNetwork:
    """Read a prototxt; image sizes come from ``input_shape``, the LMDB, or the source that the prototxt names.

    Parameters
    ----------
    input_shapes : mapping of top to full shape, optional
        Of data layers whose tops no image size describes.
    level, stages : int and sequence of str, optional
        Which layers there are, as by ``caffe -level -stage``.
    feed : Feed
        What the user says of the images; the network's data layers say it then too.
    schemes : str or tuple of str
        What each layer may become (:mod:`enc_caffe.decomposition.policy`).
    describe_only : bool
        Nothing of the network will be run: its Python layers are layers like any others.
    weights : Path, optional
        Caffemodel by which to find a size of images where nothing else says it.
    """
    net = feed.written(set_state(read_net(Path(model), python_layers or describe_only), level, stages))
    shape, sized_by = None, ""
    if lmdb is not None:
        shape = first_size(Path(lmdb), feed.transform(net, str(model), pixels=False))
        sized_by = blame(net, shape, lmdb)
    image = input_shape or (shape if lacks_size(net) else None)
    if image is not None:
        set_input_shape(net, image, str(model), input_shapes or {})
    sized = True
    try:
        network = sized_network(net, str(model), shape, input_shape, input_shapes)
    except UnknownSizeError as exc:
        if weights is None:
            raise
        network, sized = sized_by_weights(
            net, opened(Path(weights)), lambda image: sized_network(net, str(model), None, image, input_shapes), exc
        )
    return LoadedNetwork(
        Path(model), net, network, policy_for(network, schemes, fully_connected), python_layers, level, tuple(stages), feed,
        sized_by, input_shapes, sized,
    )  # fmt: skip


def pca_metrics(
    loaded: LoadedNetwork, weights: Path, sampler: Sampler = energy_samples, progress: Progress = _silent
) -> MetricsTable:
    """Spectra and sampled forms of every scheme that the policy lets a layer have (Eq. 1 and 2; METHOD section 3)."""
    model, layers = loaded.model(weights), []
    for name, schemes in loaded.policy.schemes.items():
        blob = model.weights(loaded.network[name])[0]
        layers += [_curve(loaded, name, scheme_for(s), blob, sampler) for s in schemes]
        progress(name)
    if not layers:
        raise MetricsError(
            f"{loaded.path}: no layer of '{loaded.network.name}' can be decomposed (enc-caffe inspect says why)"
        )
    whole = network_complexity(loaded.network, {})
    extra = (
        ("network_macs", whole.macs),
        ("network_parameters", whole.parameters),
        ("first_layer", _reads_data(loaded.network)),
    )
    return MetricsTable(loaded.network.name, "singular values of the caffemodel", tuple(layers), None, extra)


def _curve(loaded: LoadedNetwork, name: str, scheme: Scheme, blob: np.ndarray, sampler: Sampler) -> LayerMetrics:
    layer = loaded.network[name]
    spectra = group_spectra(scheme.matrices(layer, blob))
    paper, shape = loaded.policy.paper.get(name) == scheme.name, scheme.matrix_shape(layer)
    if shape is None:
        ladder = scheme.forms(layer, spectra)
        places = tuple(ladder_samples([form_cost(layer, f)[0] for f in ladder], form_cost(layer, WHOLE)[0]))
        none = (None,) * len(places)
        return LayerMetrics(
            layer, scheme.name, len(ladder), tuple(spectra), places, none, None, (), ladder, paper, places
        )
    rank = scheme.max_rank(layer)
    places = tuple(sampler(spectra, shape, rank))
    kept = tuple(np.asarray(s[:rank]) for s in spectra)
    vbmf = max(1, min(rank, max(estimate(x, *shape).empirical_rank for x in spectra)))
    measured = tuple(vbmf_samples(spectra, shape, rank)) if sampler is energy_samples else places
    return LayerMetrics(
        layer, scheme.name, rank, kept, places, (None,) * len(places), vbmf, (), (), paper, measured
    )  # fmt: skip


def _reads_data(network: Network) -> Optional[str]:
    """The convolution or fully connected layer that comes first in the order of execution."""
    return next((layer.name for layer in network.layers if layer.has_weights), None)


@dataclass(frozen=True)
class Emitted:
    """What an emission wrote, and what it costs in both conventions, over all weighted layers and the decomposable ones.

    ``untrained`` says why ``train_val.prototxt`` has no data and no loss, where it has none, and ``unchecked`` what was not loaded
    in stock Caffe, where that could not be. Where it is not ``sized`` nothing says how large images are: MACs mean nothing, and
    there is no ``deploy.prototxt``.
    """

    folder: Path
    before: Mapping[tuple[str, str], Complexity]
    after: Mapping[tuple[str, str], Complexity]
    untrained: str = ""
    unchecked: str = ""
    sized: bool = True

    def ratio(self, convention: str, counted: str) -> float:
        """MACs after over MACs before."""
        return self.after[convention, counted].macs / self.before[convention, counted].macs

    def parameter_ratio(self, counted: str) -> float:
        """Parameters after over parameters before."""
        return self.after["exact", counted].parameters / self.before["exact", counted].parameters


def costs(
    loaded: LoadedNetwork, forms: Mapping[str, Form], placement: str = "exact"
) -> dict[tuple[str, str], Complexity]:
    """Complexity by (convention, counted)."""
    decomposable = {*loaded.policy.schemes, *forms}
    return {
        (c, k): network_complexity(loaded.network, forms, c, decomposable if k == "decomposable" else None, placement)
        for c in CONVENTIONS for k in ("decomposable", "all")
    }  # fmt: skip


def plan_forms(loaded: LoadedNetwork, plan: Plan, source: str = "the plan") -> dict[str, Form]:
    """Form of every layer of a plan; where the file does not say the scheme, the paper's policy does.

    Raises
    ------
    PlanError
        If the plan does not fit the network; ``source`` says where it comes from.
    """
    found = {}
    for name, form in plan.forms.items():
        if name not in loaded.network:
            raise PlanError(f"{source}: layer '{name}' is not in network '{loaded.network.name}'")
        layer = loaded.network[name]
        if layer.keep_reason or not layer.has_weights:
            reason = layer.keep_reason or f"type {layer.type} is never decomposed"
            raise PlanError(f"{source}: layer '{name}' cannot be decomposed: {reason}")
        if not form.scheme:
            scheme = loaded.policy.paper.get(name)
            if scheme is None:
                why = loaded.policy.whole.get(name, "the paper leaves it whole")
                raise PlanError(f"{source}: layer '{name}' cannot be decomposed without a scheme: {why}")
            form = Form(scheme, form.ranks)
        try:
            check_form(layer, form)
            check_worth(layer, form)
        except PlanError as exc:
            raise PlanError(f"{source}: {exc}") from None
        found[name] = form
    return found


def emit(
    loaded: LoadedNetwork,
    weights: Path,
    plan: Plan,
    out: Path,
    placement: str = "exact",
    force: bool = False,
    solver: Optional[Path] = None,
    train_lmdb: Optional[Path] = None,
    test_lmdb: Optional[Path] = None,
    progress: Progress = _silent,
    solver_overrides: Optional[dict[str, Any]] = None,
    source: str = "the plan",
    final: Optional[Path] = None,
    blobs: Blobs = NONE,
    version: int = 2,
) -> Emitted:
    """Write ``train_val.prototxt``, ``deploy.prototxt``, ``solver.prototxt``, ``compressed.caffemodel``, ``ranks.json``.

    The folder appears whole or not at all, and not before stock Caffe has loaded its files
    (:func:`enc_caffe.runtime.loading.check_loads`). ``final`` is the name that it will have in the end, where that is not ``out``:
    the solver names the train_val by it. ``blobs`` are weights by layer of the compressed network that are not what plain
    SVD gives. ``version`` is that of the format of ``ranks.json``.
    """
    network = loaded.network
    forms = plan_forms(loaded, plan, source)
    model = loaded.model(weights)
    original_solver = read_solver(solver) if solver is not None else None
    compressed = replace_layers(loaded.net, network, forms, placement)
    # The stages of a chain are described like any other layer: wrong shapes show here, not in Caffe.
    given = loaded.top_shapes or {}
    described = describe(compressed, None, "the emitted prototxt", {**network.data_shapes, **given})
    described = replace(described, name=network.name)
    needed = needed_blobs(compressed, described)
    final = Path(final or out).absolute()
    with atomic_folder(Path(out), force) as folder:
        write_compressed(folder / "compressed.caffemodel", model, network, forms, progress, blobs, needed)
        train_val, untrained = train_val_or_same(compressed, described, train_lmdb, test_lmdb)
        train_val = loaded.feed.written(train_val)
        header = plan_header(plan) + loaded.feed.remark() + leading_comments(loaded.path)
        train_val_text = verbatim_text(loaded.without_flags(train_val), header)
        write_prototxt(folder / "train_val.prototxt", train_val_text)
        lacking = {layer.name for layer in compressed.layer if layer.name in network and layer.name not in model.layers}
        deploy = for_inference(deploy_net(compressed, described), lacking)
        write_prototxt(folder / "deploy.prototxt", verbatim_text(deploy, header))
        test_iter = _test_iterations(train_val, test_lmdb)
        parameters = solver_param(
            original_solver, str(final / "train_val.prototxt"), str(final / "snapshot"), test_iter, solver_overrides
        )
        if (loaded.level or loaded.stages) and not parameters.test_state:
            parameters.test_state.add(level=loaded.level or 0, stage=loaded.stages)
        (folder / "solver.prototxt").write_text(to_text(parameters), encoding="utf-8")
        write_plan(folder / "ranks.json", Plan(plan.network, forms, plan.about), version)
        first = Original(deploy_net(loaded.net, network), Path(weights))
        # Where its inputs' sizes only stand in, a deploy file would say what nobody knows.
        unchecked = check_loads(folder, deploy, deploy_shapes(given, described, deploy), first, final)
        if not loaded.sized:
            (folder / "deploy.prototxt").unlink()
    return Emitted(
        Path(out),
        costs(loaded, {}),
        costs(loaded, forms, placement),
        untrained,
        unchecked,
        loaded.sized,
    )


def plan_header(plan: Plan) -> str:
    """How a plan came to be, as a comment of one line: what a ranks file says must not become a part of the network."""
    about = plan.about
    if about.method is None:
        return ""
    ratio = about.flops_ratio if about.flops_ratio is not None and 0 <= about.flops_ratio <= 1e6 else math.nan
    words = (
        f"Compressed by enc-caffe: method {about.method}, metric {about.metric}, "
        f"MACs {ratio:.4f} of {about.counted or 'the original'} ({about.convention} convention)."
    )
    return "# " + "".join(c if c.isprintable() else " " for c in words) + "\n"


def _test_iterations(train_val: Any, test_lmdb: Optional[Path]) -> int:
    """Batches that cover the test images; 1 where they cannot be read."""
    layers = data_layers(train_val, "TEST")
    if not layers or layers[0].type != "Data":
        return 1
    try:
        images = ImageLmdb(Path(test_lmdb or layers[0].data_param.source))
    except DatasetError:
        return 1
    number = len(images)
    images.close()
    return max(1, math.ceil(number / batch_size(layers[0])))


def cost_line(emitted: Emitted) -> str:
    """MACs and parameters in words: both conventions, and what they count."""
    if not emitted.sized:
        return (
            f"parameters {emitted.parameter_ratio('all'):.4f} of all convolutions and fully connected layers; no MACs and no "
            "deploy.prototxt, since nothing says how large images are (--input_shape C,H,W or --lmdb)"
        )
    return (
        f"MACs {emitted.ratio('paper', 'decomposable'):.4f} (paper convention) and {emitted.ratio('exact', 'decomposable'):.4f} "
        f"(exact) of the decomposable layers, {emitted.ratio('exact', 'all'):.4f} (exact) of all convolutions and fully "
        f"connected layers; parameters {emitted.parameter_ratio('all'):.4f} of all of them"
    )
