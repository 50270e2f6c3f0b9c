"""Write prototxt/resnet56/: the paper's ResNet-56, layer names as in its public caffemodel."""

from __future__ import annotations

from pathlib import Path

HEAD = """name: "ResNet-56"
# The paper's ResNet-56 for CIFAR-10: 55 3x3 convolutions, 2x2 projections, no ReLU after the sums.
# Written by scripts/make_resnet56_prototxt.py; names match the public caffemodel.
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TRAIN }
  # Images padded by 4 on every side (enc-caffe data ... --pad 4), cropped at random.
  transform_param { mean_value: 128 scale: 0.0078125 crop_size: 32 mirror: true }
  data_param { source: "cifar10_train_lmdb" batch_size: 200 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TEST }
  transform_param { mean_value: 128 scale: 0.0078125 crop_size: 32 }
  data_param { source: "cifar10_test_lmdb" batch_size: 50 backend: LMDB }
}
"""

TAIL = """layer { name: "global_avg_pool" type: "Pooling" bottom: "%s" top: "global_avg_pool" pooling_param { pool: AVE global_pooling: true } }
layer {
  name: "fc" type: "InnerProduct" bottom: "global_avg_pool" top: "fc"
  param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 10 weight_filler { type: "msra" } bias_filler { type: "constant" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "Accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "Accuracy" include { phase: TEST } }
"""

SOLVER = """# The paper's fine-tuning: learning rate 1e-3, divided by 10 at epochs 16, 24 and 32 (250 iterations of 200 images each).
net: "train_val.prototxt"
type: "Nesterov"
momentum: 0.9
weight_decay: 0.0005
base_lr: 0.001
lr_policy: "multistep"
gamma: 0.1
stepvalue: 4000
stepvalue: 6000
stepvalue: 8000
max_iter: 10000
test_iter: 200
test_interval: 250
display: 50
snapshot: 1000
snapshot_prefix: "snapshot"
"""


def conv(name: str, bottom: str, outputs: int, kernel: int, pad: int, stride: int, relu: bool) -> str:
    """A convolution with its batch normalisation, scale and, in a block's first half, ReLU."""
    text = f"""layer {{
  name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  param {{ lr_mult: 1 decay_mult: 1 }}
  convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {pad} stride: {stride} weight_filler {{ type: "msra" }} }}
}}
layer {{
  name: "{name}_bn" type: "BatchNorm" bottom: "{name}" top: "{name}"
  param {{ lr_mult: 0 decay_mult: 0 }} param {{ lr_mult: 0 decay_mult: 0 }} param {{ lr_mult: 0 decay_mult: 0 }}
}}
layer {{ name: "{name}_scale" type: "Scale" bottom: "{name}" top: "{name}" scale_param {{ bias_term: true }} }}
"""
    if relu:
        text += f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
    return text


def body() -> tuple[str, str]:
    """All blocks, and the blob that the last one makes."""
    text, blob = conv("first_conv", "data", 16, 3, 1, 1, True), "first_conv"
    for group, width in enumerate((16, 32, 64)):
        for block in range(9):
            base, stride = f"group{group}_block{block}", 2 if group and not block else 1
            text += conv(f"{base}_conv0", blob, width, 3, 1, stride, True)
            text += conv(f"{base}_conv1", f"{base}_conv0", width, 3, 1, 1, False)
            shortcut = blob
            if stride == 2:
                shortcut = f"{base}_proj"
                text += conv(shortcut, blob, width, 2, 0, 2, False)
            text += (
                f'layer {{ name: "{base}_sum" type: "Eltwise" bottom: "{base}_conv1" bottom: "{shortcut}" '
                f'top: "{base}_sum" eltwise_param {{ operation: SUM }} }}\n'
            )
            blob = f"{base}_sum"
    return text, blob


def main() -> None:
    """Write train_val, deploy and solver."""
    folder = Path(__file__).resolve().parent.parent / "prototxt" / "resnet56"
    layers, last = body()
    tail = TAIL % last
    (folder / "train_val.prototxt").write_text(HEAD + layers + tail)
    head = 'name: "ResNet-56"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }\n'
    prob = 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
    (folder / "deploy.prototxt").write_text(head + layers + tail.split('layer { name: "loss"')[0] + prob)
    (folder / "solver.prototxt").write_text(SOLVER)


if __name__ == "__main__":
    main()
