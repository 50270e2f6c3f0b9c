"""Write prototxt/resnet50/deploy.prototxt: a ResNet-50 for images of 224x224, bottlenecks with projection shortcuts.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (CVPR 2016), table 1; the stride stands in a block's first
1x1 convolution, as there.
"""

from __future__ import annotations

from pathlib import Path

HEAD = """name: "ResNet-50"
# Bottlenecks of 1x1, 3x3 and 1x1 convolutions, projection shortcuts where the width changes.
# Written by scripts/make_resnet50_prototxt.py.
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }
"""
TAIL = """layer { name: "pool5" type: "Pooling" bottom: "%s" top: "pool5" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc1000" type: "InnerProduct" bottom: "pool5" top: "fc1000" inner_product_param { num_output: 1000 weight_filler { type: "msra" } } }
layer { name: "prob" type: "Softmax" bottom: "fc1000" top: "prob" }
"""
#: Blocks of each stage, and the width of their 3x3 convolutions.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def conv(name: str, bottom: str, outputs: int, kernel: int, stride: int, relu: bool) -> str:
    """A convolution with its batch normalisation, scale and, where asked for, ReLU."""
    text = (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ num_output: {outputs} '
        f'kernel_size: {kernel} pad: {kernel // 2} stride: {stride} bias_term: false weight_filler {{ type: "msra" }} }} }}\n'
        f'layer {{ name: "{name}_bn" type: "BatchNorm" bottom: "{name}" top: "{name}" }}\n'
        f'layer {{ name: "{name}_scale" type: "Scale" bottom: "{name}" top: "{name}" scale_param {{ bias_term: true }} }}\n'
    )
    return text + (f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n' if relu else "")


def text() -> str:
    """The whole network."""
    found = HEAD + conv("conv1", "data", 64, 7, 2, True)
    found += 'layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }\n'
    blob = "pool1"
    for stage, (blocks, width) in enumerate(STAGES, 2):
        for block in range(blocks):
            base, stride = f"res{stage}{chr(ord('a') + block)}", 2 if stage > 2 and not block else 1
            shortcut = blob
            if not block:
                shortcut = f"{base}_branch1"
                found += conv(shortcut, blob, 4 * width, 1, stride, False)
            a, b, c = (f"{base}_branch2{x}" for x in "abc")
            found += (
                conv(a, blob, width, 1, stride, True)
                + conv(b, a, width, 3, 1, True)
                + conv(c, b, 4 * width, 1, 1, False)
            )
            found += f'layer {{ name: "{base}" type: "Eltwise" bottom: "{shortcut}" bottom: "{c}" top: "{base}" }}\n'
            found += f'layer {{ name: "{base}_relu" type: "ReLU" bottom: "{base}" top: "{base}" }}\n'
            blob = base
    return found + TAIL % blob


def main() -> None:
    """Write the file."""
    folder = Path(__file__).resolve().parent.parent / "prototxt" / "resnet50"
    folder.mkdir(exist_ok=True)
    (folder / "deploy.prototxt").write_text(text())


if __name__ == "__main__":
    main()
