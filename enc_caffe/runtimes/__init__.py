"""Runtimes that Caffe networks are deployed with: each runs in a process of its own, perhaps of another Python."""
