"""The table of schemes, and what a form means for a layer.

A further scheme is one file: a module with a subclass of :class:`Scheme` that ends in ``register(MyScheme())``
(:mod:`enc_caffe.extensions` says how it is found).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Optional, Sequence

from enc_caffe.decomposition.asym3d import Asym3d
from enc_caffe.decomposition.channel import Channel
from enc_caffe.decomposition.inner_product import FullyConnected
from enc_caffe.decomposition.prune import Prune, by_lasso, by_magnitude, least_error, narrowed
from enc_caffe.decomposition.scheme import Scheme
from enc_caffe.decomposition.spatial import Spatial
from enc_caffe.decomposition.spatial_t import SpatialTransposed
from enc_caffe.decomposition.tucker2 import Tucker2
from enc_caffe.errors import PlanError, UsageError, nearest
from enc_caffe.form import WHOLE, Chain, Form, whole_chain
from enc_caffe.network import Layer

_SCHEMES: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Add a scheme to the table, in the place of one of the same name."""
    _SCHEMES[scheme.name] = scheme
    return scheme


for _scheme in (Spatial(), SpatialTransposed(), Channel(), FullyConnected(), Tucker2()):
    register(_scheme)


_PRUNING: dict[str, Prune] = {}
_ON_REQUEST: dict[str, Scheme] = {Asym3d.name: Asym3d()}


def schemes() -> dict[str, Scheme]:
    """All schemes of a layer by itself, by name."""
    return _SCHEMES


def pruning() -> dict[str, Prune]:
    """Schemes that take channels out of what a layer reads, by name: the layers before it change with it, and so no policy has them
    unless they are asked for."""
    return _PRUNING


def on_request() -> dict[str, Scheme]:
    """Schemes of a layer by itself that only a list of names asks for, by name: rivals, which nothing shows to make a mixture better."""
    return _ON_REQUEST


def scheme_for(name: str) -> Scheme:
    """Scheme by name; :class:`PlanError` naming the nearest and all known ones otherwise."""
    known: dict[str, Scheme] = {**_SCHEMES, **_ON_REQUEST, **_PRUNING}
    if name in known:
        return known[name]
    raise PlanError(f"unknown scheme '{name}'{nearest(name, known)}; known: {', '.join(schemes())}")


def strides_move(layer: Layer, form: Form) -> bool:
    """Whether a layer in a form is another chain by each placement of its strides."""
    return chain_of(layer, form) != chain_of(layer, form, "published")


def chain_of(layer: Layer, form: Form, placement: str = "exact") -> Chain:
    """The layers that stand for a layer in a form."""
    return whole_chain(layer) if form == WHOLE else scheme_for(form.scheme).chain(layer, form, placement)


def check_form(layer: Layer, form: Form) -> None:
    """Raise :class:`PlanError` where a layer cannot take a form, saying which schemes it can have."""
    if form == WHOLE:
        return
    asked: dict[str, Scheme] = {}
    try:
        scheme = scheme_for(form.scheme)
        asked = {} if form.scheme in schemes() else {form.scheme: scheme}
        if form.inside and form.scheme not in pruning():
            raise PlanError(f"layer '{layer.name}': form '{form}': what prunes stands first, as in prune:8+spatial:12")
        scheme.check(layer, form)
    except PlanError as exc:
        able = [name for name, other in {**schemes(), **asked}.items() if not other.refuses(layer)]
        raise PlanError(f"{exc}; it can have: {', '.join([WHOLE.scheme, *able])}") from None


def check_worth(layer: Layer, form: Form) -> None:
    """Raise :class:`PlanError` where a form costs more than the layer whole, r_max aside; one inside a pruned one, than what is left."""
    if form == WHOLE:
        return
    if form.inside:
        check_worth(narrowed(layer, form.ranks[0]), form.inside[0])
        return
    scheme = scheme_for(form.scheme)
    if scheme.matrix_shape(layer) is not None:
        highest = scheme.max_rank(layer)
        if form.ranks[0] > highest:
            raise PlanError(
                f"layer '{layer.name}' has rank {form.ranks[0]} in scheme '{form.scheme}'; 1 to r_max = {highest} is allowed"
            )
        return
    cost, whole = form_cost(layer, form)[0], form_cost(layer, WHOLE)[0]
    if cost > whole:
        raise PlanError(
            f"layer '{layer.name}' in form '{form}' has {cost} MACs, more than the {whole} that it has whole"
        )


@lru_cache(maxsize=2**18)
def form_cost(
    layer: Layer, form: Form, convention: str = "exact", placement: str = "exact", outputs: Optional[int] = None
) -> tuple[int, int]:
    """MACs of one image and parameters of a layer in a form, counted from its chain.

    Parameters
    ----------
    outputs : int, optional
        Output channels that are left where others were taken out; a depthwise convolution has as many groups.
    """
    chain = chain_of(layer, form, placement)
    if outputs is not None and layer.groups == layer.in_channels > 1:
        conv = chain.stages[-1].convolution
        assert conv is not None
        chain = Chain(
            (replace(chain.stages[-1], convolution=replace(conv, num_output=outputs, groups=outputs)),), outputs
        )
    elif outputs is not None:
        chain = chain.ending(outputs)
    return chain.macs(layer, convention), chain.parameters(layer)


_PRUNING.update({
    p.name: p
    for p in (
        Prune("prune", "fewer channels read, by the least error of the outputs", "error", least_error, scheme_for),
        Prune("prune_lasso", "fewer channels read, by LASSO on the responses", "lasso", by_lasso, scheme_for),
        Prune("prune_magnitude", "fewer channels read, by the weights' magnitude", "magnitude", by_magnitude, scheme_for),
    )
})  # fmt: skip


def rank_of(form: Form) -> Optional[int]:
    """The rank of a form that has just one."""
    return form.ranks[0] if len(form.ranks) == 1 else None


def named(names: Sequence[str]) -> list[Scheme]:
    """Schemes by name; :class:`UsageError` naming the nearest known one otherwise."""
    try:
        return [scheme_for(name) for name in names]
    except PlanError as exc:
        raise UsageError(f"--schemes {','.join(names)}: {exc}") from None
