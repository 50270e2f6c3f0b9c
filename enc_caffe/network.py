"""The frozen description of a network: what every later stage sees instead of raw protobuf.

Shapes leave out nothing: they are tuples in Caffe's axis order, as of the TEST phase with the batch size of the
prototxt. Weights do not live here; :mod:`enc_caffe.caffe_io.caffemodel` reads them by layer name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Hashable, Iterable, Optional, TypeVar, Union

from enc_caffe.errors import PlanError
from enc_caffe.shapes import Shape, brings_data, count

if TYPE_CHECKING:
    from enc_caffe.coupling import Coupling


@dataclass(frozen=True)
class Convolution:
    """Geometry of a 2-D convolution; pairs are (height, width)."""

    num_output: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True


@dataclass(frozen=True)
class InnerProduct:
    """Geometry of a fully connected layer."""

    num_output: int
    bias: bool = True
    transposed: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer of the TEST phase.

    Attributes
    ----------
    name, type : str
    bottoms, tops : tuple of str
        Blob names.
    bottom_shapes, top_shapes : tuple of Shape
    convolution, inner_product : Convolution, InnerProduct or None
        Set for the layers that can be decomposed.
    keep_reason : str
        Why a layer with weights can never be decomposed (empty: it can).
    fixed_channels : str
        Why no channel of its bottoms and tops can be taken out, by the layer's own parameters (empty: its type decides).
    repeats : int or Fraction
        How many items of its first axis come of one image: regions of a detector, or steps of a text line; of regions that do not divide by
        the images, as many as there are on average.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    bottom_shapes: tuple[Shape, ...] = ()
    top_shapes: tuple[Shape, ...] = ()
    convolution: Optional[Convolution] = None
    inner_product: Optional[InnerProduct] = None
    keep_reason: str = ""
    fixed_channels: str = ""
    repeats: Union[int, Fraction] = 1

    def items(self, images: int) -> int:
        """Items of its first axis in a pass of so many images."""
        return max(1, round(images * self.repeats))

    @property
    def has_weights(self) -> bool:
        """Whether MACs and parameters are counted for this layer."""
        return self.convolution is not None or self.inner_product is not None

    @property
    def in_channels(self) -> int:
        """Input channels of a convolution, or inputs of a fully connected layer."""
        if self.convolution is not None:
            return self.bottom_shapes[0][1]
        if self.inner_product is not None:
            axis = len(self.top_shapes[0]) - 1
            return count(self.bottom_shapes[0][axis:])
        return 0

    @property
    def out_channels(self) -> int:
        """``num_output``."""
        if self.convolution is not None:
            return self.convolution.num_output
        return self.inner_product.num_output if self.inner_product is not None else 0

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for everything else."""
        return self.convolution.groups if self.convolution is not None else 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel (height, width); (1, 1) for a fully connected layer."""
        return self.convolution.kernel if self.convolution is not None else (1, 1)

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias term."""
        if self.convolution is not None:
            return self.convolution.bias
        return self.inner_product.bias if self.inner_product is not None else False

    @property
    def output(self) -> tuple[int, int]:
        """Output height and width; (1, 1) for a fully connected layer."""
        if self.convolution is not None:
            return self.top_shapes[0][2], self.top_shapes[0][3]
        return 1, 1

    @property
    def input(self) -> tuple[int, int]:
        """Input height and width; (1, 1) for a fully connected layer."""
        if self.convolution is not None:
            return self.bottom_shapes[0][2], self.bottom_shapes[0][3]
        return 1, 1


#: A blob's name, and how many layers have made it so far: layers in place give several layers the same top.
Made = tuple[str, int]


K = TypeVar("K", bound=Hashable)
L = TypeVar("L")


@dataclass(frozen=True)
class Walk(Generic[K, L]):
    """Who makes and who reads every blob, one walk over the layers.

    Attributes
    ----------
    bottoms, tops : mapping of a layer's key to tuple of Made
    producers : mapping of Made to the layer that makes it; what no layer makes is absent
    readers : mapping of Made to the layers that read it, in order
    """

    bottoms: dict[K, tuple[Made, ...]]
    tops: dict[K, tuple[Made, ...]]
    producers: dict[Made, L]
    readers: dict[Made, list[L]]


def walk(layers: Iterable[tuple[K, L, Iterable[str], Iterable[str]]]) -> Walk[K, L]:
    """Walk over layers in order of execution, each given as its key, itself, its bottoms and its tops."""
    times: dict[str, int] = {}
    found: Walk[K, L] = Walk({}, {}, {}, {})
    for key, layer, bottoms, tops in layers:
        found.bottoms[key] = tuple((b, times.get(b, 0)) for b in bottoms)
        for blob in found.bottoms[key]:
            found.readers.setdefault(blob, []).append(layer)
        made = []
        for top in tops:
            times[top] = times.get(top, 0) + 1
            made.append((top, times[top]))
        found.tops[key] = tuple(made)
        found.producers.update(dict.fromkeys(made, layer))
    return found


@dataclass(frozen=True)
class Network:
    """A network in the TEST phase, layers in order of execution."""

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    _index: dict[str, Layer] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._index.update({layer.name: layer for layer in self.layers})

    def __getitem__(self, name: str) -> Layer:
        """Layer by name; :class:`PlanError` where there is none."""
        try:
            return self._index[name]
        except KeyError:
            raise PlanError(self.unknown(name)) from None

    def unknown(self, name: str) -> str:
        """That it has no layer of a name, and which one may have been meant."""
        near = difflib.get_close_matches(name, self._index, 1)
        meant = f"did you mean '{near[0]}'?" if near else "enc-caffe inspect lists its layers"
        return f"layer '{name}' is not in network '{self.name}'; {meant}"

    def __contains__(self, name: str) -> bool:
        return name in self._index

    @cached_property
    def walk(self) -> Walk[str, Layer]:
        """Producers and readers of all blobs, by the layers' names."""
        return walk((x.name, x, x.bottoms, x.tops) for x in self.layers)

    @cached_property
    def coupled(self) -> Coupling:
        """Which layers lose channels together."""
        # NumPy comes with it, which costs and shapes do without.
        from enc_caffe.coupling import coupling_of

        return coupling_of(self.layers, self.walk.bottoms, self.walk.tops, self.outputs)

    @property
    def data_shapes(self) -> dict[str, Shape]:
        """Full shapes of the tops of layers that bring data."""
        python = [layer for layer in self.layers if layer.type == "Python" and not layer.bottoms]
        layers = [layer for layer in self.layers if brings_data(layer.type)] + python
        return {top: shape for layer in layers for top, shape in zip(layer.tops, layer.top_shapes)}

    @property
    def images(self) -> int:
        """Images of a pass as the prototxt has it; 0 where nothing brings any."""
        return next(
            (
                x.top_shapes[0][0]
                for x in self.layers
                if brings_data(x.type) and x.top_shapes and len(x.top_shapes[0]) > 3
            ),
            0,
        )

    def shape_of(self, blob: str) -> Shape:
        """Shape of a blob, as the last layer that makes it leaves it."""
        for layer in reversed(self.layers):
            if blob in layer.tops:
                return layer.top_shapes[layer.tops.index(blob)]
        raise PlanError(f"blob '{blob}' is not in network '{self.name}'")

    @property
    def weighted(self) -> tuple[Layer, ...]:
        """The layers whose MACs and parameters are counted."""
        return tuple(layer for layer in self.layers if layer.has_weights)
