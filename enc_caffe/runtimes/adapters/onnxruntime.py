"""ONNX Runtime, by one of the converters caffe2onnx and caffe-onnx."""

import onnxruntime

try:
    from caffe2onnx.src.caffe2onnx import Caffe2Onnx
    from caffe2onnx.src.load_save_model import loadcaffemodel
except ImportError:
    from src.caffe2onnx import Caffe2Onnx
    from src.load_save_model import loadcaffemodel


def version():
    """Of the runtime."""
    return onnxruntime.__version__


class Net:
    """A network in ONNX Runtime."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        made = Caffe2Onnx(*loadcaffemodel(prototxt, caffemodel), "net").createOnnxModel()
        # It writes operators as they were in opset 11, and says the newest.
        made.opset_import[0].version = 11
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
