"""What becomes of one layer: its form, and the chain of layers that the form stands for.

A form is a scheme with its ranks, such as ``spatial:12`` or ``tucker2:8x12``, or ``whole``. Its chain says which layers are
written in the place of the original one. MACs and parameters are counted from the chain, and nowhere else.

``prune:30`` keeps 30 of the channels that the layer READS, and ``prune:30+spatial:12`` decomposes what is left. The layers that
make those channels lose the others too; their own forms stand beside, as those of whole outputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Iterator, Optional, Union

from enc_caffe.errors import PlanError
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.shapes import conv_output, count

CONVENTIONS = ("paper", "exact")
#: Of a pair's strides: one on each half, or both on the first.
PLACEMENTS = ("exact", "published")
#: What ``--schemes`` takes: a word, or names of schemes.
Schemes = Union[str, tuple[str, ...]]
PAPER, ALL = "paper", "all"
#: Channel pruning by itself, as He, Zhang and Sun have it.
CHANNEL_PRUNING: Schemes = ("prune_lasso",)
_TEXT = re.compile(r"([a-z][a-z0-9_]*)(?::([0-9]{1,9}(?:x[0-9]{1,9})*))?")
_INSIDE = "+"


@dataclass(frozen=True, order=True)
class Form:
    """A scheme and its ranks (of one group), in the order of its stages; no ranks where the layer stays whole.

    Attributes
    ----------
    inside : tuple of Form, none or one
        The form of what a scheme that takes channels out leaves of the layer; none: it stays as it is.
    """

    scheme: str
    ranks: tuple[int, ...] = ()
    inside: tuple[Form, ...] = ()

    def __str__(self) -> str:
        own = self.scheme + (":" + "x".join(map(str, self.ranks)) if self.ranks else "")
        return _INSIDE.join([own, *map(str, self.inside)])


#: The layer as it is.
WHOLE = Form("whole")


def parse_form(text: object, where: str = "a form") -> Form:
    """A form from its text; :class:`PlanError` saying ``where`` for anything else."""
    first, plus, rest = text.partition(_INSIDE) if isinstance(text, str) else ("", "", "")
    match = _TEXT.fullmatch(first)
    if match is None or (match.group(1) == WHOLE.scheme) != (match.group(2) is None) or _INSIDE in rest:
        raise PlanError(f"{where} is {str(text)[:80]!r}; a form such as spatial:12, tucker2:8x12 or whole is needed")
    try:
        inside = parse_form(rest) if plus else WHOLE
    except PlanError:
        raise PlanError(
            f"{where} is {str(text)[:80]!r}; behind '{_INSIDE}' a form such as spatial:12 is needed"
        ) from None
    if match.group(2) is None and not plus:
        return WHOLE
    if match.group(2) is None or (plus and inside == WHOLE):
        raise PlanError(f"{where} is {str(text)[:80]!r}; beside '{_INSIDE}' two forms with ranks are needed")
    return Form(match.group(1), tuple(int(r) for r in match.group(2).split("x")), (inside,) if plus else ())


@dataclass(frozen=True)
class Stage:
    """One layer of a chain: what its name ends in, and its geometry."""

    suffix: str
    convolution: Optional[Convolution] = None
    inner_product: Optional[InnerProduct] = None

    @property
    def num_output(self) -> int:
        """Outputs of the stage, all groups together."""
        geometry = self.convolution or self.inner_product
        assert geometry is not None
        return geometry.num_output

    def parameters(self, inputs: int) -> int:
        """Weights of the stage where it reads ``inputs`` channels, without the bias."""
        if self.convolution is None:
            return inputs * self.num_output
        conv = self.convolution
        return conv.num_output * (inputs // conv.groups) * conv.kernel[0] * conv.kernel[1]


@dataclass(frozen=True)
class Chain:
    """The layers that stand for one layer, in order.

    Attributes
    ----------
    stages : tuple of Stage
    reads : int, optional
        Input channels (of a fully connected layer, inputs) that are left of the layer's; None: all.
    """

    stages: tuple[Stage, ...]
    reads: Optional[int] = None

    def ending(self, outputs: int) -> Chain:
        """The same where only so many outputs are left."""
        last = self.stages[-1]
        conv, inner = last.convolution, last.inner_product
        last = replace(
            last, convolution=None if conv is None else replace(conv, num_output=outputs),
            inner_product=None if inner is None else replace(inner, num_output=outputs),
        )  # fmt: skip
        return replace(self, stages=(*self.stages[:-1], last))

    def inputs(self, layer: Layer) -> Iterator[tuple[Stage, int]]:
        """Every stage with the channels that it reads."""
        channels = layer.in_channels if self.reads is None else self.reads
        for stage in self.stages:
            yield stage, channels
            channels = stage.num_output

    def parameters(self, layer: Layer) -> int:
        """Weights of all stages, without biases."""
        return sum(stage.parameters(inputs) for stage, inputs in self.inputs(layer))

    def outputs(self, layer: Layer) -> list[tuple[int, int]]:
        """Height and width of every stage's output."""
        height, width = layer.input
        sizes = []
        for stage in self.stages:
            conv = stage.convolution
            if conv is not None:
                height, width = (
                    conv_output(n, conv.kernel[i], conv.stride[i], conv.pad[i], conv.dilation[i])
                    for i, n in enumerate((height, width))
                )
                if min(height, width) < 1:
                    raise PlanError(
                        f"layer '{layer.name}': stage '{stage.suffix}' of its chain has no output for an input of {layer.input}"
                    )
            sizes.append((height, width))
        return sizes

    def macs(self, layer: Layer, convention: str = "exact") -> int:
        """Multiply-adds of all stages for one image.

        Parameters
        ----------
        layer : Layer
            The original, whose inputs the first stage reads.
        convention : {'paper', 'exact'}
            Every stage is counted at the ORIGINAL layer's output size (Eq. 9 and 10), or at its own.
        """
        if convention == "paper" or layer.convolution is None:
            return round(layer.repeats * self.parameters(layer) * positions(layer))
        sizes = self.outputs(layer)
        return round(layer.repeats * sum(s.parameters(i) * h * w for (s, i), (h, w) in zip(self.inputs(layer), sizes)))


def whole_chain(layer: Layer) -> Chain:
    """The layer itself as a chain of one stage."""
    return Chain((Stage("", layer.convolution, layer.inner_product),))


def positions(layer: Layer) -> int:
    """How often the layer's weights are applied for one item of its first axis: H x W, or the leading axes of an inner product."""
    if layer.convolution is not None:
        height, width = layer.output
        return height * width
    return count(layer.top_shapes[0][1:-1])
