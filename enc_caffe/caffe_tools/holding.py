"""Images of a training that it does not see, by which its rate and its best snapshot are chosen; with what belongs to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_tools.selection import Selection, check_enough, hold_out
from enc_caffe.errors import UsageError

#: What a training can do where its images cannot be parted.
UNCHOSEN = "leave out --base_lr auto, --keep_best and --held_out_lmdb"


def held_out(train: Any, selection: Selection, out: Path) -> tuple[Optional[Path], Path, int]:
    """Images to train on (None: the network's own), images that choose, and how many of those there are."""
    if selection.lmdb is not None:
        return None, Path(selection.lmdb), _number(Path(selection.lmdb))
    source = _source(train, "give --held_out_lmdb")
    test = next(iter(data_layers(train, "TEST")), data_layers(train, "TRAIN")[0])
    return hold_out(source, out / "held_out", batch_size(test))


def check_divisible(train: Any, source: str, otherwise: str) -> None:
    """Raise UsageError, with what else can be done, where no part of a training's images can be held out: before there is anything to train."""
    check_held_out(train, source, otherwise)
    lmdb = _source(train, otherwise)
    check_enough(lmdb, _number(lmdb), otherwise)
    check_beside(train, True, otherwise)


def check_held_out(net: Any, source: str, otherwise: str = UNCHOSEN) -> None:
    """Raise UsageError where the images of the TEST phase are of no LMDB, whose place those that are held out could take."""
    first = next(iter(data_layers(net, "TEST")), None)
    if first is not None and first.type != "Data":
        raise UsageError(
            f"{source}: layer '{first.name}' ({first.type}) brings the images of the TEST phase, so held-out ones of an LMDB have no place; "
            f"{otherwise}"
        )


def check_beside(train: Any, split: bool, otherwise: str = UNCHOSEN) -> None:
    """Raise UsageError where further data layers bring what cannot be held out with the images.

    Parameters
    ----------
    split : bool
        Whether images of the training are held out; else the user names others.
    """
    layers, tests = data_layers(train, "TRAIN"), data_layers(train, "TEST")
    alike = {
        tuple(x.top) for x in layers[1:]
        if split and _is_lmdb(x) and _number(Path(x.data_param.source)) == _number(_source(train, otherwise))
    }  # fmt: skip
    for odd in (x for x in [*layers[1:], *tests[1:]] if tuple(x.top) not in alike):
        raise UsageError(
            f"layer '{odd.name}' ({odd.type}) brings what goes with each image, and cannot be parted as they are: both must be LMDBs "
            f"of as many records{'' if split else ', and --held_out_lmdb names images alone'}; {otherwise}"
        )


def hold_beside(train: Any, out: Path) -> None:
    """Hold out of further data layers (labels, maps, other pictures) what goes with the images that were; their sources are replaced."""
    tests = data_layers(train, "TEST")
    parts = {
        tuple(layer.top): hold_out(
            Path(layer.data_param.source), out / "held_out" / re.sub(r"\W", "_", layer.name), batch_size(tests[0])
        )
        for layer in data_layers(train, "TRAIN")[1:]
    }
    for phase, at in (("TRAIN", 0), ("TEST", 1)):
        for layer in data_layers(train, phase)[1:]:
            layer.data_param.source = str(parts[tuple(layer.top)][at])


def _source(train: Any, otherwise: str) -> Path:
    """The LMDB that a network trains on."""
    sources = [layer.data_param.source for layer in data_layers(train, "TRAIN") if layer.type == "Data"]
    if not sources:
        raise UsageError(f"the network trains on no LMDB that images can be held out of; {otherwise}")
    return Path(sources[0])


def _is_lmdb(layer: Any) -> bool:
    return bool(layer.type == "Data" and layer.data_param.backend == layer.data_param.LMDB)


def _number(lmdb: Path) -> int:
    images = ImageLmdb(lmdb)
    try:
        return len(images)
    finally:
        # LMDB opens a folder once in a process, and whoever trains may open it too.
        images.close()
