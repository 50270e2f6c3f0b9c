"""The rows of ``make rivals``: which methods there are, and what each searches and makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.decomposition.policy import ASYMMETRIC_3D, BY_MAGNITUDE, THREE_C
from enc_caffe.errors import UsageError
from enc_caffe.pipeline.making import Making, of_quality
from enc_caffe.pipeline.quality import QUALITY
from enc_caffe.search.methods import METHODS


@dataclass(frozen=True)
class Rival:
    """One row.

    Attributes
    ----------
    key : str
        Of its files, and on the command line.
    label : str
        As the paper names it; the number in brackets is its reference.
    search : mapping
        Fields of :class:`SearchOptions`.
    making : Making, optional
        Where images have a say in the weights too: such a row goes through the whole of ``enc-caffe compress``.
    turns : tuple of tuple of str
        Schemes of several networks, each made of the one before; of ``making`` then.
    weights : Decomposition, optional
        How the weights of a searched plan's network are made, and of all that the search evaluates; None: plain SVD.
    """

    key: str
    label: str
    search: Mapping[str, Any]
    making: Optional[Making] = None
    weights: Optional[Decomposition] = None
    turns: tuple[tuple[str, ...], ...] = ()

    @property
    def method(self) -> str:
        """The search method."""
        return str(self.search["method"])


def _of_quality(key: str, label: str, name: str) -> Rival:
    """The row of ``enc-caffe compress --quality NAME``; without it a row that is missing."""
    if name not in QUALITY:
        return Rival(key, label, {"method": name})
    return Rival(key, label, *of_quality(name))


WEIGHTED = Making(Decomposition("weighted"))
#: In the order of the table. A method that this version has not is said to be missing, and joins as soon as it is there.
RIVALS: tuple[Rival, ...] = (
    Rival("uniform", "Uniform", {"method": "uniform"}),
    Rival("heuristic", "Heuristic, ours", {"method": "heuristic"}),
    Rival("vbmf", "VBMF ranks, scaled [13]", {"method": "vbmf"}),
    Rival("y_d", "Y-D et al. [13]", {"method": "y_d", "schemes": "all"}),
    Rival("energy", "PCA energy, greedy [16]", {"method": "energy"}),
    Rival(
        "asym", "Asym. 3-D [11]", {"method": "asym", "metric": "output", "schemes": ASYMMETRIC_3D},
        Making(Decomposition("asymmetric_relu")),
    ),
    _of_quality("pruning", "Channel pruning [1]", "channel_pruning"),
    Rival(
        "3c", "CP-3C [1]", {"method": "model", "metric": "output"}, Making(Decomposition("asymmetric", frozenset({"bias"}))),
        turns=THREE_C,
    ),
    Rival("amc", "AMC [4]", {"method": "amc", "schemes": BY_MAGNITUDE}, weights=Decomposition("weighted")),
    Rival("adc", "ADC [17]", {"method": "adc"}),
    Rival("ars", "ARS [18]", {"method": "ars"}),
    Rival("lagrangian", "Lagrangian, A_p", {"method": "lagrangian"}),
    Rival("map", "ENC-Map", {"method": "map"}),
    Rival("model", "ENC-Model", {"method": "model", "solver": "space"}),
    Rival("inf", "ENC-Inf", {"method": "inf", "solver": "space"}),
    Rival("exact", "exact optimum of A_p", {"method": "model"}),
    Rival("balf", "Lagrangian, whitened SVD (BALF's rule)", {"method": "lagrangian", "metric": "output"}, WEIGHTED),
    Rival("forms", "exact over all forms, output error", {"method": "model", "metric": "output", "schemes": "all"}, WEIGHTED),
    _of_quality("best", "--quality best", "best"),
)  # fmt: skip


def chosen(names: Sequence[str]) -> tuple[list[Rival], list[str]]:
    """The rivals of these names (all where there is none) whose method is there, and a line for each that is not."""
    known = {r.key: r for r in RIVALS}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise UsageError(f"METHOD={','.join(names)}: no rival '{unknown[0]}'; there is {', '.join(known)}")
    picked = [known[n] for n in names] if names else list(RIVALS)
    missing = [f"{r.label}: not in this version" for r in picked if r.method not in METHODS]
    return [r for r in picked if r.method in METHODS], missing
