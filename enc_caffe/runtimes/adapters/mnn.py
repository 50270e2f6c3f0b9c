"""MNN: its converter, called without its command, which would install a package that sends statistics."""

import os

import MNN
import numpy as np
from _tools import mnnconvert

#: Its kernels compute in all lanes of a register, and in those that hold no channel with what memory happened to have. Where that is
#: denormal an instruction takes many times as long: a layer takes 30 us in one network and 1 ms in the next. Nothing reads these lanes.
FLUSH_DENORMALS = True


def version():
    """Of the package."""
    return MNN.version()


class Net:
    """A network in MNN, computed in float32."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        made = os.path.join(folder, "net.mnn")
        mnnconvert(
            ["mnnconvert", "-f", "CAFFE", "--prototxt", prototxt, "--modelFile", caffemodel, "--MNNModel", made, "--bizCode", "none"]
        )  # fmt: skip
        if not os.path.isfile(made):
            raise RuntimeError("mnnconvert wrote nothing")
        self._net = MNN.Interpreter(made)
        self._session = self._net.createSession({"numThread": threads, "precision": "high"})
        for name, tensor in self._net.getSessionInputAll(self._session).items():
            self._net.resizeTensor(tensor, inputs[name].shape)
        self._net.resizeSession(self._session)
        self._feed(inputs)

    def _feed(self, inputs):
        for name, tensor in self._net.getSessionInputAll(self._session).items():
            value = inputs[name]
            tensor.copyFrom(MNN.Tensor(value.shape, MNN.Halide_Type_Float, value, MNN.Tensor_DimensionType_Caffe))

    def run(self):
        """One pass."""
        self._net.runSession(self._session)

    def outputs(self, inputs):
        """Outputs by name."""
        self._feed(inputs)
        self.run()
        found = {}
        for name, tensor in self._net.getSessionOutputAll(self._session).items():
            shape = tensor.getShape()
            host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
            tensor.copyToHostTensor(host)
            found[name] = np.array(host.getData(), np.float32).reshape(shape)
        return found
