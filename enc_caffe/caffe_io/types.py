"""Which layer types the Caffe in use has."""

from __future__ import annotations

from enc_caffe.installation import more_types
from enc_caffe.shapes import KNOWN_TYPES


def caffe_types() -> frozenset[str]:
    """Those of BVLC Caffe, and with ``--caffe_root`` those that this Caffe lists."""
    return KNOWN_TYPES | more_types()
