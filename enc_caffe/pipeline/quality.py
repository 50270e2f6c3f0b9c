"""What ``--quality`` stands for: flags of ``compress`` under one name."""

from __future__ import annotations

from typing import Any

from enc_caffe.form import CHANNEL_PRUNING

#: ``--refine`` by so many networks, unless a long fit follows: those of ResNet-56 come to the same without.
AUTO, REFINED = "auto", 6
#: By the names of the command's flags.
QUALITY: dict[str, dict[str, Any]] = {
    "best": {
        "method": "model", "metric": "fisher", "decomposition": "asymmetric_fisher", "recalibrate": frozenset({"auto"}),
        "reconstruct": "blocks", "refine": AUTO, "dense": True, "schemes": "all",
    },
    "max": {
        "method": "model", "metric": "fisher", "decomposition": "asymmetric_fisher", "recalibrate": frozenset({"auto"}),
        "reconstruct": "blocks", "refine": AUTO, "dense": True, "schemes": "all", "fit_train": True, "distill_iterations": 1000,
    },
    "paper": {
        "preset": "published", "stride_placement": "published", "decomposition": "svd", "recalibrate": frozenset(), "reconstruct": "none",
        "refine": 0, "dense": False, "schemes": "paper",
    },
    "channel_pruning": {
        "method": "uniform", "metric": "pca", "decomposition": "asymmetric", "recalibrate": frozenset({"bias"}), "refine": 0,
        "reconstruct": "none", "dense": False, "schemes": CHANNEL_PRUNING,
    },
}  # fmt: skip
