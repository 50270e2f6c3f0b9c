"""What a file is that is no prototxt or caffemodel, by its first bytes: what downloads leave in a file's place."""

from __future__ import annotations

#: Bytes that are looked at.
HEAD = 512
_KNOWN = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself; fetch it by git lfs pull, or download it from the repository's page"),
    (b"\x1f\x8b", "is a gzip archive; unpack it"),
    (b"BZh", "is a bzip2 archive; unpack it"),
    (b"\xfd7zXZ", "is an xz archive; unpack it"),
    (b"Rar!", "is a RAR archive; unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it"),
    (b"PK\x03\x04", "is a zip archive, as PyTorch's files are too; unpack it, or take Caffe's own file"),
    (b"\x93NUMPY", "is an array of NumPy, not a file of Caffe"),
)  # fmt: skip
_PAGES = (b"<!doctype html", b"<html")


def looks_like(data: bytes) -> str:
    """What a file is that begins with these bytes, and what to do, as the end of a sentence; empty where it may be Caffe's."""
    head = data[:HEAD].lstrip()
    if head.lower().startswith(_PAGES):
        return "is a web page; download the raw file"
    return next((words for magic, words in _KNOWN if data.startswith(magic)), "")


#: How images begin (PNG, JPEG, GIF, BMP, TIFF, WebP), and HDF5 files.
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF", b"\x89HDF")


def is_another(data: bytes) -> bool:
    """Whether a file that begins with these bytes is surely one of another kind than ours: an archive, an image, a text."""
    head = data[:HEAD]
    text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) and len(head) > 0
    return bool(looks_like(head)) or head.startswith(_IMAGES) or text
