"""A PyTorch copy of a network that export.py wrote, held against Caffe's scores; no Caffe and no enc-caffe here.

Layers: Convolution, BatchNorm with Scale, ReLU, Eltwise (sum), global average Pooling, InnerProduct: what residual networks are made of.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

#: Largest difference of a score from Caffe's, as a part of the largest score.
AGREES = 1e-4


class Copy(nn.Module):
    """The network; one module for each layer with weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.about = json.loads((Path(folder) / "network.json").read_text())
        blobs = np.load(Path(folder) / "weights.npz")
        self.parts = nn.ModuleDict()
        self.plan: list[tuple[str, str, list[str], str]] = []
        channels: dict[str, int] = {self.about["data"]: 3}
        for layer in self.about["layers"]:
            name, kind, bottom, top = layer["name"], layer["type"], layer["bottom"], layer["top"]
            own = [torch.from_numpy(blobs[f"{name}/{i}"]) for i in range(3) if f"{name}/{i}" in blobs]
            inputs = channels[bottom[0]]
            channels[top] = layer.get("outputs", inputs)
            if kind == "Convolution":
                made = nn.Conv2d(
                    inputs, layer["outputs"], tuple(layer["kernel"]) * (2 if len(layer["kernel"]) == 1 else 1), layer["stride"][0],
                    layer["pad"][0], groups=layer["group"], bias=layer["bias"],
                )  # fmt: skip
            elif kind == "InnerProduct":
                made = nn.Linear(inputs, layer["outputs"], layer["bias"])
            elif kind == "BatchNorm":
                made = nn.BatchNorm2d(inputs, layer["eps"])
                factor = own[2].reshape(()) if own[2].reshape(()) != 0 else torch.tensor(1.0)
                made.running_mean.copy_(own[0].reshape(-1) / factor)
                made.running_var.copy_(own[1].reshape(-1) / factor)
            elif kind == "Scale":
                # The BatchNorm before it takes it up.
                (norm,) = [n for n, k, _, t in self.plan[-1:] if k == "BatchNorm" and t == bottom[0]]
                made = self.parts[norm]
            elif kind in ("ReLU", "Eltwise") or (kind == "Pooling" and layer["average"] and layer["whole"]):
                self.plan.append((name, kind, bottom, top))
                continue
            else:
                raise SystemExit(f"torch_net: layer '{name}': type {kind} is not among those that this copy knows")
            if kind != "BatchNorm":
                made.weight.data.copy_(own[0].reshape(made.weight.shape))
                if made.bias is not None:
                    made.bias.data.copy_(own[1].reshape(-1))
            if kind != "Scale":
                self.parts[name.replace(".", "_")] = made
                self.plan.append((name, kind, bottom, top))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (n, classes)."""
        blobs = {self.about["data"]: images}
        for name, kind, bottom, top in self.plan:
            x = blobs[bottom[0]]
            if kind == "ReLU":
                x = torch.relu(x)
            elif kind == "Eltwise":
                x = x + blobs[bottom[1]]
            elif kind == "Pooling":
                x = x.mean(dim=(2, 3))
            else:
                x = self.parts[name.replace(".", "_")](x)
            blobs[top] = x
        return blobs[self.about["scores"]]


def load(folder: Path) -> Copy:
    """The copy, which must give Caffe's scores."""
    torch.manual_seed(0)
    copy, probe = Copy(folder).eval(), np.load(Path(folder) / "choose.npz")
    wanted = probe["scores"]
    with torch.no_grad():
        found = copy(torch.from_numpy(probe["images"][: len(wanted)])).numpy()
    off = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    print(f"largest difference from Caffe's scores: {off:.1e} of the largest one, on {len(wanted)} images")
    if off > AGREES:
        raise SystemExit(f"torch_net: {off:.1e} is more than {AGREES}: the copy is another network")
    return copy


def images_of(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as the network is fed them, and labels."""
    data = np.load(Path(folder) / f"{name}.npz")
    return torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])


def right(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int = 100) -> dict[str, int]:
    """Images whose class is the first, and among the first five."""
    found = {"1": 0, "5": 0}
    with torch.no_grad():
        for at in range(0, len(images), batch):
            best = net(images[at : at + batch]).topk(5, dim=1).indices == labels[at : at + batch, None]
            found["1"] += int(best[:, 0].sum())
            found["5"] += int(best.any(dim=1).sum())
    return found


def costs(net: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """MACs for one image, and weights, of all convolutions and linear layers, without biases."""
    macs, weights, hooks = 0, 0, []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs, weights
        weights += module.weight.numel()
        macs += module.weight.numel() * (output.shape[2] * output.shape[3] if output.dim() == 4 else 1)

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(count))
    with torch.no_grad():
        net(image[None])
    for hook in hooks:
        hook.remove()
    return macs, weights


def write(
    out: Path,
    folder: Path,
    key: str,
    label: str,
    target: float,
    net: nn.Module,
    seconds: float,
    versions: dict[str, str],
) -> None:
    """A row for the table of ``make rivals``."""
    about = json.loads((Path(folder) / "network.json").read_text())
    images, labels = images_of(folder, "test")
    macs, weights = costs(net, images[0])
    whole, counted = about["all"], about["counted"]
    started = time.process_time()
    correct = right(net, images, labels)
    row = {
        "format": "enc-caffe-peer/1", "method": key, "label": label, "target": target, "files": about["files"], "versions": versions,
        "macs": {"exact": 1.0 - (whole["macs"] - macs) / counted["macs"]}, "parameters": 1.0 - (whole["parameters"] - weights) / counted["parameters"],
        "search": {"seconds": seconds}, "score": {"images": len(images), "correct": correct},
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{key}-{target:g}.json").write_text(json.dumps(row, indent=1) + "\n")
    print(
        f"{label} at {target:g}: top-1 {100 * correct['1'] / len(images):.2f}, {row['macs']['exact']:.4f} of the MACs, {seconds:.1f} s of search; "
        f"tested in {time.process_time() - started:.0f} s"
    )
