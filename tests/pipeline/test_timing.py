"""Plans and forms timed in a runtime: words by hand, and from end to end in OpenCV."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli import main
from enc_caffe.form import Form
from enc_caffe.measuring import again, clock
from enc_caffe.measuring.clock import machine
from enc_caffe.metrics.latency import LatencyTable, LayerLatency, read_latency, write_latency
from enc_caffe.pipeline import timing
from enc_caffe.pipeline.timing import EndToEnd, foreign, unlike
from enc_caffe.plan import Plan, read_plan
from enc_caffe.runtimes.known import RUNTIMES
from enc_caffe.runtimes.process import Model
from tests.measuring import nets
from tests.search.test_build import runtime


def test_a_table_of_another_machine_is_said() -> None:
    table = runtime(a=500, b=300)
    (line,) = foreign(replace(table, about={**table.about, "machine": "a board"}))
    assert "measured on another machine (a board; this one:" in line
    assert foreign(LatencyTable("net", table.layers, {})) == []
    assert unlike(table, "net") == unlike(replace(table, network=""), "other") == []
    (line,) = unlike(table, "other")
    assert "is of 'net', and this network is 'other'" in line


@pytest.mark.caffe
def test_compress_times_both_networks_in_the_tables_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few rounds: that everything is measured counts here, and not how well.
    monkeypatch.setattr(again, "ROUNDS", 3)
    monkeypatch.setattr(timing, "ROUNDS", 3)
    monkeypatch.setattr(timing, "OFTEN", 2)
    monkeypatch.setattr(clock, "BLOCKS", 1)
    monkeypatch.setattr(clock, "SECONDS", 0.0003)
    # Halves of b and c take a fifth of them in truth too.
    text = (
        nets.HEAD.format(name="wide") + nets.conv("a", "data", 48) + nets.conv("b", "a", 48) + nets.conv("c", "b", 48)
    )
    model, weights = nets.write_net(tmp_path, text + nets.TAIL.format(last="c") + nets.LOSS)
    nets.write_images(tmp_path / "lmdb", 8)
    loaded = pipeline.load(model, tmp_path / "lmdb")
    # A table by which every form takes a fifth.
    entries = tuple(
        LayerLatency(n, 99, 1000, (2, 4), (200, 250), s, (), (1, 1, 1))
        for n, own in loaded.policy.schemes.items()
        for s in own
    )
    about = {
        "runtime": "opencv",
        "version": "4.0",
        "machine": machine(),
        "threads": 1,
        "batch": 1,
        "network_ns": 1000 * len(entries),
    }
    write_latency(tmp_path / "l.json", LatencyTable(loaded.network.name, entries, about))
    status = main(
        ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(tmp_path / "lmdb"), "--out", str(tmp_path / "out"),
         "--method", "model", "--first_layer", "search", "--floor", "0", "--latency", str(tmp_path / "l.json"), "--target_latency", "0.9",
         "--store", str(tmp_path / "s.sqlite")]
    )  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    taken = json.loads((tmp_path / "out" / "evaluation.json").read_text())["time"]
    assert taken["where"].startswith("opencv 4.") and taken["original_ns"] > 1000 and taken["compressed_ns"] > 1000
    assert taken["ratio"] == pytest.approx(taken["compressed_ns"] / taken["original_ns"], rel=1e-3)
    assert "time from end to end in opencv 4." in said.out and "was predicted" in said.out
    assert "the table of --latency is of opencv 4.0, and 4." in said.err
    # The forms of the plan were measured again, and the written table says so.
    written = read_latency(tmp_path / "out" / "latency.json")
    plan = read_plan(tmp_path / "out" / "ranks.json")
    assert written.about["again"] >= 1 and plan.forms and not written.once(plan.forms)
    assert plan.about.targets == {"latency": 0.9} and plan.about.latency_ratio == pytest.approx(taken["predicted"])
    # The report has the layers' times beside their MACs.
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report")]) == 0
    assert "ms before" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.caffe
def test_the_emitted_network_is_timed_with_as_many_images_as_the_original(tmp_path: Path) -> None:
    text = (
        'name: "n"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 12 dim: 12 } } }\n'
        + nets.conv("a", "data", 6) + nets.conv("b", "a", 6)
    )  # fmt: skip
    model, weights = nets.write_net(tmp_path, text)
    loaded, out = pipeline.load(model), tmp_path / "out"
    pipeline.emit(loaded, weights, Plan("n", {"b": Form("spatial", (2,))}), out)
    assert "dim: 10" in (out / "deploy.prototxt").read_text()

    class Process:
        runtime, version, threads, seen = RUNTIMES["opencv"], "4", 1, {}

        def load_all(self, models: dict[str, Model]) -> dict[str, str]:
            for name, model in models.items():
                (blob,) = read_net(model.prototxt).layer[0].input_param.shape
                self.seen[name] = (list(blob.dim), list(model.inputs["data"]))
            return {}

        def time(self, names, rounds, seconds, sweep=0) -> np.ndarray:
            return np.full((len(names), rounds), 1000.0)

        def drop(self, names) -> None:
            pass

    process = Process()
    EndToEnd(loaded, process, 4, "exact").emitted(out, weights, 1.0)  # type: ignore[arg-type]
    names = [
        f"{what}{again}"
        for what in ("original", "compressed")
        for again in ("", *(f" {at}" for at in range(2, timing.OFTEN + 1)))
    ]
    assert process.seen == dict.fromkeys(names, ([4, 3, 12, 12], [4, 3, 12, 12]))


@pytest.mark.caffe
def test_the_plan_that_is_timed_is_the_plan_that_is_emitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        nets.HEAD.format(name="strided")
        + nets.conv("a", "data", 8)
        + nets.conv("b", "a", 12, stride=2)
        + nets.conv("c", "b", 12)
    )
    model, weights = nets.write_net(tmp_path, text)
    net, files = ["--model", str(model), "--input_shape", "3,12,12"], {n: str(tmp_path / f"{n}.json") for n in "mltr"}
    published, latency = ["--stride_placement", "published"], ["latency", *net, "--runtime", "opencv", "--ranks", "2"]

    def strides(path: Path, name: str) -> list[tuple[int, int]]:
        found = [x.convolution for x in describe(read_net(path)).layers if x.name.startswith(name)]
        return [c.stride for c in found if c is not None]

    assert main([*latency, *published, "--export", str(tmp_path / "board")]) == 0
    with open(tmp_path / "board" / "networks.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    pairs = [r["network"] for r in rows if r["what"] == "layer 'b'" and r["form"].startswith("spatial")]
    assert pairs and all(
        strides(tmp_path / "board" / "networks" / f"{k}.prototxt", "b_0") == [(2, 2), (1, 1)] for k in pairs
    )
    # Times by hand: a rank takes its part.
    known = {"original": 9000, "whole": 5000, "channel": 7000, "spatial": 6000}
    times = [known.get(r["form"], 1000 + 200 * int(f"0{r['form'].partition(':')[2]}")) for r in rows]
    lines = [f"{r['network']},{time}" for r, time in zip(rows, times) for _ in range(7)]
    (tmp_path / "times.csv").write_text("\n".join(["# runtime=opencv", "network,nanoseconds", *lines]))
    back = ["--import", str(tmp_path / "times.csv"), "--out", files["l"]]
    assert main([*latency, *back]) == 1
    assert "--batch and --stride_placement?" in capsys.readouterr().err
    assert main([*latency, *published, *back]) == 0
    assert main(["metrics", *net, "--weights", str(weights), "--out", files["m"]]) == 0
    search = [
        "search",
        files["m"],
        "--latency",
        files["l"],
        "--target_latency",
        "0.9",
        "--floor",
        "0",
        "--first_layer",
        "search",
        "--out",
        files["r"],
    ]
    assert main(search) == 2
    assert (
        "its times of layer 'b' are of chains with published strides, and --stride_placement exact makes"
        in capsys.readouterr().err
    )
    assert main([*search, *published]) == 0
    compress = [
        "compress",
        *net,
        "--weights",
        str(weights),
        "--lmdb",
        str(nets.write_images(tmp_path / "lmdb", 2)),
        *search[2:-2],
    ]
    assert main([*compress, "--out", str(tmp_path / "whole")]) == 2 and not (tmp_path / "whole").exists()
    emit = ["emit", *net, "--weights", str(weights), "--ranks", files["r"], "--out", str(tmp_path / "out")]
    assert "b" in json.loads(Path(files["r"]).read_text())["forms"]
    capsys.readouterr()
    assert main([*emit, "--stride_placement", "exact"]) == 1
    assert "layer 'b' was chosen by its time with published strides" in capsys.readouterr().err
    assert main(emit) == 0
    assert strides(tmp_path / "out" / "deploy.prototxt", "b") == [(2, 2), (1, 1)]
