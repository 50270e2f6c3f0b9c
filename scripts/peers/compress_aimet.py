"""AIMET's spatial SVD on the network that export.py wrote: ratios by its own greedy search, at parts of the MACs.

    python scripts/peers/compress_aimet.py DIR --targets 0.5,0.3 --choose 300 --out outputs/rivals/peers

Needs ``torch`` and ``aimet-torch`` in an environment of its own. The package evaluates every layer at ``--candidates`` ratios on the images that
choose (kept in ``--work``, for other targets too), and takes ratios of equal accuracy until the network has the target. Nothing is trained.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Callable

import torch
from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from aimet_torch.compress import ModelCompressor
from aimet_torch.defs import SpatialSvdParameters
from torch import nn
from torch_net import costs, images_of, load, right, write

#: Where AIMET leaves what it measured, in the folder that it runs in.
SCORES = Path("data/greedy_selection_eval_scores_dict.pkl")
#: Times that less is asked for.
TRIES = 8


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--targets", default="0.5,0.3")
    parser.add_argument("--choose", type=int, default=300, help="images of an evaluation (default: 300)")
    parser.add_argument("--candidates", type=int, default=10, help="ratios of a layer (default: 10, as AIMET's)")
    parser.add_argument("--work", type=Path, default=Path("outputs/rivals/aimet"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder, out = args.folder.resolve(), args.out.resolve()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    whole = load(folder)
    images, labels = (x[: args.choose] for x in images_of(folder, "choose"))
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    before = whole.about["all"]["macs"], whole.about["counted"]["macs"]
    # As in the paper, the first layer and the classifier stay whole.
    kept = [m for m in whole.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    kept = [kept[0], *(m for m in kept if isinstance(m, nn.Linear))]

    def accuracy(net: nn.Module, _iterations: int, use_cuda: bool = False) -> float:
        return right(net, images, labels)["1"] / len(images)

    versions = {"torch": torch.__version__, "aimet-torch": version("aimet-torch")}
    spent = 0.0
    for target in map(float, args.targets.split(",")):
        start = time.process_time()
        allowed = before[0] - (1.0 - target) * before[1]
        asked = allowed / before[0]
        for _ in range(TRIES):
            net = compressed(whole, kept, asked, args.candidates, accuracy, (1, *images.shape[1:]))
            off = costs(net, images[0])[0] - allowed
            if off <= 0:
                break
            # Its own count of a pair's MACs is another where strides are split: less is asked for by what was too much.
            asked -= off / before[0]
        else:
            raise SystemExit(f"compress_aimet: AIMET does not come down to {target} of the MACs")
        # What it measured for the first target serves the others.
        spent = max(spent, time.process_time() - start)
        write(out, folder, "aimet", "AIMET, spatial SVD, greedy", target, copy.deepcopy(net).eval(), spent, versions)


def compressed(
    whole: nn.Module,
    kept: list[nn.Module],
    ratio: float,
    candidates: int,
    accuracy: Callable[..., float],
    shape: tuple[int, ...],
) -> nn.Module:
    """AIMET's network of a part of all MACs, by what it has measured before where it has."""
    scores = str(SCORES) if SCORES.exists() else None
    greedy = GreedySelectionParameters(Decimal(str(round(ratio, 6))), candidates, saved_eval_scores_dict=scores)
    automatic = SpatialSvdParameters.AutoModeParams(greedy, modules_to_ignore=kept)
    parameters = SpatialSvdParameters(SpatialSvdParameters.Mode.auto, automatic)
    return ModelCompressor.compress_model(
        whole, accuracy, None, shape, CompressionScheme.spatial_svd, CostMetric.mac, parameters
    )[0]


if __name__ == "__main__":
    main()
