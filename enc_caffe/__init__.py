"""Low-rank compression of whole Caffe networks: decomposition, metrics, rank search, emission."""

__version__ = "0.1.0"
