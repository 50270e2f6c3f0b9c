"""``--images`` in place of ``--lmdb``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FORMS = "FOLDER|LIST.txt|IMAGE|FILE.npz|FILE.h5"


def add_images(command: Any, words: str, required: bool = False, prefix: str = "") -> None:
    """``--lmdb`` (or ``--test_lmdb``), and ``--images`` in its place."""
    group = command.add_mutually_exclusive_group(required=required)
    group.add_argument(f"--{prefix}lmdb", type=Path, help=words)
    group.add_argument(
        f"--{prefix}images", type=Path, metavar=FORMS,
        help="the same images as a folder (with a sub-folder for each class, if they have labels), a list in the format of convert_imageset or of an HDF5Data layer, or arrays (.npz, HDF5)",
    )  # fmt: skip
