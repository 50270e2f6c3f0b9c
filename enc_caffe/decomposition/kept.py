"""Plain factors of many forms of the same layers: what they share is computed once."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence

import numpy as np

from enc_caffe.decomposition.scheme import Factoriser, Factors
from enc_caffe.decomposition.table import scheme_for
from enc_caffe.form import Form
from enc_caffe.network import Layer


class KeptFactors:
    """Factors of a layer in a form by plain SVD. The decomposition that all forms of a scheme share is kept.

    Parameters
    ----------
    weights : callable of a layer
        Its arrays, the weight first.
    memory : int, optional
        Bytes to keep at most; what does not fit is computed each time. Without it all are kept.

    Notes
    -----
    A decomposition takes about twice the memory of the layer's weights.
    """

    def __init__(self, weights: Callable[[Layer], Sequence[np.ndarray]], memory: Optional[int] = None) -> None:
        self._weights, self._room = weights, memory
        self._kept: dict[tuple[Any, ...], Factoriser] = {}

    def __call__(self, layer: Layer, form: Form) -> Factors:
        """The factors; :class:`PlanError` where the layer cannot take this form."""
        scheme = scheme_for(form.scheme)
        scheme.check(layer, form)
        # Another network may have a layer of this name and these weights that is not the same layer; the batch is all the same.
        sizes = [shape[1:] for shapes in (layer.bottom_shapes, layer.top_shapes) for shape in shapes[:1]]
        key = (layer.name, form.scheme, layer.convolution, layer.inner_product, *sizes)
        if key in self._kept:
            return _own(self._kept[key](form))
        weight = self._weights(layer)[0]
        made, size = scheme.factoriser(layer, weight), 2 * weight.nbytes
        if self._room is None or size <= self._room:
            self._kept[key] = made
            self._room = None if self._room is None else self._room - size
        return _own(made(form))


def _own(factors: Factors) -> Factors:
    """Copies: some factors are parts of the decomposition."""
    return [np.array(x) for x in factors]
