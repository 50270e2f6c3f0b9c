"""Files that downloads leave in the place of a prototxt or caffemodel."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.errors import EncError

pytestmark = pytest.mark.caffe


def zipped() -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net/data.pkl", b"x" * 40)
    return out.getvalue()


def array() -> bytes:
    """An array as NumPy saves it."""
    out = io.BytesIO()
    np.save(out, np.zeros(9))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 553432081\n", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html>\n<html><head><title>net.caffemodel</title></head></html>", "is a web page; download the raw file"),
        (gzip.compress(b"name: 'net'", mtime=0), "is a gzip archive; unpack it"),
        (zipped(), "is a zip archive"),
        (array(), "is an array of NumPy"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("read", [read_net, CaffeModel])
def test_what_is_no_file_of_caffe_is_called_what_it_is(tmp_path: Path, data: bytes, words: str, read) -> None:
    (tmp_path / "net").write_bytes(data)
    with pytest.raises(EncError, match=f"net: {words}") as caught:
        read(tmp_path / "net")
    assert len(str(caught.value).splitlines()) == 1
