"""Small networks with random weights, and random images, for tests that run real Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enc_caffe.caffe_io.caffemodel import expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.sources import from_arrays

DATA = (
    'layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }} transform_param {{ scale: 0.0078125 '
    'mean_value: 128 }} data_param {{ source: "none" batch_size: 4 backend: LMDB }} }}\n'
)
HEAD = 'name: "{name}"\n' + DATA.replace("{phase}", "TRAIN") + DATA.replace("{phase}", "TEST")


def conv(
    name: str, bottom: str, outputs: int, kernel: int = 3, groups: int = 1, bias: bool = True, stride: int = 1
) -> str:
    """A convolution with "same" padding."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ num_output: {outputs} '
        f"kernel_size: {kernel} pad: {kernel // 2} group: {groups} stride: {stride} bias_term: {str(bias).lower()} }} }}\n"
    )


def simple(name: str, kind: str, bottom: str, top: str = "", extra: str = "") -> str:
    """A layer of one bottom, in place without a top."""
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or bottom}" {extra} }}\n'


def normalised(name: str) -> str:
    """BatchNorm, Scale and ReLU in place."""
    return (
        simple(name + "_bn", "BatchNorm", name)
        + simple(name + "_scale", "Scale", name, extra="scale_param { bias_term: true }")
        + simple(name + "_relu", "ReLU", name)
    )


TAIL = (
    'layer {{ name: "pool" type: "Pooling" bottom: "{last}" top: "pool" pooling_param {{ pool: AVE global_pooling: true }} }}\n'
    'layer {{ name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param {{ num_output: 5 }} }}\n'
)
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'


def residual() -> str:
    """BatchNorms in place, a residual, a strided layer, a convolution that is left whole."""
    return (
        HEAD.format(name="residual") + conv("c0", "data", 8, bias=False) + normalised("c0")
        + conv("c1", "c0", 8, bias=False) + normalised("c1") + conv("c2", "c1", 8, bias=False)
        + simple("c2_bn", "BatchNorm", "c2") + simple("c2_scale", "Scale", "c2", extra="scale_param { bias_term: true }")
        + 'layer { name: "sum" type: "Eltwise" bottom: "c2" bottom: "c0" top: "sum" }\n' + simple("sum_relu", "ReLU", "sum")
        + conv("c3", "sum", 12, bias=False, stride=2) + normalised("c3") + conv("c4", "c3", 12, kernel=1) + normalised("c4")
        + TAIL.format(last="c4") + LOSS
    )  # fmt: skip


def grouped(loss: str = LOSS) -> str:
    """Groups, biases, no BatchNorm, pooling and LRN between."""
    return (
        HEAD.format(name="grouped") + conv("g0", "data", 8) + simple("r0", "ReLU", "g0")
        + simple("norm", "LRN", "g0", "norm", "lrn_param { local_size: 3 }") + conv("g1", "norm", 12, 5, groups=2)
        + simple("r1", "ReLU", "g1") + conv("g2", "g1", 12, groups=2) + simple("r2", "ReLU", "g2")
        + TAIL.format(last="g2") + loss
    )  # fmt: skip


def write_net(folder: Path, text: str, seed: int = 0) -> tuple[Path, Path]:
    """Prototxt and caffemodel with random weights that keep the scale of what passes through."""
    folder.mkdir(parents=True, exist_ok=True)
    model, weights = folder / "train_val.prototxt", folder / "net.caffemodel"
    model.write_text(text)
    network = describe(read_net(model), (3, 12, 12))
    rng = np.random.default_rng(seed)

    def records():
        for x in network.layers:
            if x.has_weights:
                arrays = [rng.standard_normal(s, np.float32) for s in expected_shapes(x)]
                arrays[0] *= np.float32(np.sqrt(2 / np.prod(arrays[0].shape[1:])))
                yield layer_record(x.name, x.type, arrays)
            elif x.type == "BatchNorm":
                channels = x.bottom_shapes[0][1]
                yield layer_record(
                    x.name, x.type, [rng.normal(0, 0.1, channels), rng.uniform(0.5, 2, channels), np.ones(1)]
                )
            elif x.type == "Scale":
                channels = x.bottom_shapes[0][1]
                yield layer_record(x.name, x.type, [rng.uniform(0.5, 1.5, channels), rng.normal(0, 0.2, channels)])

    with open(weights, "wb") as handle:
        write_caffemodel(handle, network.name, records())
    return model, weights


def write_images(path: Path, number: int, seed: int = 0, labels: bool = True) -> Path:
    """Smooth random images, 3 x 12 x 12."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (number, 3, 4, 4))
    pixels = np.clip(small.repeat(3, axis=2).repeat(3, axis=3) + rng.normal(0, 20, (number, 3, 12, 12)), 0, 255)
    marks = rng.integers(0, 5, number) if labels else np.full(number, -1)
    write_lmdb(path, from_arrays(pixels.astype(np.uint8), marks.astype(np.int64))[1])
    return path


def with_zero(weights: Path, path: Path, name: str) -> Path:
    """A copy of a caffemodel in which one layer's blobs are 0."""
    from enc_caffe.caffe_io.proto import caffe_pb2

    net = caffe_pb2().NetParameter()
    net.ParseFromString(Path(weights).read_bytes())
    for layer in net.layer:
        if layer.name == name:
            for blob in layer.blobs:
                blob.data[:] = [0.0] * len(blob.data)
    path.write_bytes(net.SerializeToString())
    return path


def behind_argmax() -> str:
    """A convolution whose output only an ArgMax reads, beside one that goes on."""
    return (
        HEAD.format(name="argmax") + conv("a", "data", 8) + simple("ra", "ReLU", "a") + conv("lost", "a", 8)
        + 'layer { name: "most" type: "ArgMax" bottom: "lost" top: "most" argmax_param { axis: 1 } }\n' + conv("b", "a", 1)
        + 'layer { name: "sum" type: "Eltwise" bottom: "b" bottom: "most" top: "sum" }\n' + conv("c", "sum", 8)
        + TAIL.format(last="c") + LOSS
    )  # fmt: skip
