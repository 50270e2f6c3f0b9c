"""Accuracy at equal time: forms chosen by time against forms chosen by MACs, in several runtimes; for ``docs/latency.md``.

    scripts/study_equal_time.py --model train_val.prototxt --weights net.caffemodel --lmdb TRAIN --test_lmdb TEST \\
        --tables mnn.json,ncnn.json --out DIR --figure docs/latency.svg

The same ``enc-caffe compress`` makes all networks, once for each of ``--flops``, and once for each of ``--targets`` and each table. Then all
networks that concern a runtime are timed there in turns, beside the original. Folders that exist are not made again, nor are times that
``DIR/results.json`` has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

from enc_caffe import pipeline
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.errors import EncError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.measuring.clock import time_models
from enc_caffe.measuring.contexts import whole_network, with_batch
from enc_caffe.metrics.latency import LatencyTable, read_latency
from enc_caffe.report.charts import file_bytes
from enc_caffe.report.rows import Chart, Points, Series
from enc_caffe.runtimes.known import runtime_for
from enc_caffe.runtimes.process import Model, RuntimeProcess

#: Turns of all networks, and how often each is loaded.
ROUNDS, OFTEN = 10, 6
HOW = ("--method", "model", "--metric", "fisher", "--schemes", "all")


def compressed(args: argparse.Namespace, name: str, *budget: str) -> Optional[Path]:
    """The folder of a network, made where it is not there yet; what the command said is beside it. None where its budget is out of reach."""
    out = args.out / name
    if not (out / "evaluation.json").is_file():
        command = [
            sys.executable, "-m", "enc_caffe", "compress", "--model", str(args.model), "--weights", str(args.weights), "--lmdb", str(args.lmdb),
            "--test_lmdb", str(args.test_lmdb), *HOW, *args.more.split(), *budget, "--out", str(out), "--force",
        ]  # fmt: skip
        print(" ".join(command), flush=True)
        with open(args.out / f"{name}.log", "w") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                last = Path(args.out / f"{name}.log").read_text().splitlines()[-1]
                if "cannot be reached" not in last:
                    sys.exit(f"{args.out / name}.log: {last}")
                print(f"{name}: {last}", flush=True)
                return None
    return out


def timed(args: argparse.Namespace, table: LatencyTable, folders: dict[str, Path]) -> dict[str, float]:
    """Times of emitted networks over the original's, all in turns."""
    loaded = pipeline.load(args.model, args.lmdb)
    batch, threads = int(table.about.get("batch", 1)), int(table.about.get("threads", 1))
    deploy = whole_network(loaded.net, loaded.network, {}, batch)
    shapes = {t: list(s.dim) for x in deploy.layer if x.type == "Input" for t, s in zip(x.top, x.input_param.shape)}
    with (
        tempfile.TemporaryDirectory() as name,
        RuntimeProcess(runtime_for(str(table.about["runtime"])), threads) as process,
    ):
        texts = {"original": deploy}
        texts |= {n: with_batch(read_net(f / "deploy.prototxt"), batch, loaded.network) for n, f in folders.items()}
        weights = {"original": args.weights, **{n: f / "compressed.caffemodel" for n, f in folders.items()}}
        models = {}
        for what, net in texts.items():
            file = Path(name) / f"{what}.prototxt"
            file.write_text(to_text(net))
            models[what] = Model(file, weights[what].absolute(), shapes)
        times, refused = time_models(process, models, ROUNDS, enough=0.01, loads=OFTEN)
    if refused:
        sys.exit(f"{table.about['runtime']}: {refused}")
    return {n: times[n].nanoseconds / times["original"].nanoseconds for n in folders}


def row(folder: Path, ratio: float) -> dict[str, Any]:
    """What is known of a network."""
    found = json.loads((folder / "evaluation.json").read_text())
    return {
        "time": ratio, "macs": found["macs"]["exact, all"], "top_1": found["compressed"]["correct"]["1"] / found["images"],
        "original": found["original"]["correct"]["1"] / found["images"], "images": found["images"], "own_time": found.get("time"),
    }  # fmt: skip


def figure(rows: dict[str, dict[str, dict[str, Any]]]) -> bytes:
    """Accuracy over time: of each runtime a line of what was chosen by time, and one of what was chosen by MACs."""
    series = []
    for runtime, own in rows.items():
        for kind, words in (("time", "by time"), ("macs", "by MACs")):
            points = sorted((r["time"], r["top_1"]) for n, r in own.items() if n.startswith(kind))
            series.append(Series(f"{runtime}, {words}", points, runtime, line=True, hollow=kind == "macs"))
    drawing = Points("time from end to end, part of the original's", "top-1 accuracy, nothing trained", series)
    return file_bytes(Chart("latency", "", "", drawing), "svg")


def main() -> int:
    """Make, time, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lmdb", type=Path, required=True, help="images that networks are compared on")
    parser.add_argument("--test_lmdb", type=Path, required=True)
    parser.add_argument("--tables", required=True, metavar="A.json,B.json", help="what enc-caffe latency measured")
    parser.add_argument("--targets", default="0.7,0.5", help="parts of the time")
    parser.add_argument("--flops", default="0.55,0.42,0.33,0.25", help="parts of the MACs")
    parser.add_argument("--more", default="", help="further flags of enc-caffe compress")
    parser.add_argument("--out", type=Path, default=Path("outputs/equal_time"), metavar="DIR")
    parser.add_argument("--figure", type=Path, help="SVG file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    rows = json.loads(results.read_text())["rows"] if results.is_file() else {}
    made = {f"macs {part}": compressed(args, f"macs-{part}", "--target_flops", part) for part in args.flops.split(",") if part}  # fmt: skip
    by_macs = {name: folder for name, folder in made.items() if folder is not None}
    for file in args.tables.split(","):
        table = read_latency(Path(file))
        runtime = str(table.about["runtime"])
        folders = dict(by_macs)
        for part in args.targets.split(","):
            own = ["--latency", file, "--target_latency", part]
            folder = compressed(args, f"{runtime}-{part}", *own)
            if folder is not None:
                folders[f"time {part}"] = folder
        if set(folders) != set(rows.get(runtime, {})):
            times = timed(args, table, folders)
            rows[runtime] = {n: row(f, times[n]) for n, f in folders.items()}
            write_json(results, {"format": "enc-caffe-study-equal-time/1", "rows": rows})
        print(f"{runtime}, {table.about.get('version')}")
        for n, r in sorted(rows[runtime].items(), key=lambda item: -item[1]["time"]):
            print(f"    chosen by {n}: MACs {r['macs']:.3f}, time {r['time']:.3f}, top-1 {r['top_1']:.4f}", flush=True)
    if args.figure is not None:
        args.figure.write_bytes(figure(rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EncError as exc:
        sys.exit(f"{exc}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it was")
