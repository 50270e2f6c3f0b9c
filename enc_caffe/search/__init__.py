"""Rank search: one strategy a file, behind one signature (see :mod:`enc_caffe.search.problem`)."""
