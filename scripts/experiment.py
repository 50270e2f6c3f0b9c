"""One of the paper's experiments on AlexNet or VGG-16: ``experiment.py vgg16-25 --metrics METRICS.json``.

With a metrics file alone it searches, prints the ranks (beside the published ones, where ENC_CAFFE_DATA has them) and says what
it skips. With ``--weights``, ``--imagenet_lmdb`` and ``--test_lmdb`` it does all of it: a part of the training images, metrics,
search, emission, and both accuracies. Settings are in prototxt/NETWORK/EXPERIMENT.toml.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Optional

from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.cli.common import print_table, progress_bar
from enc_caffe.cli.search import show_found
from enc_caffe.compression import Workers, compress, default_store
from enc_caffe.errors import DatasetError, EncError, UsageError
from enc_caffe.fetch import data_folder
from enc_caffe.metrics.table import MetricsTable, read_metrics
from enc_caffe.plan import write_plan
from enc_caffe.planning import plan_ratios, search_plan
from enc_caffe.runtime.stopping import stoppable
from enc_caffe.runtime.store import ResultStore
from enc_caffe.search.options import SearchOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"network", "folder", "partial", "fully_connected", "search", "published"}
NEEDS = """without --weights, --imagenet_lmdb and --test_lmdb: no network is emitted, and no accuracy measured. They are
  the public caffemodel (its layer names are those of prototxt/{folder}/),
  LMDBs of ILSVRC-2012: convert_imageset --resize_height=256 --resize_width=256 --shuffle TRAIN/ train.txt imagenet_train_lmdb
  (1,281,167 images of 196,608 bytes: 252 GB), and the same for the 50,000 validation images without --shuffle."""


def read_experiment(name: str) -> dict[str, Any]:
    """Settings of an experiment; :class:`UsageError` naming the nearest names and keys where one is unknown."""
    known = {p.stem: p for p in sorted((ROOT / "prototxt").glob("*/*.toml"))}
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or sorted(known)
        raise UsageError(f"{name}: no such experiment; there is {', '.join(near)}")
    settings = tomllib.loads(known[name].read_text())
    allowed = {f.name for f in fields(SearchOptions)}
    for key, names in ((k, KEYS) for k in settings):
        _known_key(known[name], key, names)
    for key in settings.get("search", {}):
        _known_key(known[name], key, allowed)
    return settings


def _known_key(path: Path, key: str, names: set[str]) -> None:
    if key not in names:
        near = difflib.get_close_matches(key, names, 2)
        raise UsageError(f"{path}: unknown key '{key}'" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def published_ranks(settings: dict[str, Any], method: str) -> tuple[Optional[dict[str, int]], dict[str, Any]]:
    """Ranks of the authors' run by this method, where ENC_CAFFE_DATA has them; and what is known of it."""
    about = settings.get("published", {}).get(method, {})
    folder = data_folder()
    if not about or folder is None or not (folder / "published_ranks.json").is_file():
        return None, about
    runs = {p["id"]: p["ranks"] for p in json.loads((folder / "published_ranks.json").read_text())}
    return runs.get(about["id"]), about


def from_metrics(settings: dict[str, Any], method: str, table: MetricsTable, out: Path) -> None:
    """Search and print; the published run is met at what its ranks cost."""
    theirs, about = published_ranks(settings, method)
    options = dict(settings["search"], method=method)
    if theirs is not None:
        options.update(
            preset="published", target_flops=about["complexity"], metric=about.get("metric", options["metric"])
        )
    if method == "inf":
        print("ENC-Inf evaluates its candidates on images; without them this is ENC-Model, its first candidate")
        options["method"] = "model"
    found = search_plan(table, SearchOptions(**options))
    headers, rows = ["layer", "rank", "r_max"], []
    for m in table.layers:
        row = [m.name, str(found.plan.ranks.get(m.name, "whole")), str(m.max_rank)]
        if theirs is not None:
            row += [str(theirs.get(m.name, "whole")), str(found.plan.ranks.get(m.name, 0) - theirs.get(m.name, 0))]
        rows.append(row)
    if theirs is not None:
        headers += ["published", "difference"]
    print_table(f"{settings['network']}, {options['method']}, metric {options['metric']}", headers, rows)
    ratios = plan_ratios(table, found.plan)
    print(
        f"MACs {ratios['paper']:.4f} (paper convention), {ratios['exact']:.4f} (exact) of the {len(table.layers)} layers"
    )
    show_found(found)
    if theirs is not None and set(theirs) >= {x.name for x in found.problem.layers}:
        score = found.problem.score([theirs[x.name] for x in found.problem.layers])
        ours = found.result.log_objective
        print(f"objective of the published ranks over that of these: {2.718281828459045 ** (score - ours):.4f}")
    out.mkdir(parents=True, exist_ok=True)
    write_plan(out / "ranks.json", found.plan)
    print(f"written to {out / 'ranks.json'}")
    print(NEEDS.format(folder=settings["folder"]))


def with_images(settings: dict[str, Any], method: str, args: argparse.Namespace) -> None:
    """The whole experiment on the user's own ImageNet."""
    model = ROOT / "prototxt" / settings["folder"] / "train_val.prototxt"
    for path, least in ((args.imagenet_lmdb, 1_000_000), (args.test_lmdb, 10_000)):
        images = ImageLmdb(path)
        if len(images) < least and not args.any_images:
            raise DatasetError(
                f"{path}: {len(images)} images; ImageNet has more ({least} at least are expected; --any_images)"
            )
        images.close()
    args.out.mkdir(parents=True, exist_ok=True)
    partial = args.out / "partial_lmdb"
    if not partial.exists():
        total, records = sources.part_of(args.imagenet_lmdb, settings["partial"], None)
        with progress_bar("partial dataset", total) as bar:
            write_lmdb(partial, (bar(i + 1, total) or r for i, r in enumerate(records)))
    options = SearchOptions(**dict(settings["search"], method=method))
    workers = Workers(args.workers, args.gpu)
    with ResultStore(default_store()) as store, progress_bar("images", None) as bar:
        result = compress(
            model, args.weights, partial, args.out / "network", options, test_lmdb=args.test_lmdb,
            train_lmdb=args.imagenet_lmdb, solver=model.parent / "solver.prototxt", top_k=(1, 5), workers=workers,
            fully_connected=settings.get("fully_connected", False), store=store, force=True, progress=bar,
        )  # fmt: skip
    for name, e in (("original", result.before), ("compressed", result.after)):
        print(f"{name}: top-1 {100 * e.accuracy(1):.2f}, top-5 {100 * e.accuracy(5):.2f} on {e.images} images")
    print(f"fine-tune: enc-caffe finetune --solver {args.out}/network/solver.prototxt --weights {args.out}/network/compressed.caffemodel --out {args.out}/finetuned")  # fmt: skip


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="vgg16-25, vgg16-24, vgg16-20 or alexnet-37")
    parser.add_argument("--method", default="inf", help="map, model or inf (default: inf)")
    parser.add_argument("--metrics", type=Path, help="metrics file to search, instead of measuring")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--imagenet_lmdb", type=Path)
    parser.add_argument("--test_lmdb", type=Path)
    parser.add_argument("--any_images", action="store_true", help="take LMDBs that are smaller than ImageNet")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or Path("outputs") / args.name
    try:
        settings = read_experiment(args.name)
        if args.metrics is not None:
            from_metrics(settings, args.method, read_metrics(args.metrics), args.out)
        elif args.weights and args.imagenet_lmdb and args.test_lmdb:
            with_images(settings, args.method, args)
        else:
            raise UsageError(
                f"{args.name}: give METRICS=FILE, or WEIGHTS=, IMAGENET_LMDB= and TEST_LMDB=.\n{NEEDS.format(folder=settings['folder'])}"
            )
    except EncError as exc:
        print(f"experiment: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(stoppable("experiment", main))
