"""``make bench``: its networks have the sizes that it says, and what was measured is not measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enc_caffe.caffe_io.prototxt import from_text

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, beside which it finds the others."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import speed as module

    return module


def test_networks_have_their_part_of_the_macs(speed: Any, tmp_path: Path) -> None:
    known = speed.sources(tmp_path)
    assert list(known) == ["ResNet-56", "AlexNet", "VGG-16", "SqueezeNet v1.1", "MobileNet's shape"]
    path, *batches = known["SqueezeNet v1.1"]
    found, missing = speed.subjects("SqueezeNet v1.1", path, tuple(batches), tmp_path)
    assert missing == [] and [(s.part, s.backward) for s in found] == [
        (p, b) for p in (1, 0.5, 0.25) for b in (False, True)
    ]
    # The sum over SqueezeNet v1.1's 26 layers.
    assert found[0].macs == 387_747_520
    for subject in found:
        assert 0.97 * subject.part < subject.macs / found[0].macs <= subject.part
        layers = speed.torch_layers(subject)
        assert layers["input"] == [8, 3, 227, 227] and layers["backward"] == subject.backward
        assert from_text(subject.text).layer[-1].type == ("SoftmaxWithLoss" if subject.backward else "Softmax")
    made = [x["parameters"] for x in speed.torch_layers(found[2])["layers"]]
    pairs = [(p["kernel"], p["pad"]) for p in made if p.get("kernel") in ([3, 1], [1, 3]) and any(p["pad"])]
    assert pairs and set(map(str, pairs)) == {"([3, 1], [1, 0])", "([1, 3], [0, 1])"}


def test_ratios_are_of_rounds(speed: Any) -> None:
    whole, half = (speed.Subject("net", part, round(part * 1000), "", False, 4) for part in (1.0, 0.5))
    kept = {
        whole.key: {"Caffe": [0.004, 0.009, 0.006], "this build": [0.002, 0.003, 0.003]},
        half.key: {"Caffe": [0.002, 0.002, 0.002], "this build": [0.001, 0.001, 0.002]},
    }
    rows = speed.table([whole, half], [whole, half], kept, ["Caffe", "this build"])
    assert rows[0] == ["net", "forward", "1.00", "4", "6 (4 to 9)", "3 (2 to 3)", "2.00", "1.00"]
    # The original need not be in the table.
    assert rows[1:] == speed.table([half], [whole, half], kept, ["Caffe", "this build"])
    assert rows[1] == ["net", "forward", "0.50", "4", "2 (2 to 2)", "1 (1 to 2)", "2.00", "0.50"]


@pytest.mark.caffe
def test_a_run_goes_on_where_it_was(speed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--networks", "resnet", "--parts", "0.25", "--passes", "forward", "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)]  # fmt: skip
    assert speed.main(command) == 0
    first = capsys.readouterr()
    assert "1 of 1: ResNet-56 0.25 forward batch 50" in first.err and "ResNet-56" in first.out
    (state,) = tmp_path.glob("*.json")
    times = json.loads(state.read_text())["times"]["ResNet-56 0.25 forward batch 50"]
    assert all(len(times[side]) == 1 and times[side][0] > 0 for side in ("Caffe", "this build"))
    assert speed.main(command) == 0
    again = capsys.readouterr()
    rows = [[x for x in out.split("\n") if x.startswith("ResNet-56")] for out in (first.out, again.out)]
    assert again.err == "" and rows[0] == rows[1] and len(rows[0]) == 1


def test_wrong_flags(speed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (["--parts", "0.3"], "--parts 0.3: numbers from"), (["--passes", "back"], "--passes back: forward, training or both"),
        (["--against", str(tmp_path)], "there is no python/caffe in this folder"), (["--torch", "/none"], "no Python with PyTorch"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            speed.main(flags)
        assert ended.value.code == 2 and words in capsys.readouterr().err
