"""Names that the flags of a search have. Apart, so that they are known before anything that searches is imported."""

from __future__ import annotations

from typing import Mapping

#: Methods, and the module of this room whose function ``search`` each is.
METHODS: Mapping[str, str] = {
    "map": "enc_map", "model": "enc_model", "inf": "enc_inf", "uniform": "uniform", "vbmf": "vbmf", "energy": "energy", "ars": "ars",
    "iterative": "ars", "random": "random_search", "heuristic": "heuristic", "lagrangian": "lagrangian", "y_d": "y_d", "adc": "adc",
    "amc": "amc", "asym": "asym",
}  # fmt: skip
#: What targets are parts of.
COUNTS = ("all", "paper")
