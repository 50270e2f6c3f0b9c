"""The paper's policies and ours: what ``make rivals`` measured on ResNet-56, and the command for networks that need ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from enc_caffe.experiments.rows import RIVALS
from enc_caffe.pipeline.reporting import read_run
from enc_caffe.report.paper import PaperResult
from enc_caffe.report.rows import Network, Run
from enc_caffe.search.methods import METHODS
from enc_caffe.search.own import PRUNING

#: The paper's words for the rivals whose label is another one.
WORDS = {"Heuristic [17]": "heuristic", "Asym.3D [11]": "asym"}
#: Make's targets by network and MACs.
TARGETS = {
    ("AlexNet", 0.375): "alexnet-37", ("AlexNet", 0.31): "alexnet-31", ("VGG-16", 0.25): "vgg16-25", ("VGG-16", 0.24): "vgg16-24",
    ("VGG-16", 0.2): "vgg16-20", ("ResNet-56", 0.5): "resnet56-50", ("ResNet-56", 0.55): "resnet56-55",
}  # fmt: skip
#: The target at which ResNet-56 stands beside every policy.
PART = 0.5


def rival_of(policy: str) -> Optional[str]:
    """Key of the rival that is this policy of the paper."""
    return WORDS.get(policy) or next((r.key for r in RIVALS if r.label == policy), None)


def measured(folder: Path) -> Optional[Run]:
    """What ``make rivals`` left in a folder, where it is ResNet-56's."""
    if not (folder / "experiment.json").is_file():
        return None
    run = read_run(folder)
    return run if run.network == "ResNet-56" else None


def on_resnet56(policy: str, run: Optional[Run]) -> str:
    """Loss of a policy on ResNet-56, and its MACs; else what is missing."""
    key = rival_of(policy)
    method = next((r.method for r in RIVALS if r.key == key), None)
    if method is not None and method not in METHODS:
        return "not in this version"
    if run is None or run.original is None or run.original.score is None:
        return "make rivals"
    found = [n for n in run.networks if n.method == key and n.score is not None]
    near: Optional[Network] = min(found, key=lambda n: abs((n.target or PART) - PART), default=None)
    if near is None or near.score is None:
        return "make rivals"
    lost = (run.original.score.percent() or 0.0) - (near.score.percent() or 0.0)
    return f"{lost:.2f} at {near.macs.get('paper', 0.0):.3f}"


def command_for(row: PaperResult) -> str:
    """How to have the row itself: the command for a user with the images."""
    rival = next((r for r in RIVALS if r.key == rival_of(row.policy)), None)
    name = TARGETS.get((row.network, row.macs))
    if name is None or rival is None or rival.method not in METHODS:
        return "-"
    key, method = rival.key, rival.method
    if method in PRUNING or rival.making is not None:
        # An experiment's network has the paper's schemes, and plain SVD.
        own = "" if row.network == "ResNet-56" else " MODEL= WEIGHTS= LMDB= TEST_LMDB="
        return f"make rivals METHOD={key} TARGETS={row.macs:g}{own}"
    images = "" if row.network == "ResNet-56" else " IMAGENET_LMDB= TEST_LMDB="
    return f"make {name} METHOD={method}{images}"
