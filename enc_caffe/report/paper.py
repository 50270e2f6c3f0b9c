"""What the paper reports: its Tables I to IV as data (CVPR 2019; the same numbers stand in its text, section VI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

#: Top-1 and top-5 accuracy in percent of the uncompressed networks (Table I).
BASELINES: dict[str, tuple[float, Optional[float]]] = {
    "AlexNet": (56.6, 79.9),
    "VGG-16": (70.6, 89.9),
    "ResNet-56": (93.1, None),
}

#: Words of the paper for a method of ours.
METHODS = {
    "uniform": "Uniform", "inf": "ENC-Inf", "model": "ENC-Model", "map": "ENC-Map", "adc": "ADC [17]", "ars": "ARS [18]",
    "y_d": "Y-D et al. [13]",
}  # fmt: skip


@dataclass(frozen=True)
class PaperResult:
    """One row of a table of the paper.

    Attributes
    ----------
    table : str
        ``I`` to ``IV``.
    network : str
    macs : float
        Part of the original's MACs.
    policy : str
        As the paper names it; the number in brackets is its reference.
    before, after : pair of float or None
        Loss of top-1 and of top-5 accuracy in percentage points, without and with fine-tuning; below 0 is a gain.
    search : str
        Search time and on what.
    epochs : float, optional
        Of fine-tuning, where the table says so (Table IV).
    """

    table: str
    network: str
    macs: float
    policy: str
    before: tuple[Optional[float], Optional[float]] = (None, None)
    after: tuple[Optional[float], Optional[float]] = (None, None)
    search: str = ""
    epochs: Optional[float] = None

    @property
    def method(self) -> Optional[str]:
        """Our word for the policy; None for other people's."""
        return next((ours for ours, theirs in METHODS.items() if theirs == self.policy), None)


_ALEX, _VGG, _RES = "AlexNet", "VGG-16", "ResNet-56"
RESULTS: tuple[PaperResult, ...] = (
    PaperResult("I", _ALEX, 0.375, "Y-D et al. [13]", after=(None, 1.6)),
    PaperResult("I", _ALEX, 0.375, "ENC-Inf", after=(-0.1, -0.2), search="3 min, 4 GPUs"),
    PaperResult("I", _ALEX, 0.375, "ENC-Model", after=(-0.1, -0.2), search="1 min, CPU"),
    PaperResult("I", _VGG, 0.25, "Uniform", (29.9, 23.6), (0.8, 0.5)),
    PaperResult("I", _VGG, 0.25, "Heuristic [17]", (None, 11.7)),
    PaperResult("I", _VGG, 0.25, "ADC [17]", (None, 9.2), search="4 h, 8 GPUs"),
    PaperResult("I", _VGG, 0.25, "ARS [18]", (13.0, 9.1), (-0.3, -0.1), "7 h, 4 GPUs"),
    PaperResult("I", _VGG, 0.25, "ENC-Inf", (10.7, 7.3), (-0.6, -0.2), "5 min, 4 GPUs"),
    PaperResult("I", _VGG, 0.25, "ENC-Model", (11.3, 7.9), (-0.7, -0.2), "3 min, CPU"),
    PaperResult("I", _VGG, 0.25, "ENC-Map", (14.5, 10.2), (-0.2, -0.1), "3.4 s, CPU"),
    PaperResult("I", _RES, 0.5, "Uniform", (12.7, None), (0.2, None)),
    PaperResult("I", _RES, 0.5, "AMC [4]", (2.7, None), (0.9, None), "1 h, GPU"),
    PaperResult("I", _RES, 0.5, "ENC-Inf", (2.9, None), (0.1, None), "3 min, 4 GPUs"),
    PaperResult("I", _RES, 0.5, "ENC-Model", (3.5, None), (0.1, None), "1 min, CPU"),
    PaperResult("I", _RES, 0.5, "ENC-Map", (3.3, None), (0.1, None), "2.9 s, CPU"),
    PaperResult("II", _VGG, 0.2, "Asym.3D [11]", after=(None, 1.0)),
    PaperResult("II", _VGG, 0.2, "Y-D et al. [13]", after=(None, 0.5)),
    PaperResult("II", _VGG, 0.2, "CP-3C [1]", after=(None, 0.3)),
    PaperResult("II", _VGG, 0.2, "ENC-Inf", after=(None, 0.0)),
    PaperResult("III", _ALEX, 0.31, "ENC-Inf", after=(0.0, None)),
    PaperResult("III", _VGG, 0.24, "ENC-Model", after=(-0.4, None)),
    PaperResult("III", _RES, 0.55, "ENC-Map", after=(-0.1, None)),
    PaperResult("IV", _VGG, 0.64, "ADC [17]", (0.0, None), epochs=0),
    PaperResult("IV", _VGG, 0.57, "ENC-Model", (-0.1, None), epochs=0),
    PaperResult("IV", _VGG, 0.41, "ENC-Model", after=(-0.1, None), epochs=0.1),
    PaperResult("IV", _VGG, 0.39, "ENC-Model", after=(-0.1, None), epochs=0.2),
    PaperResult("IV", _VGG, 0.33, "ENC-Model", after=(0.0, None), epochs=1),
)  # fmt: skip


def of_network(network: str) -> tuple[PaperResult, ...]:
    """All rows of one network."""
    return tuple(r for r in RESULTS if r.network == network)


def result_for(network: str, macs: float, method: str) -> Optional[PaperResult]:
    """The row of a method at these MACs (within 0.5% of the original's), else None."""
    near = (r for r in of_network(network) if abs(r.macs - macs) <= 0.005 + 1e-9 and r.method == method)
    return next(near, None)
