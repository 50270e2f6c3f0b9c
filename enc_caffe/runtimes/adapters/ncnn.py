"""ncnn, by way of ONNX (caffe2onnx) and pnnx: its own converter is in no package."""

import importlib.util
import os
import subprocess
from importlib.metadata import version as version_of

import ncnn
import numpy as np

_SPEC = importlib.util.spec_from_file_location(
    "enc_caffe_by_onnx", os.path.join(os.path.dirname(os.path.abspath(__file__)), "by_onnx.py")
)
assert _SPEC is not None and _SPEC.loader is not None
by_onnx = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(by_onnx)

#: Seconds after which a conversion is taken to hang.
LIMIT = 600
#: What pnnx writes.
WRITTEN = ("net.ncnn.param", "net.ncnn.bin")
#: Where a network was converted to, and its outputs: it may be loaded several times.
_MADE: dict = {}


def version():
    """Of the package."""
    return version_of("ncnn")


class Net:
    """A network in ncnn, computed in float32."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        key = _key(prototxt, caffemodel)
        made, names = _MADE.get(key, ("", []))
        if not os.path.isfile(os.path.join(made, WRITTEN[0])):
            model = onnx_model(prototxt, caffemodel, inputs)
            convert([model], folder, [inputs])
            made, names = _MADE[key] = folder, [port.name for port in model.graph.output]
        self._use(loaded(made, threads), names, inputs)

    def _use(self, net, names, inputs, first_in=0, first_out=0):
        self._net, self._names, self._at = net, names, (first_in, first_out)
        self._feed(inputs)

    @classmethod
    def part(cls, *use):
        """One of several networks that were converted as one; only its own layers run, since ncnn computes what is asked for."""
        made = cls.__new__(cls)
        made._use(*use)
        return made

    def _feed(self, inputs):
        self._inputs = [ncnn.Mat(np.ascontiguousarray(value[0])).clone() for value in inputs.values()]

    def run(self):
        """One pass."""
        run = self._net.create_extractor()
        for at, value in enumerate(self._inputs, self._at[0]):
            run.input(f"in{at}", value)
        found = []
        for at in range(self._at[1], self._at[1] + len(self._names)):
            status, value = run.extract(f"out{at}")
            if status:
                raise RuntimeError(f"ncnn gives no output {at} (status {status})")
            found.append(value)
        return found

    def outputs(self, inputs):
        """Outputs by name."""
        self._feed(inputs)
        return {name: np.array(value) for name, value in zip(self._names, self.run())}


def _key(*files):
    """What a converted network is known by."""
    return tuple((file, os.stat(file).st_mtime_ns) for file in files)


def together(networks, folder, threads):
    """Several networks (prototxt, caffemodel, inputs) converted as one: pnnx takes a third of a second to begin with."""
    inputs = [network[2] for network in networks]
    key = tuple(_key(*network[:2]) for network in networks)
    made, all_names = _MADE.get(key, ("", []))
    if not os.path.isfile(os.path.join(made, WRITTEN[0])):
        models = [onnx_model(*network) for network in networks]
        convert(models, folder, inputs)
        made, all_names = _MADE[key] = folder, [[port.name for port in model.graph.output] for model in models]
    net, found, at = loaded(made, threads), [], [0, 0]
    for names, own in zip(all_names, inputs):
        found.append(Net.part(net, names, own, *at))
        at = [at[0] + len(own), at[1] + len(names)]
    return found


def onnx_model(prototxt, caffemodel, inputs):
    """As ONNX."""
    if any(value.shape[0] != 1 for value in inputs.values()):
        raise RuntimeError("ncnn takes one image at a time")
    return by_onnx.onnx_model(prototxt, caffemodel)


def convert(models, folder, inputs):
    """Write ONNX networks as one of ncnn, with in0, in1, ... and out0, out1, ... in their turn."""
    file = os.path.join(folder, "net.onnx")
    with open(file, "wb") as handle:
        handle.write((by_onnx.merged(models) if len(models) > 1 else models[0]).SerializeToString())
    # The program beside its Python package, which would want PyTorch.
    program = os.path.join(os.path.dirname(os.path.dirname(ncnn.__file__)), "pnnx", "pnnx")
    shapes = ",".join(str(list(v.shape)).replace(" ", "") for own in inputs for v in own.values())
    done = subprocess.run(
        [program, file, "inputshape=" + shapes, "fp16=0"], capture_output=True, text=True, timeout=LIMIT, cwd=folder
    )
    if done.returncode or not os.path.isfile(os.path.join(folder, WRITTEN[0])):
        raise RuntimeError("pnnx: " + (done.stderr.strip() or "no message").splitlines()[-1])


def loaded(folder, threads):
    """A converted network."""
    net = ncnn.Net()
    option = net.opt
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = option.use_bf16_storage = False
    option.num_threads = threads
    param, weights = (os.path.join(folder, name) for name in WRITTEN)
    if net.load_param(param) or net.load_model(weights):
        raise RuntimeError("ncnn does not load what pnnx wrote")
    return net
