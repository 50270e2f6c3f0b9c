"""ONNX Runtime, by one of the converters caffe2onnx and caffe-onnx."""

import importlib.util
import os

import onnxruntime

_SPEC = importlib.util.spec_from_file_location(
    "enc_caffe_by_onnx", os.path.join(os.path.dirname(os.path.abspath(__file__)), "by_onnx.py")
)
assert _SPEC is not None and _SPEC.loader is not None
by_onnx = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(by_onnx)


def version():
    """Of the runtime."""
    return onnxruntime.__version__


class Net:
    """A network in ONNX Runtime."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        made = by_onnx.onnx_model(prototxt, caffemodel)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._net = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._names = [x.name for x in self._net.get_outputs()]
        self._feed(inputs)

    def _feed(self, inputs):
        self._inputs = dict(zip([x.name for x in self._net.get_inputs()], inputs.values()))

    def run(self):
        """One pass."""
        return self._net.run(self._names, self._inputs)

    def outputs(self, inputs):
        """Outputs by name."""
        self._feed(inputs)
        return dict(zip(self._names, self.run()))
