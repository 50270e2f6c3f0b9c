"""Networks that go out to be timed, and times that come back."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.errors import MetricsError
from enc_caffe.measuring.elsewhere import COLUMNS, Imported
from enc_caffe.metrics.latency import read_latency
from enc_caffe.runtimes.known import RUNTIMES

NET = """
name: "one"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 12 dim: 12 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
"""


def latency(folder: Path, *more: str) -> int:
    """Status of the command on a small network."""
    (folder / "net.prototxt").write_text(NET)
    return main(["latency", "--model", str(folder / "net.prototxt"), "--runtime", "opencv", "--ranks", "2", *more])


@pytest.mark.parametrize("how", ["--out", "--export"])
def test_a_network_of_which_nothing_can_be_decomposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    # Two branches with the same weights: nothing is timed, and no runtime is blamed.
    shared = NET.replace("convolution_param", 'param { name: "w" } param { name: "v" } convolution_param')
    (tmp_path / "pair.prototxt").write_text(shared)
    assert main(["latency", "--model", str(tmp_path / "pair.prototxt"), how, str(tmp_path / "t")]) == 1
    assert "no layer of 'one' can be decomposed: layer 'a' and 1 more share weights" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_out_to_a_script_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "board"
    assert latency(tmp_path, "--export", str(out)) == 0
    assert "networks written to" in capsys.readouterr().out
    with open(out / "networks.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    # Both layers are of one geometry: an empty context, whole and two forms of each scheme; then the network whole and in each.
    assert tuple(rows[0]) == COLUMNS and len(rows) == 9
    assert [r["form"] for r in rows[-3:]] == ["original", "channel", "spatial"]
    script = [sys.executable, str(out / "time_networks.py"), "1", "7"]
    subprocess.run(script, check=True, capture_output=True, cwd=tmp_path)
    times = (out / "times.csv").read_text().splitlines()
    assert (
        times[0].startswith("# runtime=opencv; version=4.")
        and times[1] == "network,nanoseconds"
        and len(times) == 2 + 7 * len(rows)
    )
    # What has times is not timed again.
    subprocess.run(script, check=True, capture_output=True, cwd=tmp_path)
    assert (out / "times.csv").read_text().splitlines() == times
    assert latency(tmp_path, "--import", str(out / "times.csv"), "--out", str(tmp_path / "l.json")) == 0
    table = read_latency(tmp_path / "l.json")
    assert table.about["runtime"] == "opencv" and table.about["version"].startswith("4.") and table.network_time > 1000
    assert table.as_measured and [(x.name, x.scheme) for x in table.layers] == [("a", "channel"), ("b", "spatial")]
    capsys.readouterr()
    # Times of another runtime are not taken for this one's.
    given = ["latency", "--model", str(tmp_path / "net.prototxt"), "--ranks", "2", "--import", str(out / "times.csv")]
    assert main([*given, "--runtime", "mnn", "--out", str(tmp_path / "m.json")]) == 1
    assert "its times are of opencv, and --runtime says mnn" in capsys.readouterr().err
    # A form that was refused: the scheme's network is the one that was exported, and is found.
    form = [r["network"] for r in rows if r["form"].startswith("spatial:")][-1]
    kept = "\n".join(x for x in times if not x.startswith(form))
    (out / "form.csv").write_text(f"{kept}\n{form},refused\n")
    assert latency(tmp_path, "--import", str(out / "form.csv"), "--out", str(tmp_path / "f.json")) == 0
    assert set(read_latency(tmp_path / "f.json").about["anchors"]) == set(table.about["anchors"])
    assert "from end to end" not in capsys.readouterr().err
    last = [r["network"] for r in rows if r["form"] == "spatial"][-1]
    (out / "last.csv").write_text("\n".join(x for x in times if not x.startswith(last)) + f"\n{last},refused\n")
    assert latency(tmp_path, "--import", str(out / "last.csv"), "--out", str(tmp_path / "g.json")) == 0
    assert "no network in the scheme spatial was timed from end to end" in capsys.readouterr().err
    flat = [f"{x.split(',')[0]},1000" if x[0] not in "#n" else x for x in times]
    (out / "flat.csv").write_text("\n".join(flat))
    assert latency(tmp_path, "--import", str(out / "flat.csv"), "--out", str(tmp_path / "h.json")) == 1
    assert "flat.csv: no layer takes longer than the network without it" in capsys.readouterr().err
    # A row that is missing, and a network that was refused.
    whole = next(r["network"] for r in rows if r["form"] == "whole")
    cut = "\n".join(x for x in times if not x.startswith(whole))
    (out / "cut.csv").write_text(cut)
    assert latency(tmp_path, "--import", str(out / "cut.csv"), "--out", str(tmp_path / "m.json")) == 1
    assert f"(network {whole};" in capsys.readouterr().err
    (out / "cut.csv").write_text(cut + f"\n{whole},refused\n")
    assert latency(tmp_path, "--import", str(out / "cut.csv"), "--out", str(tmp_path / "m.json")) == 1
    assert "takes none of the layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("network,nanoseconds\nab,-5\n", r"t.csv: line 2: nanoseconds '-5': a number above 0 is needed, or the word refused"),
     ("# threads=2\nnetwork,nanoseconds\nab,7\nab,\n", "line 4: nanoseconds ''"), ("network,nanoseconds\nab,nan\n", "line 2"),
     ("network,nanoseconds\nab,0\n", "line 2"), ("network,nanoseconds\nab\n", "line 2"), ("network;ns\nab;3\n", "the columns 'network' and 'nanoseconds' are needed; it has network;ns"),
     ("", "it has none"), ("# runtime=ncnn\nnetwork,nanoseconds\nab,3\n", "its times are of ncnn, and --runtime says mnn")],
)  # fmt: skip
def test_bad_times_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(MetricsError, match=message):
        Imported(tmp_path / "t.csv", RUNTIMES["mnn"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="t.csv: cannot be read"):
        Imported(tmp_path / "t.csv", RUNTIMES["mnn"])


def test_flags_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    given = ["latency", "--model", str(tmp_path / "net.prototxt")]
    for more, words in (
        (["--runtime", "tflite", "--out", str(tmp_path / "l.json")], "--runtime tflite: known are caffe"),
        (["--export", str(tmp_path / "d"), "--import", str(tmp_path / "t.csv")], "--export and --import: one of them"),
        ([], "--out LATENCY.json is needed"),
        (["--runtime", "ncnn", "--batch", "2", "--out", str(tmp_path / "l.json")], "ncnn takes one image at a time"),
        (["--export", str(tmp_path)], f"--export {tmp_path}: exists already; name a folder that does not"),
        (["--rounds", "2", "--out", str(tmp_path / "l.json")], "--rounds 2: 6 or more"),
    ):
        assert main([*given, *more]) == 2
        assert words in capsys.readouterr().err
