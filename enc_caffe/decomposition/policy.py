"""Which schemes each layer may have, and why others stay whole.

``paper`` is the paper's policy (its section VI), one scheme a layer: channel where the data enters, spatial elsewhere, 1x1
convolutions, shortcuts and (unless asked for) fully connected layers whole. ``all`` lets every layer have every scheme that
takes it; so does a list of schemes, with those alone. Schemes that take channels out change other layers too and are in neither:
``all,prune`` adds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Union

from enc_caffe.decomposition.channel import Channel
from enc_caffe.decomposition.inner_product import FullyConnected
from enc_caffe.decomposition.matrix import MatrixScheme
from enc_caffe.decomposition.scheme import Scheme
from enc_caffe.decomposition.spatial import Spatial
from enc_caffe.decomposition.table import named, on_request, pruning, scheme_for, schemes
from enc_caffe.errors import UsageError, nearest
from enc_caffe.form import ALL, PAPER, Form, Schemes
from enc_caffe.network import Layer, Made, Network

#: 3C: the schemes of its three networks.
THREE_C: tuple[tuple[str, ...], ...] = (("spatial",), ("channel",), ("prune_lasso",))
#: What asymmetric 3-D and AMC let a layer become.
ASYMMETRIC_3D: Schemes = ("asym3d",)
BY_MAGNITUDE: Schemes = ("prune_magnitude",)

_PASS_THROUGH = frozenset({"BatchNorm", "Scale", "Bias", "ReLU", "PReLU", "ELU", "Dropout", "Split", "Power"})


@dataclass(frozen=True)
class Policy:
    """Schemes of every layer to decompose, and the reason for each weighted layer that stays whole.

    Attributes
    ----------
    schemes : mapping of layer to names of schemes
    whole : mapping of layer to why it stays whole
    paper : mapping of layer to the scheme that the paper's policy gives it
    """

    schemes: Mapping[str, tuple[str, ...]]
    whole: Mapping[str, str]
    paper: Mapping[str, str]

    def decomposable(self, network: Network) -> frozenset[str]:
        """The layers that count as decomposable, in every command: those that a scheme takes, and those that one which takes channels out
        leaves fewer channels.
        """
        found = set(self.schemes)
        for name in (n for n, own in self.schemes.items() if takes_channels_out(own)):
            group = network.coupled.read_by(name)[0]
            found.update(n for n in (*group.makers, *group.keepers) if network[n].has_weights) if group else None
        return frozenset(found)

    def max_rank(self, network: Network, name: str) -> Union[int, None]:
        """r_max of a layer that has one scheme of one rank."""
        own = [scheme_for(s) for s in self.schemes.get(name, ())]
        return own[0].max_rank(network[name]) if len(own) == 1 and own[0].ranks == 1 else None


def parse_schemes(text: str) -> Schemes:
    """``paper``, ``all``, or names from ``spatial,channel``.

    Raises
    ------
    UsageError
        For a name that is unknown, with the nearest known one.
    """
    if text in (PAPER, ALL):
        return text
    parts = [part for part in text.split(",") if part]
    names = tuple(dict.fromkeys(n for p in parts for n in (schemes() if p == ALL else (p,)))) or (text,)
    known = {**schemes(), **on_request(), **pruning()}
    for name in names:
        if name not in known:
            words = [PAPER, ALL, *known]
            raise UsageError(
                f"--schemes {text}: '{name}' is unknown{nearest(name, words)}; known are {', '.join(words)}"
            )
    return names


def with_rule(asked: Schemes, rule: str) -> Schemes:
    """Schemes with the one beside them that takes channels out by a rule (``error``, ``lasso``, ``magnitude``).

    Raises
    ------
    UsageError
        For an unknown rule, and with the paper's policy, which gives a layer one scheme.
    """
    names = [p.name for p in pruning().values() if p.rule == rule]
    if not names:
        raise UsageError(f"--prune_by {rule}: known are {', '.join(p.rule for p in pruning().values())}")
    if asked == PAPER:
        raise UsageError(
            f"--prune_by {rule}: the paper's schemes are one a layer; give --schemes all, a list, or {','.join(names)} alone"
        )
    own = tuple(schemes()) if asked == ALL else tuple(asked)
    return tuple(dict.fromkeys((*own, *names)))


def takes_channels_out(asked: Schemes) -> list[str]:
    """Those of the schemes that take channels out."""
    return [] if isinstance(asked, str) else [n for n in asked if n in pruning()]


def unruled(asked: Schemes, decomposition: str) -> list[str]:
    """What plain SVD makes of rules that know which channels an output needs from images: one line for a person, or none."""
    names = [n for n in takes_channels_out(asked) if pruning()[n].rule != "magnitude"]
    if not names or decomposition != "svd":
        return []
    return [
        f"{', '.join(names)}: --decomposition svd looks at no images, so channels are chosen by the size of their weights; give "
        "--decomposition weighted"
    ]


def policy_for(network: Network, asked: Schemes = PAPER, fully_connected: bool = False) -> Policy:
    """What may become of every layer.

    Parameters
    ----------
    fully_connected : bool
        Decompose fully connected layers by the paper's policy as well (the paper does where parameters are constrained).
    """
    paper, kept = _paper(network, fully_connected)
    if asked == PAPER:
        return Policy({n: (s,) for n, s in paper.items()}, kept, paper)
    names = tuple(schemes()) if asked == ALL else tuple(asked)
    table, able, whole = named(names), {}, {}
    taken = _names(network)
    for layer in network.layers:
        if not layer.has_weights and not layer.keep_reason:
            continue
        reasons = {
            s.name: layer.keep_reason or s.refuses(layer) or _too_small(s, layer) or _unnamed(s, layer, taken)
            for s in table
        }
        for name in pruning().keys() & reasons.keys():
            reasons[name] = reasons[name] or network.coupled.read_by(layer.name)[1]
        found = tuple(n for n, why in reasons.items() if not why)
        if found:
            able[layer.name] = found
        else:
            whole[layer.name] = _shared_reason(layer, reasons)
    return Policy(able, whole, paper)


def _names(network: Network) -> frozenset[str]:
    """What layers and blobs are called: no new one can have these names."""
    return frozenset(name for layer in network.layers for name in (layer.name, *layer.tops))


def _unnamed(scheme: Scheme, layer: Layer, taken: frozenset[str]) -> str:
    stages = scheme.chain(layer, Form(scheme.name, (1,) * scheme.ranks)).stages
    names = [layer.name + stage.suffix for stage in stages if stage.suffix]
    return next(
        (f"another layer or blob has the name '{name}' of its new layer" for name in names if name in taken), ""
    )


def _too_small(scheme: Scheme, layer: Layer) -> str:
    if isinstance(scheme, MatrixScheme):
        rank = scheme.max_rank(layer)
        return f"r_max is {rank}: nothing to choose" if rank < 2 else ""
    return ""


def _shared_reason(layer: Layer, reasons: Mapping[str, str]) -> str:
    """Why no scheme takes a layer, in few words."""
    if layer.keep_reason:
        return layer.keep_reason
    connected = layer.inner_product is not None
    own = [n for n in reasons if (n == FullyConnected.name) == connected or n in pruning()]
    if not own:
        kind = "fully connected" if layer.inner_product is not None else "a convolution"
        return f"{kind}, and none of the schemes asked for takes one"
    different = list(dict.fromkeys(reasons[n] for n in own))
    return "; ".join(different)


def _paper(network: Network, fully_connected: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Scheme by layer, and why others stay whole."""
    found: dict[str, str] = {}
    whole: dict[str, str] = {}
    shortcuts = _projection_shortcuts(network)
    first = next((layer.name for layer in network.layers if layer.convolution is not None), None)
    for layer in network.layers:
        if not layer.has_weights and not layer.keep_reason:
            continue
        reason = _reason(layer, fully_connected, layer.name in shortcuts)
        if reason:
            whole[layer.name] = reason
        elif layer.inner_product is not None:
            found[layer.name] = FullyConnected.name
        else:
            found[layer.name] = Channel.name if layer.name == first else Spatial.name
    taken = _names(network)
    for name in list(found):
        scheme = scheme_for(found[name])
        reason = _too_small(scheme, network[name]) or _unnamed(scheme, network[name], taken)
        if reason:
            whole[name] = reason
            del found[name]
    return found, whole


def _reason(layer: Layer, fully_connected: bool, shortcut: bool) -> str:
    if layer.keep_reason:
        return layer.keep_reason
    if layer.inner_product is not None:
        return "" if fully_connected else "fully connected (--fully_connected decomposes it)"
    if layer.kernel == (1, 1):
        return "1x1 convolution"
    if shortcut:
        return "projection shortcut"
    if layer.groups == layer.in_channels > 1:
        return "depthwise convolution"
    return ""


def _projection_shortcuts(network: Network) -> set[str]:
    """Convolutions that alone make up one branch of a sum whose other branch starts at the same blob."""
    walk = network.walk

    def upward(blob: Made) -> tuple[Layer, Made] | None:
        # The weighted layer that makes this blob, seen through element-wise layers, and that layer's own bottom.
        while blob in walk.producers:
            layer = walk.producers[blob]
            bottoms = walk.bottoms[layer.name]
            if layer.convolution is not None:
                return layer, bottoms[0]
            if layer.type not in _PASS_THROUGH or not bottoms:
                return None
            blob = bottoms[0]
        return None

    def reaches(blob: Made, source: Made, without: Layer) -> bool:
        todo, seen = [blob], set()
        while todo:
            current = todo.pop()
            if current == source:
                return True
            if current in seen or current not in walk.producers or walk.producers[current] is without:
                continue
            seen.add(current)
            todo.extend(walk.bottoms[walk.producers[current].name])
        return False

    found = set()
    for bottoms in (walk.bottoms[x.name] for x in network.layers if x.type == "Eltwise"):
        for blob in bottoms:
            above = upward(blob)
            if above is None:
                continue
            layer, source = above
            for other in (b for b in bottoms if b != blob):
                over = upward(other)
                # The other branch must be longer (its last convolution does not read the shared blob itself), and reach
                # the shared blob past this layer: the layer before an identity shortcut is no projection.
                if over is not None and over[1] != source and reaches(over[1], source, layer):
                    found.add(layer.name)
    return found
