"""Caffe's own programs, and the Python that runs inside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_tools.programs import caffe_test
from enc_caffe.cli import main
from tests.measuring import nets

pytestmark = pytest.mark.caffe

TWICE = """
import caffe
import numpy as np


class Twice(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = np.multiply(2, bottom[0].data)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff
"""
LAYER = (
    'layer { name: "py" type: "Python" bottom: "c" top: "py" python_param { module: "twice_layer" layer: "Twice" } }\n'
)


def kit(folder: Path, layer: str) -> dict[str, str]:
    """Files of a network with a layer between two others, and images."""
    text = nets.HEAD.format(name="n") + nets.conv("c", "data", 4) + layer + nets.TAIL.format(last="py") + nets.LOSS
    lmdb = nets.write_images(folder / "lmdb", 8)
    # Its weights are those of the network without it, which can be described.
    power = layer[: layer.index(" python_param")].replace("Python", "Power") + " power_param { scale: 2 } }\n"
    model, weights = nets.write_net(folder, text.replace(layer, power).replace('"none"', f'"{lmdb}"'))
    (folder / "power.prototxt").write_text(model.read_text())
    model.write_text(model.read_text().replace(power, layer))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "{model}" base_lr: 0.001 lr_policy: "fixed" max_iter: 2 test_iter: 2 test_interval: 2 solver_mode: CPU\n'
    )
    return {
        "model": str(model),
        "weights": str(weights),
        "solver": str(solver),
        "power": str(folder / "power.prototxt"),
    }


def test_python_layers_find_pycaffe_and_the_users_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = kit(tmp_path, LAYER)
    tune = ["finetune", "--solver", files["solver"], "--weights", files["weights"], "--allow_python_layers"]
    assert main([*tune, "--out", str(tmp_path / "none")]) == 1
    assert "stopped (signal 6): ModuleNotFoundError: No module named 'twice_layer'" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "twice_layer.py").write_text(TWICE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    losses = [
        caffe_test(Path(files[model]), Path(files["weights"]), 2, tmp_path / "log")["loss"]
        for model in ("model", "power")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert main([*tune, "--out", str(tmp_path / "tuned")]) == 0
    assert (tmp_path / "tuned" / "finetuned.caffemodel").is_file()
