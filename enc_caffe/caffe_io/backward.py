"""The network that gradients of its scores are taken of: what makes the scores and no more, with backward passes that reach
every convolution and fully connected layer.

Caffe runs a layer backward only where a blob below a loss needs it (BVLC Caffe 99bd997, ``net.cpp``). So the scores get a loss
weight, whose diff is overwritten before every pass. Gradients of the weights are not Caffe's to add up (they are wanted image by
image), so that learning rates are 0 wherever a gradient arrives by itself.
"""

from __future__ import annotations

from typing import Any

from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import from_text, to_text

#: Types without a gradient: Caffe stops at ArgMax and Threshold, and what a layer in Python does backward is not known.
NO_GRADIENT = frozenset({"ArgMax", "Threshold", "Python", "Filter", "DetectionOutput", "Proposal", "PriorBox"})
#: Types whose weights are the first of one or two blobs.
WEIGHTED = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
}

#: Types whose backward pass in Caffe reads what it has overwritten where they work in place (``power_layer.cpp``: gradients become 1).
WRONG_IN_PLACE = frozenset({"Power", "AbsVal", "Log"})


def set_apart(net: Any) -> None:
    """Give layers whose gradient is wrong in place a blob of their own to read; what they make keeps its name. Flatten becomes Reshape."""
    for at, layer in enumerate(net.layer):
        if layer.type == "Flatten":
            _as_reshape(layer)
        if layer.type not in WRONG_IN_PLACE or list(layer.bottom) != list(layer.top):
            continue
        blob, before = layer.top[0], net.layer[:at]
        if any(blob in x.top and x.type == "Input" for x in before):
            continue
        layer.bottom[0] = f"{blob}_before_{layer.name}"
        for other in before:
            for names in (other.bottom, other.top):
                names[:] = [layer.bottom[0] if name == blob else name for name in names]


def _as_reshape(layer: Any) -> None:
    """Write a Flatten as the Reshape that does the same.

    Backward, Caffe's Flatten puts the diff of its top in place of its bottom's (``flatten_layer.cpp``). Where a Reshape made this bottom,
    whose own diff it shared and whose backward pass does nothing, no gradient comes any further: it is 0 everywhere below.
    """
    axis, end = layer.flatten_param.axis, layer.flatten_param.end_axis
    if end != -1 and (axis < 0) != (end < 0):
        return
    layer.type = "Reshape"
    layer.ClearField("flatten_param")
    # Reshape counts from behind the last axis, as its -1.
    layer.reshape_param.axis = axis if axis >= 0 else axis - 1
    layer.reshape_param.num_axes = -1 if end == -1 else end - axis + 1
    layer.reshape_param.shape.dim.append(-1)


def backward_net(net: Any, scores: str) -> tuple[Any, frozenset[str], frozenset[str]]:
    """A copy of a deploy network for backward passes from a blob.

    Parameters
    ----------
    net : NetParameter
        As :func:`enc_caffe.caffe_io.variants.deploy_net` gives it, or folded.
    scores : str
        The blob, as it is after the whole pass.

    Returns
    -------
    net : NetParameter
        Ends with the layer that makes the scores.
    reached : frozenset of layer names
        Where the gradient of the scores arrives.
    blocked : frozenset of layer names
        Those that the scores depend on only through a layer without a gradient.
    """
    kept, wanted = [], {scores}
    for layer in reversed(net.layer):
        if wanted & set(layer.top):
            kept.append(layer)
            # What is changed in place was made before.
            wanted = (wanted - (set(layer.top) - set(layer.bottom))) | set(layer.bottom)
    out = caffe_pb2().NetParameter(name=net.name)
    for layer in reversed(kept):
        out.layer.add().CopyFrom(layer)
    set_apart(out)
    reached = _reached(out, scores)
    _set_rates(out)
    last = max(i for i, layer in enumerate(out.layer) if scores in layer.top)
    out.layer[last].loss_weight.extend(float(top == scores) for top in out.layer[last].top)
    return out, reached, frozenset(layer.name for layer in out.layer) - reached


def backward_text(text: str, scores: str) -> tuple[str, frozenset[str], frozenset[str]]:
    """:func:`backward_net` of prototxt text."""
    net, reached, blocked = backward_net(from_text(text), scores)
    return to_text(net), reached, blocked


def _reached(net: Any, scores: str) -> frozenset[str]:
    found, blobs = set(), {scores}
    for layer in reversed(net.layer):
        if not blobs & set(layer.top):
            continue
        found.add(layer.name)
        blobs -= set(layer.top) - set(layer.bottom)
        if layer.type in NO_GRADIENT:
            found.discard(layer.name)
            blobs -= set(layer.top)
        else:
            blobs |= set(layer.bottom)
    return frozenset(found)


def _set_rates(net: Any) -> None:
    """Learning rates of 0 and 1, so that every blob behind a weighted layer needs a gradient, and none goes into a layer without one."""
    needing: set[str] = set()
    dead: set[str] = set()
    for layer in net.layer:
        del layer.loss_weight[:]
        del layer.propagate_down[:]
        bottoms = [b in dead for b in layer.bottom]
        # Caffe asks the layers that read a blob whether it needs a gradient, not the one that makes it.
        if any(bottoms):
            layer.propagate_down.extend(not b for b in bottoms)
        arrives = any(b in needing and b not in dead for b in layer.bottom)
        needing -= set(layer.top)
        dead -= set(layer.top)
        if layer.type in NO_GRADIENT:
            dead |= set(layer.top)
        elif layer.type in WEIGHTED:
            _set_rate(layer, 0.0 if arrives else 1.0)
            needing |= set(layer.top)
        elif arrives:
            needing |= set(layer.top)
        elif bottoms and all(bottoms):
            dead |= set(layer.top)


def _set_rate(layer: Any, rate: float) -> None:
    if any(p.name for p in layer.param):
        # Weights that are shared by name must agree on their rate.
        for param in layer.param:
            param.ClearField("lr_mult")
            param.ClearField("decay_mult")
        return
    del layer.param[:]
    for i in range(1 + bool(getattr(layer, WEIGHTED[layer.type]).bias_term)):
        layer.param.add(lr_mult=0.0 if i else rate)
