"""The order of the stages. Commands and scripts call these functions; no other room knows what comes after what."""

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
