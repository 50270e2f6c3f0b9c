"""Images of a training that it does not see, by which its rate and its best snapshot are chosen; with what belongs to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_tools.selection import Selection, hold_out
from enc_caffe.errors import UsageError


def held_out(train: Any, selection: Selection, out: Path) -> tuple[Optional[Path], Path, int]:
    """Images to train on (None: the network's own), images that choose, and how many of those there are."""
    if selection.lmdb is not None:
        images = ImageLmdb(Path(selection.lmdb))
        number = len(images)
        images.close()
        return None, Path(selection.lmdb), number
    sources = [layer for layer in data_layers(train, "TRAIN") if layer.type == "Data"]
    if not sources:
        raise UsageError("the network trains on no LMDB that images can be held out of; give --held_out_lmdb")
    test = next(iter(data_layers(train, "TEST")), sources[0])
    return hold_out(Path(sources[0].data_param.source), out / "held_out", batch_size(test))


def check_held_out(net: Any, path: Path) -> None:
    """Raise UsageError where the images of the TEST phase are of no LMDB, whose place those that are held out could take."""
    first = next(iter(data_layers(net, "TEST")), None)
    if first is not None and first.type != "Data":
        raise UsageError(
            f"{path}: layer '{first.name}' ({first.type}) brings the images of the TEST phase, so held-out ones of an LMDB have no place; "
            "leave out --base_lr auto, --keep_best and --held_out_lmdb"
        )


def hold_beside(train: Any, split: bool, out: Path) -> None:
    """Hold out of further data layers (labels, maps, other pictures) what goes with the images that were.

    Parameters
    ----------
    train : NetParameter
        With the sources of its first data layers replaced; those of the others are replaced in it.
    split : bool
        Whether images of the training were held out; else the user named others.
    """
    own, tests = data_layers(train, "TRAIN")[1:], data_layers(train, "TEST")
    if len(tests) < 2 and not own:
        return
    parts: dict[tuple[str, ...], tuple[Path, Path]] = {}
    for layer in own if split else ():
        if layer.type == "Data" and layer.data_param.backend == layer.data_param.LMDB:
            folder = out / "held_out" / re.sub(r"\W", "_", layer.name)
            first, held, _ = hold_out(Path(layer.data_param.source), folder, batch_size(tests[0]))
            parts[tuple(layer.top)] = first, held
    odd = [x for x in own if tuple(x.top) not in parts] + [x for x in tests[1:] if tuple(x.top) not in parts]
    images = ImageLmdb(Path(data_layers(train, "TRAIN")[0].data_param.source))
    number = len(images)
    images.close()
    for layer in own:
        if tuple(layer.top) in parts:
            beside = ImageLmdb(parts[tuple(layer.top)][0])
            odd += [layer] if len(beside) != number else []
            beside.close()
    if odd:
        raise UsageError(
            f"layer '{odd[0].name}' ({odd[0].type}) brings what goes with each image, and cannot be parted as they are: both must be LMDBs "
            "of as many records, and --held_out_lmdb names images alone; leave out --base_lr auto, --keep_best and --held_out_lmdb"
        )
    for phase, at in (("TRAIN", 0), ("TEST", 1)):
        for layer in data_layers(train, phase)[1:]:
            layer.data_param.source = str(parts[tuple(layer.top)][at])
