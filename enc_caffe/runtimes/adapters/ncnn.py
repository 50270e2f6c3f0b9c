"""ncnn, by way of ONNX (caffe2onnx) and pnnx: its own converter is in no package."""

import os
import subprocess
from importlib.metadata import version as version_of

import ncnn
import numpy as np
from caffe2onnx.src.caffe2onnx import Caffe2Onnx
from caffe2onnx.src.load_save_model import loadcaffemodel

#: Seconds after which a conversion is taken to hang.
LIMIT = 600


def version():
    """Of the package."""
    return version_of("ncnn")


class Net:
    """A network in ncnn, computed in float32."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        if any(value.shape[0] != 1 for value in inputs.values()):
            raise RuntimeError("ncnn takes one image at a time")
        made = Caffe2Onnx(*loadcaffemodel(prototxt, caffemodel), "net").createOnnxModel()
        made.opset_import[0].version = 11
        self._names = [port.name for port in made.graph.output]
        file = os.path.join(folder, "net.onnx")
        with open(file, "wb") as handle:
            handle.write(made.SerializeToString())
        # The program beside its Python package, which would want PyTorch.
        program = os.path.join(os.path.dirname(os.path.dirname(ncnn.__file__)), "pnnx", "pnnx")
        shapes = ",".join(str(list(v.shape)).replace(" ", "") for v in inputs.values())
        done = subprocess.run(
            [program, file, "inputshape=" + shapes, "fp16=0"], capture_output=True, text=True, timeout=LIMIT, cwd=folder
        )
        if done.returncode or not os.path.isfile(os.path.join(folder, "net.ncnn.param")):
            raise RuntimeError("pnnx: " + (done.stderr.strip() or "no message").splitlines()[-1])
        self._net = ncnn.Net()
        option = self._net.opt
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = option.use_bf16_storage = False
        option.num_threads = threads
        if self._net.load_param(os.path.join(folder, "net.ncnn.param")) or self._net.load_model(
            os.path.join(folder, "net.ncnn.bin")
        ):
            raise RuntimeError("ncnn does not load what pnnx wrote")
        self._feed(inputs)

    def _feed(self, inputs):
        self._inputs = [ncnn.Mat(np.ascontiguousarray(value[0])).clone() for value in inputs.values()]

    def run(self):
        """One pass."""
        run = self._net.create_extractor()
        for at, value in enumerate(self._inputs):
            run.input(f"in{at}", value)
        found = []
        for at in range(len(self._names)):
            status, value = run.extract(f"out{at}")
            if status:
                raise RuntimeError(f"ncnn gives no output {at} (status {status})")
            found.append(value)
        return found

    def outputs(self, inputs):
        """Outputs by name."""
        self._feed(inputs)
        return {name: np.array(value) for name, value in zip(self._names, self.run())}
