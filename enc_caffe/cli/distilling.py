"""A distillation, as the flags have it."""

from __future__ import annotations

import argparse
import math
from typing import Optional

from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.errors import UsageError

#: Words that stand for blobs.
AUTOMATIC = ("", "auto", "none")


def distillation_of(args: argparse.Namespace, trains: bool = False) -> Optional[Distillation]:
    """What files that distil are asked for; None for none. Arguments and errors as of :func:`held_to`."""
    asked = held_to(args, trains)
    return asked if args.distill else None


def held_to(args: argparse.Namespace, trains: bool = False) -> Distillation:
    """What a student is held to by the arguments of :func:`add_distillation`.

    Parameters
    ----------
    trains : bool
        Whether the command trains one, with ``--distill`` or without.

    Raises
    ------
    UsageError
        If something is asked of a distillation that is not, or a weight is no number.
    """
    given = {
        "--temperature": args.temperature is not None, "--distill_blobs": bool(args.distill_blobs),
        "--distill_labels": args.distill_labels is not None, "--batch_statistics": args.batch_statistics,
    }  # fmt: skip
    if not (args.distill or trains):
        for flag in (f for f, there in given.items() if there):
            raise UsageError(f"{flag} says how to distil; give --distill too")
    temperature = Distillation.temperature if args.temperature is None else args.temperature
    blobs = {} if args.distill_blobs in AUTOMATIC else _blobs(args.distill_blobs)
    return Distillation(
        temperature, blobs, args.distill_labels or 0.0, not args.batch_statistics, between=args.distill_blobs in ("", "auto")
    )  # fmt: skip


def _blobs(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, text.split(",")):
        name, _, weight = part.partition("=")
        try:
            value = float(weight or 1)
        except ValueError:
            value = math.nan
        if not name or not 0 < value < math.inf:
            raise UsageError(f"--distill_blobs {part}: BLOB or BLOB=WEIGHT with a weight above 0 is needed")
        found[name] = value
    return found
