"""The emitted folder: prototxts, caffemodel and plan, whole and loaded by stock Caffe, or not there at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Collection, Mapping, Optional

from enc_caffe.caffe_io.blobs import needed_blobs
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers, describe
from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.caffe_io.emit import NONE, Blobs, narrow_of, replace_layers, write_compressed
from enc_caffe.caffe_io.inference import for_inference
from enc_caffe.caffe_io.partial import deploy_shapes
from enc_caffe.caffe_io.prototxt import read_solver, to_text, verbatim_text, write_prototxt
from enc_caffe.caffe_io.states import put_states
from enc_caffe.caffe_io.variants import (
    deploy_net,
    inputs_of,
    outputs_without_loss,
    solver_param,
    train_val_or_same,
    unread,
)
from enc_caffe.caffe_tools.loadable import Original, check_loads
from enc_caffe.complexity import Complexity, network_complexity, uncounted_words
from enc_caffe.decomposition import check_form, check_worth, strides_move
from enc_caffe.decomposition.policy import parse_schemes, policy_for
from enc_caffe.decomposition.widths import pruned_group, takes_channels, widths
from enc_caffe.errors import DatasetError, PlanError, UsageError
from enc_caffe.files.output import atomic_folder
from enc_caffe.form import CONVENTIONS, PAPER, PLACEMENTS, Form
from enc_caffe.network import Network
from enc_caffe.pipeline.distilling import without_states, write_distillation
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.plan import Plan, write_plan
from enc_caffe.progress import Names, unnamed


@dataclass(frozen=True)
class Emitted:
    """What an emission wrote, and what it costs in both conventions, over all weighted layers and the decomposable ones.

    ``untrained`` says why ``train_val.prototxt`` got no data and no loss, where it got none, and ``unchecked`` what was not loaded
    in stock Caffe, where that could not be; ``lacking`` names layers whose weights the caffemodel does not have, ``uncounted`` those that are in no cost; ``untaught``
    outputs that the loss of a new ``train_val.prototxt`` does not reach, ``unread`` flags whose LMDBs nothing in it reads, and the layers that bring
    images instead, ``trained_by`` a state for training that was found. Only what has ``one_input`` takes images. Where it is not ``sized`` nothing says how large images are: MACs mean nothing, and
    there is no ``deploy.prototxt``.
    """

    folder: Path
    before: Mapping[tuple[str, str], Complexity]
    after: Mapping[tuple[str, str], Complexity]
    untrained: str = ""
    unchecked: str = ""
    lacking: str = ""
    sized: bool = True
    uncounted: str = ""
    untaught: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    trained_by: str = ""
    one_input: bool = True

    def ratio(self, convention: str, counted: str) -> float:
        """MACs after over MACs before."""
        return self.after[convention, counted].macs / self.before[convention, counted].macs

    def parameter_ratio(self, counted: str) -> float:
        """Parameters after over parameters before."""
        return self.after["exact", counted].parameters / self.before["exact", counted].parameters


def costs(
    loaded: LoadedNetwork, forms: Mapping[str, Form], placement: str = "exact", among: Optional[Collection[str]] = None
) -> dict[tuple[str, str], Complexity]:
    """Complexity by (convention, counted); ``among``: the decomposable layers, where those of the network's policy are not meant."""
    decomposable = loaded.policy.decomposable(loaded.network) if among is None else among
    return {
        (c, k): network_complexity(loaded.network, forms, c, decomposable if k == "decomposable" else None, placement)
        for c in CONVENTIONS for k in ("decomposable", "all")
    }  # fmt: skip


def budgeted(network: Network, plan: Plan, placement: str) -> list[str]:
    """A line where a budget of MACs counted others than the network has, since searches count pairs with exact strides."""
    if placement == PLACEMENTS[0] or plan.about.convention != "exact":
        return []
    counted, made = (network_complexity(network, plan.forms, placement=p).macs for p in (PLACEMENTS[0], placement))
    if counted == made:
        return []
    return [
        f"--stride_placement {placement}: the search counted {counted:,} MACs, of pairs with exact strides; the network has {made:,} "
        "(--target_flops stands for the former; --convention paper counts both alike)"
    ]


def decomposable_layers(network: Network, plan: Plan, forms: Mapping[str, Form]) -> frozenset[str]:
    """The layers that count as decomposable under a plan, whichever command reads it: those of the schemes that it was searched among (the
    paper's where it does not say so; fully connected ones where it has one), and those that it changes.
    """
    connected = any(network[n].inner_product is not None for n in forms)
    try:
        asked = parse_schemes(plan.about.among or PAPER)
    except UsageError:
        # A scheme of an extension that is not here.
        asked = PAPER
    policy = policy_for(network, asked, connected)
    return policy.decomposable(network) | {*forms, *widths(network, forms)}


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
            raise PlanError(f"{source}: {loaded.network.unknown(name)}")
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
            if takes_channels(form):
                pruned_group(loaded.network, name)
        except PlanError as exc:
            raise PlanError(f"{source}: {exc}") from None
        found[name] = form
    return found


def placed(
    network: Network, plan: Plan, forms: Mapping[str, Form], placement: Optional[str] = None, source: str = "the plan"
) -> str:
    """Where a plan's strides stand: as asked, else as in the chains whose times chose it, else ``exact``.

    Raises
    ------
    PlanError
        If both are said and differ, and with them a layer of the plan: the network would take another time than the one that was chosen.
    """
    timed = plan.about.stride_placement
    if timed not in (None, *PLACEMENTS):
        raise PlanError(f"{source}: field 'stride_placement' is {timed!r}; {' or '.join(PLACEMENTS)} is needed")
    if timed is None or placement in (None, timed):
        return placement or timed or PLACEMENTS[0]
    moved = [n for n, f in forms.items() if strides_move(network[n], f)]
    if moved:
        raise PlanError(
            f"{source}: layer '{moved[0]}' was chosen by its time with {timed} strides, and --stride_placement {placement} makes it another "
            f"chain; give --stride_placement {timed}, or search again by times of enc-caffe latency --stride_placement {placement}"
        )
    return placement


def known_placement(placement: Optional[str]) -> None:
    """Raise UsageError for a placement of strides that there is none of."""
    if placement not in (None, *PLACEMENTS):
        raise UsageError(f"--stride_placement {placement}: {' or '.join(PLACEMENTS)} is needed")


def emit(
    loaded: LoadedNetwork,
    weights: Path,
    plan: Plan,
    out: Path,
    placement: Optional[str] = None,
    force: bool = False,
    solver: Optional[Path] = None,
    train_lmdb: Optional[Path] = None,
    test_lmdb: Optional[Path] = None,
    progress: Names = unnamed,
    solver_overrides: Optional[dict[str, Any]] = None,
    source: str = "the plan",
    final: Optional[Path] = None,
    blobs: Blobs = NONE,
    version: int = 2,
    distillation: Optional[Distillation] = None,
) -> Emitted:
    """Write ``train_val.prototxt``, ``deploy.prototxt``, ``solver.prototxt``, ``compressed.caffemodel``, ``ranks.json``.

    The folder appears whole or not at all, and not before stock Caffe has loaded its files
    (:func:`enc_caffe.caffe_tools.loadable.check_loads`). ``final`` is the name that it will have in the end, where that is not ``out``:
    the solver names the train_val by it. ``placement`` of strides is ``exact`` or ``published``, without it the plan's own. ``blobs`` are weights by layer of the compressed network that are not what plain SVD
    gives. ``version`` is that of the format of ``ranks.json``. With a ``distillation`` the files are added by which stock Caffe
    distils (:func:`enc_caffe.pipeline.distilling.write_distillation`).
    """
    known_placement(placement)
    network = loaded.network
    forms = plan_forms(loaded, plan, source)
    placement = placed(network, plan, forms, placement, source)
    among = decomposable_layers(network, plan, forms)
    model = loaded.model(weights)
    original_solver = read_solver(solver) if solver is not None else None
    compressed = replace_layers(loaded.net, network, forms, placement)
    # The stages of a chain are described like any other layer: wrong shapes show here, not in Caffe.
    given = loaded.top_shapes or {}
    described = describe(compressed, None, "the emitted prototxt", {**network.data_shapes, **given})
    described = replace(described, name=network.name)
    narrow, blobs = narrow_of(model, network, described, forms, blobs)
    needed = needed_blobs(compressed, described)
    if narrow is not None:
        compressed = narrow.net(compressed)
        described = replace(
            describe(compressed, None, "the emitted prototxt", {**network.data_shapes, **given}), name=network.name
        )
    final = Path(final or out).absolute()
    with atomic_folder(Path(out), force) as folder:
        write_compressed(folder / "compressed.caffemodel", model, network, forms, progress, blobs, needed, narrow)
        train_val, untrained = train_val_or_same(compressed, described, train_lmdb, test_lmdb)
        train_val = loaded.feed.written(train_val)
        header = plan_header(plan) + loaded.feed.remark() + loaded.comments
        train_val_text = verbatim_text(loaded.without_flags(train_val), header)
        write_prototxt(folder / "train_val.prototxt", train_val_text)
        lacking = {layer.name for layer in compressed.layer if layer.name in network and layer.name not in model.layers}
        deploy = for_inference(deploy_net(compressed, described), lacking)
        write_prototxt(folder / "deploy.prototxt", verbatim_text(deploy, header))
        test_iter = _test_iterations(train_val, test_lmdb)
        parameters = solver_param(
            original_solver, str(final / "train_val.prototxt"), str(final / "snapshot"), test_iter, solver_overrides
        )
        trained_by = ""
        if loaded.level or loaded.stages:
            trained_by = put_states(
                parameters, loaded.without_flags(train_val), (loaded.level or 0, tuple(loaded.stages))
            )
        (folder / "solver.prototxt").write_text(to_text(parameters), encoding="utf-8")
        write_plan(folder / "ranks.json", Plan(plan.network, forms, plan.about), version)
        first = Original(deploy_net(loaded.net, network), Path(weights))
        # Where its inputs' sizes only stand in, a deploy file would say what nobody knows.
        unchecked = check_loads(folder, deploy, deploy_shapes(given, described, deploy), first, final)
        if distillation is not None:
            train_val = without_states(loaded, train_val, parameters)
            both = write_distillation(
                folder, final, loaded, weights, compressed, described, train_val, distillation, parameters,
                original_solver is not None, forms, train_lmdb, test_lmdb
            )  # fmt: skip
            unchecked = "; ".join(filter(None, (unchecked, both)))
        if not loaded.sized:
            (folder / "deploy.prototxt").unlink()
    return Emitted(
        Path(out),
        costs(loaded, {}, among=among),
        costs(loaded, forms, placement, among),
        untrained,
        unchecked,
        "\n".join(loaded.untrained(weights)),
        loaded.sized,
        uncounted_words(network),
        () if untrained else tuple(outputs_without_loss(compressed, described)),
        _unread(train_val, untrained, {"TRAIN": train_lmdb, "TEST": test_lmdb}),
        trained_by,
        len(inputs_of(deploy)) == 1,
    )


def _unread(train_val: Any, untrained: str, given: Mapping[str, Optional[Path]]) -> tuple[str, ...]:
    """Lines of the LMDBs that are given and that nothing of the emitted network reads."""
    if untrained:
        return tuple(
            f"--{phase.lower()}_lmdb: train_val.prototxt does not name {lmdb}, since it has no data layer to read it"
            for phase, lmdb in given.items()
            if lmdb is not None and not data_layers(train_val, phase)
        )
    return tuple(
        f"--{phase.lower()}_lmdb: layer '{layer.name}' ({layer.type}) brings the images of the {phase} phase, and keeps its own source"
        for phase, layer in unread(train_val, given).items()
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
    left_out = f"; {emitted.uncounted}" if emitted.uncounted else ""
    if not emitted.sized:
        return (
            f"parameters {emitted.parameter_ratio('all'):.4f} of all convolutions and fully connected layers; no MACs and no "
            f"deploy.prototxt, since nothing says how large images are (--input_shape C,H,W or --lmdb){left_out}"
        )
    return (
        f"MACs {emitted.ratio('paper', 'decomposable'):.4f} (paper convention) and {emitted.ratio('exact', 'decomposable'):.4f} "
        f"(exact) of the decomposable layers, {emitted.ratio('exact', 'all'):.4f} (exact) of all convolutions and fully "
        f"connected layers; parameters {emitted.parameter_ratio('all'):.4f} of all of them{left_out}"
    )
