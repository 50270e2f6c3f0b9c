"""Write prototxt/vgg16/ and prototxt/alexnet/: layer names as in the public caffemodels (VGG_ILSVRC_16_layers, bvlc_alexnet)."""

from __future__ import annotations

from pathlib import Path

VGG = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P", 512, 512, 512, "P", 512, 512, 512, "P")
IMAGES = 1_281_167


def layer(name: str, kind: str, bottom: str, top: str, more: str = "") -> str:
    """One layer on one line."""
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {more} }}\n'.replace("  }", " }")


RATES = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
FILLERS = 'weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" }'


def conv(name: str, bottom: str, geometry: str) -> str:
    """A convolution and its ReLU in place."""
    text = layer(name, "Convolution", bottom, name, f"{RATES} convolution_param {{ {geometry} {FILLERS} }}")
    return text + layer("relu" + name.removeprefix("conv"), "ReLU", name, name)


def dense(name: str, bottom: str, outputs: int, last: bool) -> str:
    """A fully connected layer, with ReLU and dropout where it is not the last."""
    text = layer(
        name, "InnerProduct", bottom, name, f"{RATES} inner_product_param {{ num_output: {outputs} {FILLERS} }}"
    )
    if not last:
        number = name.removeprefix("fc")
        text += layer(f"relu{number}", "ReLU", name, name)
        text += layer(f"drop{number}", "Dropout", name, name, "dropout_param { dropout_ratio: 0.5 }")
    return text


def vgg16() -> str:
    """Layers conv1_1 to fc8."""
    text, bottom, stage, index = "", "data", 1, 1
    for item in VGG:
        if item == "P":
            text += layer(
                f"pool{stage}",
                "Pooling",
                bottom,
                f"pool{stage}",
                "pooling_param { pool: MAX kernel_size: 2 stride: 2 }",
            )
            bottom, stage, index = f"pool{stage}", stage + 1, 1
            continue
        name = f"conv{stage}_{index}"
        text += conv(name, bottom, f"num_output: {item} pad: 1 kernel_size: 3")
        bottom, index = name, index + 1
    return text + dense("fc6", bottom, 4096, False) + dense("fc7", "fc6", 4096, False) + dense("fc8", "fc7", 1000, True)


def alexnet() -> str:
    """Layers conv1 to fc8, with groups and local response normalisation."""
    lrn = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
    text = conv("conv1", "data", "num_output: 96 kernel_size: 11 stride: 4")
    text += layer("norm1", "LRN", "conv1", "norm1", lrn) + layer("pool1", "Pooling", "norm1", "pool1", pool)
    text += conv("conv2", "pool1", "num_output: 256 pad: 2 kernel_size: 5 group: 2")
    text += layer("norm2", "LRN", "conv2", "norm2", lrn) + layer("pool2", "Pooling", "norm2", "pool2", pool)
    text += conv("conv3", "pool2", "num_output: 384 pad: 1 kernel_size: 3")
    text += conv("conv4", "conv3", "num_output: 384 pad: 1 kernel_size: 3 group: 2")
    text += conv("conv5", "conv4", "num_output: 256 pad: 1 kernel_size: 3 group: 2")
    text += layer("pool5", "Pooling", "conv5", "pool5", pool)
    return (
        text + dense("fc6", "pool5", 4096, False) + dense("fc7", "fc6", 4096, False) + dense("fc8", "fc7", 1000, True)
    )


def data(phase: str, mean: str, crop: int, batch: int) -> str:
    """A Data layer of one phase."""
    name = "train" if phase == "TRAIN" else "val"
    mirror = "true" if phase == "TRAIN" else "false"
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}\n'
        f"  transform_param {{ mirror: {mirror} crop_size: {crop} {mean} }}\n"
        f'  data_param {{ source: "imagenet_{name}_lmdb" batch_size: {batch} backend: LMDB }} }}\n'
    )


END = (
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }\n'
    'layer { name: "accuracy" type: "Accuracy" bottom: "fc8" bottom: "label" top: "accuracy" include { phase: TEST } }\n'
    'layer { name: "accuracy_5" type: "Accuracy" bottom: "fc8" bottom: "label" top: "accuracy_5" include { phase: TEST } accuracy_param { top_k: 5 } }\n'
)


def solver(comment: str, rate: str, policy: str, epochs: int, per_epoch: int) -> str:
    """A solver of the paper's schedule."""
    return (
        f'# {comment}\nnet: "train_val.prototxt"\nbase_lr: {rate}\n{policy}momentum: 0.9\nweight_decay: 0.0005\n'
        f"max_iter: {epochs * per_epoch}\ntest_iter: 1000\ntest_interval: {per_epoch}\ndisplay: 100\nsnapshot: {per_epoch}\n"
        'snapshot_prefix: "snapshot"\n'
    )


def write(folder: Path, name: str, note: str, body: str, mean: str, crop: int, batch: int, solver_text: str) -> None:
    """train_val, deploy and solver."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f'name: "{name}"\n# {note}\n# Written by scripts/make_imagenet_prototxts.py.\n'
    train_val = head + data("TRAIN", mean, crop, batch) + data("TEST", mean, crop, 50) + body + END
    (folder / "train_val.prototxt").write_text(train_val)
    source = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: {crop} dim: {crop} }} }} }}\n'
    (folder / "deploy.prototxt").write_text(head + source + body + layer("prob", "Softmax", "fc8", "prob"))
    (folder / "solver.prototxt").write_text(solver_text)


def main() -> None:
    """Write both networks."""
    root = Path(__file__).resolve().parent.parent / "prototxt"
    vgg_epoch, alex_epoch = IMAGES // 32, IMAGES // 256
    write(
        root / "vgg16", "VGG-16", "The 16-layer network of ILSVRC-2014; images in BGR, mean of each channel subtracted.", vgg16(),
        "mean_value: 103.939 mean_value: 116.779 mean_value: 123.68", 224, 32,
        solver("The paper's fine-tuning: learning rate 1e-5, divided by 10 at epoch 4; batches of 32.", "0.00001",
               f'lr_policy: "multistep"\ngamma: 0.1\nstepvalue: {4 * vgg_epoch}\n', 5, vgg_epoch),
    )  # fmt: skip
    write(
        root / "alexnet", "AlexNet", "BVLC AlexNet; images in BGR, mean of each channel of ILSVRC-2012 subtracted.", alexnet(),
        "mean_value: 104 mean_value: 117 mean_value: 123", 227, 256,
        solver("The paper's fine-tuning: learning rate 1e-3, halved every 2 epochs to the 16th; batches of 256.", "0.001",
               f'lr_policy: "step"\ngamma: 0.5\nstepsize: {2 * alex_epoch}\n', 16, alex_epoch),
    )  # fmt: skip


if __name__ == "__main__":
    main()
