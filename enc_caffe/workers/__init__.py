"""Processes that run Caffe, here or on a cluster, and how they compute."""
