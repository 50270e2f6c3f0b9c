"""Caffe's own programs: training, tests, times, and what is installed."""
