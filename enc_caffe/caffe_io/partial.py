"""The part of a network that stock Caffe can set up: layers that it does not have give way to inputs of their tops' shapes."""

from __future__ import annotations

from typing import Any, Container, Mapping

from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, Shape


def foreign(net: Any) -> dict[str, str]:
    """Layers that stock Caffe does not have, or that would run somebody's Python, and why in words."""
    found = {}
    for layer in net.layer:
        if layer.type not in caffe_types():
            found[layer.name] = f"has a type that stock Caffe does not have ({layer.type})"
        elif layer.type == "Python":
            found[layer.name] = f"would run the Python module '{layer.python_param.module}'"
    return found


def deploy_shapes(given: Mapping[str, Shape], network: Network, deploy: Any) -> dict[str, Shape]:
    """Shapes that a user gave for tops of a network, as they are in its deploy form: with the batch of its Input layers."""
    inputs = {top: s.dim[0] for p in deploy.layer if p.type == "Input" for top, s in zip(p.top, p.input_param.shape)}
    batches = {network.shape_of(top)[0]: batch for top, batch in inputs.items() if top in network.inputs}
    return {top: (batches.get(s[0], s[0]), *s[1:]) for top, s in given.items() if top not in inputs}


def known_part(net: Any, network: Network, left: Container[str]) -> tuple[Any, int]:
    """A copy of a deploy network without some layers, and how many others went with them.

    In place of a layer that goes its tops become Input layers, where their shapes are known; a layer in place just goes. A layer
    that reads a blob which nothing makes any more goes too.
    """
    out = caffe_pb2().NetParameter(name=net.name or None)
    made: set[str] = set()
    behind = 0
    for param in net.layer:
        if param.name not in left and all(bottom in made for bottom in param.bottom):
            out.layer.add().CopyFrom(param)
            made.update(param.top)
            continue
        behind += param.name not in left
        for top, shape in zip(param.top, network[param.name].top_shapes):
            if top in param.bottom:
                continue
            made.discard(top)
            if shape != UNKNOWN:
                layer = out.layer.add(name=f"{param.name}/{top}", type="Input", top=[top])
                layer.input_param.shape.add(dim=shape)
                made.add(top)
    return out, behind
