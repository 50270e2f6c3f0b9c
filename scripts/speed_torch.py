"""PyTorch's side of ``make bench``: a process that holds one network and runs it on request, as bench_conv's processes do.

Standard input begins with one line of JSON: ``layers`` (name, type, bottoms, tops and parameters of each), ``input`` and ``backward``.
It imports nothing of enc-caffe, which need not be there. Forward passes are of a traced module, optimized for inference.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """A Caffe network's layers in PyTorch; what it computes depends on the layers alone, weights are random."""

    def __init__(self, layers, shape):
        super().__init__()
        self.layers, self.modules_of = layers, nn.ModuleList()
        shapes = {}
        x = {"data": torch.zeros(shape)}
        for layer in layers:
            made = self._module(layer, x.get(layer["bottoms"][0]) if layer["bottoms"] else None)
            self.modules_of.append(made)
            if layer["type"] != "SoftmaxWithLoss":
                with torch.no_grad():
                    self._run(layer, made, x)
        del shapes

    @staticmethod
    def _module(layer, x):
        kind, p = layer["type"], layer["parameters"]
        if kind == "Convolution":
            return nn.Conv2d(
                x.shape[1], p["num_output"], p["kernel"], p["stride"], p["pad"], p["dilation"], p["group"], p["bias"]
            )
        if kind == "InnerProduct":
            return nn.Linear(x[0].numel(), p["num_output"])
        if kind == "BatchNorm":
            # Caffe's Scale behind it is the affine part.
            return nn.BatchNorm2d(x.shape[1])
        if kind == "ReLU":
            return nn.ReLU(inplace=True)
        if kind == "Dropout":
            return nn.Dropout(0.5)
        if kind == "LRN":
            return nn.LocalResponseNorm(5)
        return nn.Identity()

    @staticmethod
    def _run(layer, module, x):
        kind, p = layer["type"], layer["parameters"]
        inputs = [x[b] for b in layer["bottoms"] if b in x]
        if kind == "InnerProduct":
            y = module(inputs[0].flatten(1))
        elif kind == "Eltwise":
            y = inputs[0] + inputs[1]
        elif kind == "Concat":
            y = torch.cat(inputs, 1)
        elif kind == "Softmax":
            y = torch.softmax(inputs[0].flatten(1), 1)
        elif kind == "SoftmaxWithLoss":
            y = functional.cross_entropy(inputs[0].flatten(1), torch.zeros(len(inputs[0]), dtype=torch.int64))
        elif kind == "Pooling" and p["global"]:
            y = functional.adaptive_avg_pool2d(inputs[0], 1)
        elif kind == "Pooling":
            pooled = functional.avg_pool2d if p["average"] else functional.max_pool2d
            y = pooled(inputs[0], p["kernel"], p["stride"], p["pad"], ceil_mode=True)
        else:
            y = module(inputs[0])
        for top in layer["tops"]:
            x[top] = y
        return y

    def forward(self, data):
        x = {"data": data}
        for layer, module in zip(self.layers, self.modules_of):
            y = self._run(layer, module, x)
        return y


def main():
    """Serve."""
    threads, clock = int(sys.argv[1]), time.process_time if sys.argv[2] == "cpu" else time.perf_counter
    torch.set_num_threads(threads)
    asked = json.loads(sys.stdin.readline())
    backward, shape = asked["backward"], asked["input"]
    net = Net(asked["layers"], shape)
    data = torch.randn(shape)
    if backward:
        net.train()
        run = net
    else:
        net.eval()
        with torch.no_grad():
            run = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, data)))

    def once():
        if backward:
            net.zero_grad()
            run(data).backward()
        else:
            with torch.no_grad():
                run(data)

    # The first passes compile.
    for _ in range(3):
        once()
    print(f"PyTorch {torch.__version__.split('+')[0]}", flush=True)
    for line in sys.stdin:
        repeat = int(line.split()[1])
        start = clock()
        for _ in range(repeat):
            once()
        print((clock() - start) / repeat / shape[0], flush=True)


if __name__ == "__main__":
    main()
