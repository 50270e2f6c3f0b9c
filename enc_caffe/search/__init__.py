"""Rank search: one strategy a file, behind one signature (see :mod:`enc_caffe.search.problem`)."""

from enc_caffe.callable_room import make_callable

make_callable(__name__)
