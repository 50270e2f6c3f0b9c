"""Spatial scheme, the horizontal half first: rank filters 1 x Dw, then O filters Dh x 1; M[(i,b),(a,o)].

The same cost as vertical first for square kernels and equal numbers of channels, another error: which order is better depends on the
layer. With a stride, the half that comes first shrinks the map that the second one reads.
"""

from __future__ import annotations

from enc_caffe.decomposition.spatial import Spatial


class SpatialTransposed(Spatial):
    """Horizontal, then vertical."""

    name = "spatial_t"
    title = "1 x Dw, then Dh x 1"
    first_axis = 1
    suffixes = ("_h", "_v")
