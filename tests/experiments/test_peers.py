"""Rows of other packages: taken into the table where they are of its files, and what scripts/peers hands to them."""

from __future__ import annotations

import json
from pathlib import Path

from enc_caffe.experiments.rivals import PEER, peers

FILES = {"weights": "a", "model": "b", "choose": "c", "test": "d"}


def row(folder: Path, name: str, **changes) -> None:
    folder.mkdir(exist_ok=True)
    own = {
        "format": PEER, "method": "tp-group", "label": "Torch-Pruning, group norm", "target": 0.5, "files": FILES,
        "macs": {"exact": 0.49}, "parameters": 0.5, "search": {"seconds": 3.0}, "score": {"images": 10, "correct": {"1": 4, "5": 9}},
    }  # fmt: skip
    (folder / name).write_text(json.dumps({**own, **changes}))


def test_rows_of_the_same_files_are_taken(tmp_path: Path) -> None:
    remarks: list[str] = []
    assert peers(tmp_path / "peers", FILES, remarks) == []
    row(tmp_path / "peers", "b.json")
    row(tmp_path / "peers", "a.json", target=0.3)
    row(tmp_path / "peers", "other.json", files={**FILES, "test": "e"})
    # The version of this package is none of the files.
    found = peers(tmp_path / "peers", {**FILES, "version": "1"}, remarks)
    assert [(n["method"], n["target"]) for n in found] == [("tp-group", 0.3), ("tp-group", 0.5)]
    assert "format" not in found[0] and remarks == [
        "other.json: is of other files than this table; run scripts/peers again"
    ]
    peers(tmp_path / "peers", FILES, remarks)
    assert len(remarks) == 1
