"""The order of the stages. Commands and scripts call these functions; no other module knows what comes after what."""

from __future__ import annotations

import dataclasses
import functools
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from enc_caffe.caffe_io.caffemodel import CaffeModel, opened
from enc_caffe.caffe_io.describe import set_state
from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.caffe_io.inputs import size_images
from enc_caffe.caffe_io.lacking import check_trained, untrained_notice
from enc_caffe.caffe_io.notices import notices
from enc_caffe.caffe_io.prototxt import read_commented
from enc_caffe.caffe_io.runnable import Runnable, runnable
from enc_caffe.caffe_io.several import several_outputs
from enc_caffe.caffe_io.sizing import sized_network
from enc_caffe.caffe_io.transform import Transform, blame, first_size
from enc_caffe.caffe_io.unsized import sized_by_weights
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import form_cost
from enc_caffe.decomposition.policy import Policy, policy_for
from enc_caffe.errors import BlobShapeError, MetricsError, UnknownSizeError, UsageError, WeightsError
from enc_caffe.form import PAPER, WHOLE, Schemes
from enc_caffe.network import Network
from enc_caffe.plan import Plan
from enc_caffe.shapes import Shape

#: Why layers stay whole where images are to be looked at.
UNREACHED = "it lies behind a layer that stock Caffe cannot run"
#: From this part of the MACs on layers that no flag frees are named where a target cannot be reached.
NOTED = 0.02


@dataclass(frozen=True)
class LoadedNetwork:
    """A network read from its files: NetParameter, description, which layers are decomposed, whether Python ones are allowed.

    ``comments`` are those at the head of the file, ``own_state`` is the state (level and stages) that the file itself asks for.

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
    comments: str = ""
    own_state: Any = None
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
            except BlobShapeError as exc:
                raise WeightsError(f"{exc}{self.sized_by}") from None
            self._models[weights] = model
        return self._models[weights]

    def check_trained(self, weights: Path) -> None:
        """Raise WeightsError where a caffemodel lacks weights of the network, so that it would not run as it was trained."""
        check_trained(self.net, str(self.path), self.model(weights))

    def untrained(self, weights: Path) -> list[str]:
        """The same in a line, for whoever does not run it."""
        return untrained_notice(self.net, str(self.path), self.model(weights))

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
        why = dict.fromkeys(sorted(missing), UNREACHED)
        return replace(self, policy=replace(self.policy, schemes=schemes, whole={**self.policy.whole, **why}))

    def unreached(self) -> list[str]:
        """Lines on layers that stay whole whatever schemes may be taken: those that no flag frees, and those that are not measured here, with
        what takes them; none where there are none."""
        return [*self._kept(), *self._unmeasured()]

    def _kept(self) -> list[str]:
        kept = [x for x in self.network.weighted if x.keep_reason]
        macs = [form_cost(x, WHOLE)[0] for x in kept]
        part = sum(macs) / max(1, network_complexity(self.network, {}).macs)
        if part < NOTED:
            return []
        most = kept[macs.index(max(macs))]
        them = f"{len(kept)} layers" if len(kept) > 1 else "1 layer"
        return [
            f"{part:.4f} of the MACs is in {them} that no flag decomposes, most in '{most.name}': {most.keep_reason}"
        ]

    def _unmeasured(self) -> list[str]:
        whole = [n for n, why in self.policy.whole.items() if why == UNREACHED]
        if not whole:
            return []
        them = (
            "1 layer that could be decomposed stays"
            if len(whole) == 1
            else f"{len(whole)} layers that could be decomposed stay"
        )
        return [
            f"{self.runnable.words}, so that {them} whole; --caffe_root DIR runs a Caffe that has this type, and metrics without images, "
            "search and emit compress these layers too"
        ]

    def check_decomposable(self) -> None:
        """Raise MetricsError where there is nothing to choose, with what keeps all layers whole if it has a remedy."""
        if self.policy.schemes:
            return
        shared = [x.name for x in self.network.weighted if "weights are shared" in x.keep_reason]
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        because = (
            f": layer '{shared[0]}'{more} share weights with others (param {{ name }}); of branches with the same weights give the "
            "deploy prototxt of one, which takes the same caffemodel"
            if shared
            else ""
        )
        raise MetricsError(
            f"{self.path}: no layer of '{self.network.name}' can be decomposed{because} (enc-caffe inspect says why, by the same --schemes or --prune_by)"
        )

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
        if self.own_state is not None:
            out.state.CopyFrom(self.own_state)
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
    read, comments = read_commented(Path(model), python_layers or describe_only)
    own_state = deepcopy(read.state) if read.HasField("state") else None
    net = feed.written(set_state(read, level, stages))
    shape, sized_by = None, ""
    if lmdb is not None:
        shape = first_size(Path(lmdb), feed.transform(net, str(model), pixels=False))
        sized_by = blame(net, shape, lmdb)
    size_images(net, str(model), input_shape, shape, input_shapes or {})
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
        sized_by, input_shapes, sized, comments, own_state,
    )  # fmt: skip
