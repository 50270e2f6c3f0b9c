"""Prototxt, caffemodel and LMDB in and out."""
