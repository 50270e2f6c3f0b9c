"""Layer-wise accuracy metrics: PCA energy, measured accuracy, sampling, interpolation."""

from enc_caffe.callable_room import make_callable

make_callable(__name__)
