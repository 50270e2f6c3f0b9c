"""Caffe's files as ONNX by caffe2onnx, with weights as arrays: it would copy each of them several times, number by number.

Beside the adapters that go this way; it imports nothing of enc-caffe, as they do not. A network of 0.85 million weights takes 0.3
seconds so, and 13 without.
"""

from types import SimpleNamespace

import numpy as np
from google.protobuf import descriptor_pb2, message_factory
from onnx import helper

try:
    from caffe2onnx.src.caffe2onnx import Caffe2Onnx
    from caffe2onnx.src.load_save_model import loadcaffemodel
except ImportError:
    from src.caffe2onnx import Caffe2Onnx
    from src.load_save_model import loadcaffemodel

#: Layers whose entry in a caffemodel is read for more than its blobs.
MORE_THAN_BLOBS = ("Reshape",)


def _message():
    """A NetParameter of layers, their names and blobs, in which packed numbers are bytes: on the wire they are the same."""
    file = descriptor_pb2.FileDescriptorProto(name="enc_caffe_weights.proto", package="enc_caffe_weights")
    field = descriptor_pb2.FieldDescriptorProto
    for name, fields in {
        "Shape": [("dim", 1, field.TYPE_INT64, True, "")],
        "Blob": [("shape", 7, field.TYPE_MESSAGE, False, "Shape"), ("data", 5, field.TYPE_BYTES, False, "")],
        "Layer": [("name", 1, field.TYPE_STRING, False, ""), ("blobs", 7, field.TYPE_MESSAGE, True, "Blob")],
        "Net": [("layer", 100, field.TYPE_MESSAGE, True, "Layer")],
    }.items():
        made = file.message_type.add(name=name)
        for own, number, kind, many, of in fields:
            label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            made.field.add(name=own, number=number, type=kind, label=label, type_name=of and f".{file.package}.{of}")  # fmt: skip
    return message_factory.GetMessages([file])["enc_caffe_weights.Net"]


NET = _message()


def weights(caffemodel):
    """The layers of a caffemodel with their blobs as arrays, in the words of Caffe's messages; None where a blob is of the old form."""
    net = NET()
    with open(caffemodel, "rb") as handle:
        net.ParseFromString(handle.read())
    layers = []
    for layer in net.layer:
        blobs = [(list(b.shape.dim), np.frombuffer(b.data, "<f4")) for b in layer.blobs]
        if any(np.prod(shape) != len(data) for shape, data in blobs):
            return None
        named = [SimpleNamespace(shape=SimpleNamespace(dim=shape), data=data) for shape, data in blobs]
        layers.append(SimpleNamespace(name=layer.name, blobs=named))
    return SimpleNamespace(layer=layers, layers=[]) if layers else None


def _tensor(name, data_type, dims, vals, raw=False):
    if not raw and isinstance(vals, np.ndarray) and vals.dtype == np.float32:
        return _OWN(name, data_type, dims, vals.tobytes(), raw=True)
    return _OWN(name, data_type, dims, vals, raw)


_OWN, helper.make_tensor = helper.make_tensor, _tensor


def onnx_model(prototxt, caffemodel):
    """A network as an ONNX ModelProto."""
    net, _ = loadcaffemodel(prototxt, "/dev/null")
    found = None if any(layer.type in MORE_THAN_BLOBS for layer in net.layer) else weights(caffemodel)
    made = Caffe2Onnx(net, found or loadcaffemodel(prototxt, caffemodel)[1], "net").createOnnxModel()
    # It writes operators as they were in opset 11, and says the newest.
    made.opset_import[0].version = 11
    return made


def merged(models):
    """Networks side by side in one: their inputs and outputs in turn."""
    out = type(models[0])()
    out.CopyFrom(models[0])
    out.graph.Clear()
    out.graph.name = "nets"
    for at, model in enumerate(models):
        graph = type(model.graph)()
        graph.CopyFrom(model.graph)

        def own(name, at=at):
            return f"n{at}_{name}" if name else name

        # caffe2onnx names the weights among the inputs, and pnnx asks for the shapes of the first ones.
        held = {value.name for value in graph.initializer}
        fed = [value for value in graph.input if value.name not in held]
        del graph.input[:]
        graph.input.extend(fed)
        for node in graph.node:
            node.name = own(node.name)
            node.input[:], node.output[:] = [own(n) for n in node.input], [own(n) for n in node.output]
        for kind in ("initializer", "input", "output", "value_info"):
            for value in getattr(graph, kind):
                value.name = own(value.name)
            getattr(out.graph, kind).extend(getattr(graph, kind))
        out.graph.node.extend(graph.node)
    return out
