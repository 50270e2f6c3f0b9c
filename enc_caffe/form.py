"""What becomes of one layer: its form, and the chain of layers that the form stands for.

A form is a scheme with its ranks, such as ``spatial:12`` or ``tucker2:8x12``, or ``whole``. Its chain says which layers are
written in the place of the original one. MACs and parameters are counted from the chain, and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterator, Optional

from enc_caffe.errors import PlanError
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.shapes import conv_output, count

CONVENTIONS = ("paper", "exact")
_TEXT = re.compile(r"([a-z][a-z0-9_]*)(?::([0-9]{1,9}(?:x[0-9]{1,9})*))?")


@dataclass(frozen=True, order=True)
class Form:
    """A scheme and its ranks (of one group), in the order of its stages; no ranks where the layer stays whole."""

    scheme: str
    ranks: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.scheme + (":" + "x".join(map(str, self.ranks)) if self.ranks else "")


#: The layer as it is.
WHOLE = Form("whole")


def parse_form(text: object, where: str = "a form") -> Form:
    """A form from its text; :class:`PlanError` saying ``where`` for anything else."""
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match.group(1) == WHOLE.scheme) != (match.group(2) is None):
        raise PlanError(f"{where} is {str(text)[:80]!r}; a form such as spatial:12, tucker2:8x12 or whole is needed")
    if match.group(2) is None:
        return WHOLE
    return Form(match.group(1), tuple(int(r) for r in match.group(2).split("x")))


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
    """The layers that stand for one layer, in order."""

    stages: tuple[Stage, ...]

    def inputs(self, layer: Layer) -> Iterator[tuple[Stage, int]]:
        """Every stage with the channels that it reads."""
        channels = layer.in_channels
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
            return self.parameters(layer) * positions(layer)
        sizes = self.outputs(layer)
        return sum(s.parameters(i) * h * w for (s, i), (h, w) in zip(self.inputs(layer), sizes))


def whole_chain(layer: Layer) -> Chain:
    """The layer itself as a chain of one stage."""
    return Chain((Stage("", layer.convolution, layer.inner_product),))


def positions(layer: Layer) -> int:
    """How often the layer's weights are applied for one image: H x W, or the leading axes of an inner product."""
    if layer.convolution is not None:
        height, width = layer.output
        return height * width
    return count(layer.top_shapes[0][1:-1])
