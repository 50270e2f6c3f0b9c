"""Stock Caffe itself, as this installation has it."""

import os

import numpy as np

from enc_caffe.extensions import load_extensions
from enc_caffe.installation import find_caffe
from enc_caffe.workers.executor import add_pycaffe
from enc_caffe.workers.pycaffe import layer_kernels, load_net

add_pycaffe(str(find_caffe().python_dir))
load_extensions()


def version():
    """Of Caffe's source, and what computes its layers: another number of patches may compute the same in another time."""
    about = find_caffe().about
    patches = f" with {len(about['patches'])} patches" if about.get("patches") else ""
    return f"{str(about.get('commit') or about.get('version') or 'unknown')[:7]}{patches}, layers by {layer_kernels()}"


class Net:
    """A network in Caffe."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        os.environ["GLOG_MINLOGLEVEL"] = "2"
        with open(prototxt, encoding="utf-8") as handle:
            self._net = load_net(handle.read(), caffemodel)
        self._last = len(self._net.layers) - 1
        self._feed(inputs)

    def _feed(self, inputs):
        for name, value in inputs.items():
            self._net.blobs[name].reshape(*value.shape)
            self._net.blobs[name].data[...] = value
        self._net.reshape()

    def run(self):
        """One pass."""
        self._net._forward(0, self._last)

    def outputs(self, inputs):
        """Outputs by blob."""
        self._feed(inputs)
        self.run()
        return {name: np.array(self._net.blobs[name].data) for name in self._net.outputs}
