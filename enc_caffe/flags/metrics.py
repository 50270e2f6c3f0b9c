"""``enc-caffe metrics``: layer metrics of a network; with images, measured accuracy too."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_dense, add_early, add_model, add_workers
from enc_caffe.flags.feed import add_feed
from enc_caffe.flags.images import add_images
from enc_caffe.flags.searching import add_format, add_schemes


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "metrics", help="singular values of every layer, and with --lmdb its measured accuracy by rank"
    )
    add_model(p)
    add_images(p, "a part of the training images to measure on (enc-caffe data partial)")
    p.add_argument("--samples", default="vbmf", help="vbmf (default), even:N, or fractions of r_max such as 0.1,0.5")
    p.add_argument("--accuracy", type=int, default=1, metavar="K", help="top-1 (default) or top-5 is the metric")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    p.add_argument("--out", type=Path, required=True, metavar="METRICS.json")
    p.add_argument(
        "--decomposition", choices=("svd", "weighted", "fisher"), default="svd",
        help="factors that are measured: of plain SVD (default), or of least error of the layer's output",
    )  # fmt: skip
    p.add_argument(
        "--measure", choices=("all", "output", "fisher"), default="all",
        help="all (default): accuracy and divergence, a pass for every form; output: what part of its output's power each layer "
        "loses, from second moments alone (with --decomposition weighted); fisher: the divergence of each form by gradients, one "
        "backward pass for each direction of the scores, whatever the number of forms",
    )  # fmt: skip
    p.add_argument(
        "--multiple_of", type=int, default=1, metavar="N",
        help="look at multiples of N for forms of several ranks and for pruned widths (for search --multiple_of N)",
    )  # fmt: skip
    add_dense(p)
    add_early(p)
    add_schemes(p)
    add_format(p)
    add_feed(p)
    add_workers(p)
