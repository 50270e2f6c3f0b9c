"""The order of the stages. Commands and scripts call these functions; no other module knows what comes after what."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.blobs import needed_blobs
from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers, describe, set_state
from enc_caffe.caffe_io.emit import NONE, Blobs, replace_layers, write_compressed
from enc_caffe.caffe_io.inference import for_inference
from enc_caffe.caffe_io.inputs import lacks_size, set_input_shape
from enc_caffe.caffe_io.notices import notices
from enc_caffe.caffe_io.partial import deploy_shapes
from enc_caffe.caffe_io.prototxt import leading_comments, read_net, read_solver, to_text, verbatim_text, write_prototxt
from enc_caffe.caffe_io.unsized import sized_by_weights
from enc_caffe.caffe_io.variants import deploy_net, sized_network, solver_param, train_val_or_same
from enc_caffe.complexity import Complexity, network_complexity
from enc_caffe.decomposition import group_spectra, scheme_for
from enc_caffe.errors import DatasetError, MetricsError, UnknownSizeError
from enc_caffe.metrics.sampling import Sampler, energy_samples, vbmf_samples
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.network import Network
from enc_caffe.output import atomic_folder
from enc_caffe.plan import RankPlan, write_plan
from enc_caffe.policy import Policy, default_policy
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
    top_shapes: Optional[Mapping[str, Shape]] = None
    sized: bool = True

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
    describe_only : bool
        Nothing of the network will be run: its Python layers are layers like any others.
    weights : Path, optional
        Caffemodel by which to find a size of images where nothing else says it.
    """
    net = set_state(read_net(Path(model), python_layers or describe_only), level, stages)
    shape = None
    if lmdb is not None:
        images = ImageLmdb(Path(lmdb))
        shape = images.first_shape()
        images.close()
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
            net, CaffeModel(Path(weights)), lambda image: sized_network(net, str(model), None, image, input_shapes), exc
        )
    policy = default_policy(network, fully_connected)
    return LoadedNetwork(Path(model), net, network, policy, python_layers, level, tuple(stages), input_shapes, sized)


def pca_metrics(
    loaded: LoadedNetwork, weights: Path, sampler: Sampler = energy_samples, progress: Progress = _silent
) -> MetricsTable:
    """Spectra and sampled ranks of every layer that the policy decomposes (Eq. 1 and 2; METHOD section 3)."""
    model = CaffeModel(Path(weights))
    model.check(loaded.network)
    layers = []
    for name, scheme_name in loaded.policy.schemes.items():
        layer, scheme = loaded.network[name], scheme_for(scheme_name)
        spectra = group_spectra(scheme.matrices(layer, model.weights(layer)[0]))
        rank = loaded.policy.max_ranks[name]
        samples = sampler(spectra, scheme.matrix_shape(layer), rank)
        kept = tuple(np.asarray(s[:rank]) for s in spectra)
        shape = scheme.matrix_shape(layer)
        vbmf = max(1, min(rank, max(estimate(x, *shape).empirical_rank for x in spectra)))
        layers.append(LayerMetrics(layer, scheme_name, rank, kept, tuple(samples), (None,) * len(samples), vbmf))
        progress(name)
    if not layers:
        raise MetricsError(
            f"{loaded.path}: no layer of '{loaded.network.name}' can be decomposed (enc-caffe inspect says why)"
        )
    whole = network_complexity(loaded.network, {}, loaded.policy.schemes)
    extra = (
        ("network_macs", whole.macs),
        ("network_parameters", whole.parameters),
        ("first_layer", _reads_data(loaded.network)),
    )
    return MetricsTable(loaded.network.name, "singular values of the caffemodel", tuple(layers), None, extra)


def measured_ranks(loaded: LoadedNetwork, table: MetricsTable, weights: Path) -> dict[str, list[int]]:
    """The five ranks of METHOD section 3 by layer: of the seven that :func:`pca_metrics` samples, those to measure at."""
    model, found = CaffeModel(Path(weights)), {}
    for m in table.layers:
        layer, scheme = loaded.network[m.name], scheme_for(m.scheme)
        spectra = group_spectra(scheme.matrices(layer, model.weights(layer)[0]))
        found[m.name] = vbmf_samples(spectra, scheme.matrix_shape(layer), m.max_rank)
    return found


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
    network: Network, policy: Policy, ranks: Mapping[str, int], schemes: Mapping[str, str], placement: str = "exact"
) -> dict[tuple[str, str], Complexity]:
    """Complexity by (convention, counted)."""
    merged = {**policy.schemes, **schemes}
    return {
        (c, k): network_complexity(network, ranks, merged, c, k, placement)
        for c in ("paper", "exact") for k in ("decomposable", "all")
    }  # fmt: skip


def plan_schemes(loaded: LoadedNetwork, plan: RankPlan, source: str = "the rank plan") -> dict[str, str]:
    """Scheme of every layer of a plan.

    Raises
    ------
    PlanError
        If the plan does not fit the network; ``source`` says where it comes from.
    """
    # A plan may name a scheme that the default policy does not use for a layer.
    schemes = {name: plan.schemes.get(name, loaded.policy.schemes.get(name, "")) for name in plan.ranks}
    limits = {
        name: scheme_for(schemes[name]).max_rank(loaded.network[name])
        for name in plan.ranks if name in loaded.network and name in loaded.policy.schemes
    }  # fmt: skip
    plan.check(loaded.network, limits, source)
    return schemes


def emit(
    loaded: LoadedNetwork,
    weights: Path,
    plan: RankPlan,
    out: Path,
    placement: str = "exact",
    force: bool = False,
    solver: Optional[Path] = None,
    train_lmdb: Optional[Path] = None,
    test_lmdb: Optional[Path] = None,
    progress: Progress = _silent,
    solver_overrides: Optional[dict[str, Any]] = None,
    source: str = "the rank plan",
    final: Optional[Path] = None,
    blobs: Blobs = NONE,
) -> Emitted:
    """Write ``train_val.prototxt``, ``deploy.prototxt``, ``solver.prototxt``, ``compressed.caffemodel``, ``ranks.json``.

    The folder appears whole or not at all, and not before stock Caffe has loaded its files
    (:func:`enc_caffe.runtime.loading.check_loads`). ``final`` is the name that it will have in the end, where that is not ``out``:
    the solver names the train_val by it. ``blobs`` are weights by layer of the compressed network that are not what plain
    SVD gives.
    """
    network = loaded.network
    schemes = plan_schemes(loaded, plan, source)
    model = CaffeModel(Path(weights))
    model.check(network)
    original_solver = read_solver(solver) if solver is not None else None
    compressed = replace_layers(loaded.net, network, plan.ranks, schemes, placement)
    # The two stages of a pair are described like any other layer: wrong shapes show here, not in Caffe.
    given = loaded.top_shapes or {}
    described = describe(compressed, None, "the emitted prototxt", {**network.data_shapes, **given})
    described = replace(described, name=network.name)
    needed = needed_blobs(compressed, described)
    final = Path(final or out).absolute()
    with atomic_folder(Path(out), force) as folder:
        write_compressed(folder / "compressed.caffemodel", model, network, plan.ranks, schemes, progress, blobs, needed)
        train_val, untrained = train_val_or_same(compressed, described, train_lmdb, test_lmdb)
        header = plan_header(plan) + leading_comments(loaded.path)
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
        write_plan(folder / "ranks.json", RankPlan(plan.network, plan.ranks, schemes, plan.about))
        first = Original(deploy_net(loaded.net, network), Path(weights))
        # Where its inputs' sizes only stand in, a deploy file would say what nobody knows.
        unchecked = check_loads(folder, deploy, deploy_shapes(given, described, deploy), first, final)
        if not loaded.sized:
            (folder / "deploy.prototxt").unlink()
    return Emitted(
        Path(out),
        costs(network, loaded.policy, {}, schemes),
        costs(network, loaded.policy, plan.ranks, schemes, placement),
        untrained,
        unchecked,
        loaded.sized,
    )


def plan_header(plan: RankPlan) -> str:
    """How a plan came to be, as a comment of one line: what a ranks file says must not become a part of the network."""
    about = plan.about
    if "method" not in about:
        return ""
    ratio = about.get("flops_ratio")
    ratio = ratio if isinstance(ratio, (int, float)) and 0 <= ratio <= 1e6 else math.nan
    words = (
        f"Compressed by enc-caffe: method {about.get('method')}, metric {about.get('metric')}, "
        f"MACs {ratio:.4f} of the original ({about.get('convention')} convention)."
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


def named_paths(net: Any) -> list[tuple[str, str]]:
    """Files and folders that a prototxt names, as (layer and field, path)."""
    found = []
    for layer in net.layer:
        if layer.transform_param.mean_file:
            found.append((f"layer '{layer.name}' mean_file", layer.transform_param.mean_file))
        for field in ("data_param", "image_data_param", "hdf5_data_param", "window_data_param", "infogain_loss_param"):
            if layer.HasField(field) and getattr(layer, field).source:
                found.append((f"layer '{layer.name}' source", getattr(layer, field).source))
        if layer.type == "Python":
            found.append((f"layer '{layer.name}' module", layer.python_param.module))
        if layer.type == "HDF5Output":
            found.append((f"layer '{layer.name}' writes", layer.hdf5_output_param.file_name))
    return found


def solver_paths(solver: Any) -> list[tuple[str, str]]:
    """Files that a solver names, as (field, path)."""
    fields = ("net", "train_net", "test_net", "snapshot_prefix", "weights")
    found: list[tuple[str, str]] = []
    for field in fields:
        value = getattr(solver, field, "")
        found += [(field, v) for v in ([value] if isinstance(value, str) else value) if v]
    return found
