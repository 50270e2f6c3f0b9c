"""``--weights`` of any command: a file that stock Caffe would not read gives way to a copy that it does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from enc_caffe.caffe_io.stockform import in_stock_form


def take_weights(args: argparse.Namespace) -> None:
    """Put the copy in the place of ``--weights``, where one is needed."""
    given = getattr(args, "weights", None)
    if isinstance(given, Path):
        args.weights = in_stock_form(given, lambda line: print(line, file=sys.stderr))
