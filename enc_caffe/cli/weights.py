"""``--weights`` of any command: a file that stock Caffe would not read gives way to a copy that it does."""

from __future__ import annotations

import argparse
from pathlib import Path

from enc_caffe.caffe_io.stockform import in_stock_form
from enc_caffe.terminal.naming import say


def take_weights(args: argparse.Namespace) -> None:
    """Put the copy in the place of ``--weights``, where one is needed."""
    given = getattr(args, "weights", None)
    if isinstance(given, Path):
        args.weights = in_stock_form(given, say)
