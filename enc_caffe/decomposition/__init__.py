"""Low-rank decomposition of convolutions and fully connected layers: pure functions on arrays."""

from enc_caffe.decomposition.schemes import SCHEMES, Factors, Scheme, Stage, scheme_for
from enc_caffe.decomposition.svd import group_spectra, truncated_factors

__all__ = ["SCHEMES", "Factors", "Scheme", "Stage", "group_spectra", "scheme_for", "truncated_factors"]
