"""The order of the stages. Commands and scripts call these functions; no other room knows what comes after what.

Each function is imported when it is first used: a command that needs one stage does not wait for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enc_caffe.pipeline.emission import Emitted, cost_line, costs, emit, placed, plan_forms, plan_header
    from enc_caffe.pipeline.loading import LoadedNetwork, load
    from enc_caffe.pipeline.spectra import pca_metrics

__all__ = [
    "Emitted",
    "LoadedNetwork",
    "cost_line",
    "costs",
    "emit",
    "load",
    "pca_metrics",
    "placed",
    "plan_forms",
    "plan_header",
]

_STAGES = {"LoadedNetwork": "loading", "load": "loading", "pca_metrics": "spectra"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_STAGES.get(name, 'emission')}"), name)
