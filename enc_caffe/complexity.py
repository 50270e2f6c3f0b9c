"""MACs and parameters of a network, whole and under a plan, counted from the chains that its layers' forms stand for.

One multiply-add is one MAC (the paper calls it one FLOP); biases are not counted. Two conventions:

``exact``
    MACs of the emitted layers at their true output sizes: a strided spatial pair's first layer still has the
    original's input width.
``paper``
    Eq. 9 and 10: every stage counted at the ORIGINAL layer's output size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, Mapping, Optional

from enc_caffe.decomposition import form_cost
from enc_caffe.decomposition.widths import widths
from enc_caffe.form import WHOLE, Form
from enc_caffe.network import Layer, Network

#: Layers that are named in a line at most.
LISTED = 6


def layer_parameters(layer: Layer) -> int:
    """Weights of the whole layer, without the bias."""
    return form_cost(layer, WHOLE)[1]


def layer_macs(layer: Layer) -> int:
    """MACs of the whole layer for one image."""
    return form_cost(layer, WHOLE)[0]


#: Parts of the names of types that multiply weights, or maps, with maps: stock ones, and those that forks have.
_MULTIPLY = ("convolution", "innerproduct", "lstm", "rnn", "fcristretto", "local", "matmul", "correlation")


def uncounted(network: Network) -> list[str]:
    """Layers whose MACs are in no count, with their types: they are neither plain convolutions nor fully connected, or their
    shapes are not known."""
    return [
        f"{layer.name} ({layer.type})"
        for layer in network.layers
        if not layer.has_weights and any(part in layer.type.lower() for part in _MULTIPLY)
    ]


def uncounted_words(network: Network) -> str:
    """``not counted: ...`` with the first of :func:`uncounted`; empty where there are none."""
    missing = uncounted(network)
    more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    return f"not counted: {', '.join(missing[:LISTED])}{more}" if missing else ""


@dataclass(frozen=True)
class Complexity:
    """MACs (one image) and parameters of a set of layers, with the words that say which."""

    macs: int
    parameters: int
    convention: str
    counted: str


def network_complexity(
    network: Network,
    forms: Mapping[str, Form],
    convention: str = "exact",
    counted: Optional[Collection[str]] = None,
    placement: str = "exact",
) -> Complexity:
    """Cost of a network under a plan; a layer that is absent from ``forms`` is whole.

    Parameters
    ----------
    forms : mapping of layer name to form
    convention : {'paper', 'exact'}
    counted : collection of str, optional
        The layers that are counted (the paper's choice: those that can be decomposed); without it every convolution and
        inner product.
    placement : {'exact', 'published'}
    """
    layers = [x for x in network.weighted if counted is None or x.name in counted]
    left = widths(network, forms)
    costs = [form_cost(x, forms.get(x.name, WHOLE), convention, placement, left.get(x.name)) for x in layers]
    words = "all" if counted is None else "decomposable"
    return Complexity(sum(m for m, _ in costs), sum(p for _, p in costs), convention, words)
