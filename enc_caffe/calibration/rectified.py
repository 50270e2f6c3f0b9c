"""What stands behind a layer, and responses of it that count behind a ReLU: the target of asymmetric 3-D ([16] of the paper).

A BatchNorm and a Scale behind a convolution are a gain and a shift of its responses, and take up a constant where the layer itself has no
bias. Where a ReLU alone reads what they give, errors of the responses are those behind it (:mod:`enc_caffe.decomposition.rectified`), if the
layer's chain ends in a 1x1 convolution: the rank of the responses is then the number of channels before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.fold import fold, gain_and_shift
from enc_caffe.calibration.moments import MomentSum
from enc_caffe.decomposition import chain_of, scheme_for
from enc_caffe.decomposition.outputs import solve_turned, turned
from enc_caffe.decomposition.rectified import rectified_error, rectified_fit
from enc_caffe.decomposition.regression import Moments, group_weights, regular
from enc_caffe.decomposition.scheme import Factors
from enc_caffe.form import Form
from enc_caffe.network import Layer, Network, walk

#: Columns of an image whose responses are kept; the moments are of more.
KEPT = 16
#: Bytes of columns that are kept of one layer at most.
ROOM = 256 * 2**20
#: A gain below this part of the largest one counts as this.
LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Behind:
    """What follows a convolution.

    Attributes
    ----------
    gain, shift : ndarray, shape (O,)
        What becomes of its responses y: gain y + shift.
    norm : Layer, optional
        A BatchNorm whose mean takes up a constant.
    relu : bool
        Whether a ReLU alone reads the result.
    """

    gain: np.ndarray
    shift: np.ndarray
    norm: Optional[Layer] = None
    relu: bool = False


def behind(net: Any, network: Network, model: CaffeModel, shared: frozenset[str]) -> dict[str, Behind]:
    """What follows the convolutions of a NetParameter, by name; those that nothing known follows are absent.

    Parameters
    ----------
    shared : frozenset of str
        BatchNorm layers that stay as they are.
    """
    simple, followers = fold(net)
    graph = walk((at, at, p.bottom, p.top) for at, p in enumerate(simple.layer))
    found = {}
    for at, param in enumerate(simple.layer):
        if param.type != "Convolution" or len(param.top) != 1 or param.name not in network:
            continue
        readers = [simple.layer[i] for i in graph.readers.get(graph.tops[at][0], [])]
        relu = len(readers) == 1 and readers[0].type == "ReLU" and readers[0].relu_param.negative_slope == 0
        outputs, follower = network[param.name].out_channels, followers.get(param.name)
        gain, shift, norm = np.ones(outputs), np.zeros(outputs), None
        if follower is not None:
            gain, mean, beta = gain_and_shift(model, follower)
            shift = beta - mean * gain
            norm = None if follower.batch_norm in shared else network[follower.batch_norm]
        if relu or norm is not None:
            found[param.name] = Behind(gain, shift, norm, relu)
    return found


def width(layer: Layer, form: Form) -> int:
    """Rank of the responses: the channels before a 1x1 convolution that a form's chain ends in; 0 where it ends otherwise."""
    stages = chain_of(layer, form).stages
    last = stages[-1].convolution
    if len(stages) < 2 or last is None or last.kernel != (1, 1) or layer.groups > 1:
        return 0
    return stages[-2].num_output


class ResponseSum(MomentSum):
    """Moments, and some columns themselves.

    Parameters
    ----------
    size, outputs : int
    images : int
        Of all tasks together.
    """

    def __init__(self, size: int, outputs: int, images: int) -> None:
        super().__init__(size, outputs)
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        self._each = max(1, min(KEPT, ROOM // (4 * (size + outputs) * max(1, images))))

    def add_images(self, x: np.ndarray, y: np.ndarray, images: int) -> None:
        """Add columns (d, n), (O, n) of some images, as many of each."""
        self.add(x, y)
        positions = x.shape[1] // images
        # Other ones in every image.
        step = max(1, positions // self._each)
        places = np.arange(self.columns % step, x.shape[1], step)
        self.kept.append((x[:, places].astype(np.float32), y[:, places].astype(np.float32)))

    def merge(self, other: MomentSum) -> None:
        """Add another sum."""
        super().merge(other)
        if isinstance(other, ResponseSum):
            self.kept += other.kept

    def columns_kept(self) -> tuple[np.ndarray, np.ndarray]:
        """x (d, n) and y (O, n) in float64."""
        x, y = (np.concatenate(parts, axis=1) for parts in zip(*self.kept))
        return x.astype(np.float64), y.astype(np.float64)


def solve_rectified(
    layer: Layer, form: Form, arrays: Sequence[np.ndarray], total: ResponseSum, after: Behind
) -> tuple[Factors, np.ndarray]:  # fmt: skip
    """Factors of least error behind the ReLU, and the constant beside them, of a layer of one group; those of the linear target where these
    are less wrong there.

    Parameters
    ----------
    arrays : sequence of ndarray
        The original's weight, and bias where there is one.
    total : ResponseSum
        x of the inputs that come, y of the original.
    after : Behind

    Returns
    -------
    factors : list of ndarray
    constant : ndarray, shape (O,)
        What is added to the product of the factors, instead of the original's bias.
    """
    x, y = total.columns_kept()
    least = LEAST_GAIN * float(np.abs(after.gain).max()) or 1.0
    gain, shift = np.where(np.abs(after.gain) < least, least, after.gain)[:, None], after.shift[:, None]
    sums = total.arrays()
    second, cross, middle, mean = (sums[n] / total.columns for n in ("inputs", "targets", "input_sum", "target_sum"))
    apart = Moments(second - np.outer(middle, middle), cross - np.outer(middle, mean), total.columns)
    (known,) = regular(layer, arrays[0], [apart])
    # Responses of least squares on the inputs that come, of all columns; a few say what the ReLU makes of them.
    inputs = gain * (known.best.T @ (x - middle[:, None]) + mean[:, None]) + shift
    wanted, roots = gain * y + shift, [(np.diag(gain[:, 0]), np.diag(1.0 / gain[:, 0]))]
    scheme, found = scheme_for(form.scheme), []
    for turn in rectified_fit(wanted, inputs, width(layer, form)):
        best = (turn.matrix * gain[:, 0] / gain) @ known.best.T
        ready = turned([Moments(known.inputs, known.inputs @ best.T)], roots)
        factors = solve_turned(scheme, layer, best.reshape(arrays[0].shape), ready, roots, form)
        effective = scheme.effective(layer, form, [np.asarray(f, np.float64) for f in factors])
        (flat,) = group_weights(layer, effective.reshape(arrays[0].shape))
        # The constant of the fit, and what a chain's split changes of the mean.
        given = turn.matrix @ (gain[:, 0] * mean + shift[:, 0]) + turn.constant
        constant = (given - shift[:, 0]) / gain[:, 0] - flat @ middle
        found.append((rectified_error(wanted, gain * (flat @ x + constant[:, None]) + shift), factors, constant))
    _, factors, constant = min(found, key=lambda f: f[0])
    return factors, constant


def shifted(norm: Sequence[np.ndarray], constant: np.ndarray) -> list[np.ndarray]:
    """A BatchNorm's mean, variance and factor that add a constant to what it reads."""
    mean, variance, factor = (np.asarray(a, np.float64).reshape(-1) for a in norm)
    scale = 1.0 / factor[0] if factor[0] else 0.0
    return [mean * scale - constant, variance * scale, np.ones(1)]


def solved_behind(
    layer: Layer, form: Form, names: Sequence[str], total: ResponseSum, after: Behind, weights_of: Callable[[Layer], list[np.ndarray]]
) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """Blobs of a chain by its layers' names, and of what takes up its constant."""
    arrays = weights_of(layer)
    factors, constant = solve_rectified(layer, form, arrays, total, after)
    blobs = {name: [factor] for name, factor in zip(names, factors)}
    return placed(blobs, names[-1], constant, len(arrays) > 1, after, weights_of)


def placed(
    blobs: dict[str, list[np.ndarray]], last: str, constant: np.ndarray, biased: bool, after: Optional[Behind],
    weights_of: Callable[[Layer], list[np.ndarray]],
) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """A chain's blobs with the constant in the bias of its last layer, or in the statistics of what follows it where these take it up."""
    if biased:
        blobs[last].append(constant)
    elif after is not None and after.norm is not None:
        blobs[after.norm.name] = shifted(weights_of(after.norm), constant)
    return blobs
