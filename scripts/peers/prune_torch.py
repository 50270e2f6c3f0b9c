"""Torch-Pruning (DepGraph) on the network that export.py wrote: by weight magnitude and by group norm, at parts of the MACs.

    python scripts/peers/prune_torch.py DIR --targets 0.5,0.3 --out outputs/rivals/peers

Needs ``torch`` and ``torch-pruning`` in an environment of its own. No images have a say and nothing is trained: the two rules as the package's
users call them, one step, the same part of every layer or (``--globally``) the least important channels of the whole network. The part is
found by bisection, so that the network has at most the target.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
import torch_pruning as tp
from torch import nn
from torch_net import costs, images_of, load, write

RULES = {"tp-magnitude": "Torch-Pruning, magnitude", "tp-group": "Torch-Pruning, group norm"}


def pruned(whole: nn.Module, image: torch.Tensor, rule: str, part: float, globally: bool) -> nn.Module:
    """A copy without this part of its channels."""
    net = copy.deepcopy(whole)
    grouped = {} if rule == "tp-group" else {"group_reduction": "first"}
    importance = (
        tp.importance.GroupMagnitudeImportance(p=2)
        if rule == "tp-group"
        else tp.importance.MagnitudeImportance(p=1, **grouped)
    )
    last = [m for m in net.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.MetaPruner(
        net, image[None], importance=importance, pruning_ratio=part, ignored_layers=last, global_pruning=globally
    )
    pruner.step()
    return net


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--targets", default="0.5,0.3")
    parser.add_argument("--globally", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = load(args.folder)
    image = images_of(args.folder, "choose")[0][0]
    before = whole.about["all"]["macs"], whole.about["counted"]["macs"]
    for target in map(float, args.targets.split(",")):
        for rule, label in RULES.items():
            start = time.process_time()
            allowed = before[0] - (1.0 - target) * before[1]
            low, high, found = 0.0, 0.99, None
            for _ in range(8):
                middle = (low + high) / 2
                net = pruned(whole, image, rule, middle, args.globally)
                if costs(net, image)[0] <= allowed:
                    high, found = middle, net
                else:
                    low = middle
            if found is None:
                raise SystemExit(f"prune_torch: {rule} does not come down to {target} of the MACs")
            seconds = time.process_time() - start
            key, words = (f"{rule}-global", f"{label}, global") if args.globally else (rule, label)
            versions = {"torch": torch.__version__, "torch-pruning": tp.__version__}
            write(args.out, args.folder, key, words, target, found.eval(), seconds, versions)


if __name__ == "__main__":
    main()
