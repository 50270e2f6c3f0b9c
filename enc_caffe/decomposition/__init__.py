"""Low-rank decomposition of convolutions and fully connected layers: pure functions on arrays."""

from enc_caffe.decomposition.kept import KeptFactors
from enc_caffe.decomposition.scheme import Factoriser, Factors, Scheme
from enc_caffe.decomposition.svd import group_spectra
from enc_caffe.decomposition.table import (
    chain_of,
    check_form,
    check_worth,
    form_cost,
    named,
    on_request,
    pruning,
    rank_of,
    register,
    scheme_for,
    schemes,
    strides_move,
)

__all__ = [
    "Factoriser", "Factors", "KeptFactors", "Scheme", "chain_of", "check_form", "check_worth", "form_cost", "group_spectra", "named", "on_request", "pruning", "rank_of", "register",
    "scheme_for", "schemes", "strides_move",
]  # fmt: skip
