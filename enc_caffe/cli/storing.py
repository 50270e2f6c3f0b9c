"""The store of results that a command works with. Apart, since ``enc-caffe store`` needs nothing that computes."""

from __future__ import annotations

import argparse

from enc_caffe.measuring.store import ResultStore, default_store
from enc_caffe.terminal.naming import say


def open_store(args: argparse.Namespace) -> ResultStore:
    """The store of ``--store``, or the user's own; a damaged one is reported on standard error."""
    return ResultStore(args.store or default_store(), say)
