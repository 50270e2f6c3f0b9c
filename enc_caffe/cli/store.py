"""``enc-caffe store``: what results are kept, what they are of, and removing them."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from enc_caffe.cli.storing import open_store
from enc_caffe.errors import EncError, UsageError
from enc_caffe.measuring.store import ResultStore
from enc_caffe.terminal.tables import print_table


def run(args: argparse.Namespace) -> None:
    """List, explain or prune."""
    if args.store is not None and not args.store.exists():
        raise UsageError(f"--store {args.store}: does not exist; without the flag it is the store in the user's cache")
    with open_store(args) as store:
        {"list": _list, "explain": _explain, "prune": _prune}[args.action](args, store)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _list(args: argparse.Namespace, store: ResultStore) -> None:
    rows = [
        [c.digest[:12], _day(c.created), str(c.about.get("network", "")), Path(str(c.about.get("weights", ""))).name,
         Path(str(c.about.get("lmdb", ""))).name, str(c.about.get("images", "")), f"{c.results:,}"]
        for c in store.contexts()
    ]  # fmt: skip
    title = f"{store.path}, {store.size() / 2**20:.1f} MiB"
    print_table(title, ["digest", "begun", "network", "weights", "images of", "images", "results"], rows, left=5)


def _explain(args: argparse.Namespace, store: ResultStore) -> None:
    context = store.find(args.digest)
    print(f"{context.digest}, begun {_day(context.created)}")
    for key, value in context.about.items():
        print(f"  {key}: {value}")
    images: dict[str, int] = {}
    for what, start, stop in store.known(context.digest):
        images[what] = images.get(what, 0) + stop - start
    rows = [[what if len(what) < 80 else what[:77] + "...", str(n)] for what, n in sorted(images.items())]
    print_table("what was evaluated, layer and rank", ["what", "images"], rows)


def _prune(args: argparse.Namespace, store: ResultStore) -> None:
    if not (args.digest or args.all or args.images or args.older is not None):
        raise UsageError("store prune: say what: digests, --older DAYS, --all or --images")
    if args.images:
        # They bring NumPy and Protocol Buffers along, which nothing else here needs.
        from enc_caffe.caffe_io.stockform import kept_weights
        from enc_caffe.pipeline.pictures import kept_images

        shutil.rmtree(kept_images(), ignore_errors=True)
        shutil.rmtree(kept_weights(), ignore_errors=True)
        print(f"{kept_images()}: LMDBs made of --images were removed")
        if not (args.digest or args.all or args.older is not None):
            return
    contexts = store.contexts()
    chosen = {store.find(d).digest for d in args.digest}
    if args.older is not None:
        if args.older < 0:
            raise EncError(f"--older {args.older}: 0 days or more are needed")
        chosen |= {c.digest for c in contexts if c.created < time.time() - args.older * 86_400}
    if args.all:
        chosen |= {c.digest for c in contexts}
    number = store.remove(sorted(chosen))
    print(f"{store.path}: {number:,} results of {len(chosen)} contexts removed")
