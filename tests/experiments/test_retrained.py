"""The training that all networks of a table get."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_tools.finetune import RESULT
from enc_caffe.errors import UsageError
from enc_caffe.experiments.retrained import Training, retrained, trained_model
from enc_caffe.measuring.store import ResultStore
from enc_caffe.workers.choice import Workers
from tests.experiments.digits import trained_digits

ROOT = Path(__file__).resolve().parent.parent.parent
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "norm" type: "BatchNorm" bottom: "data" top: "norm" }
layer { name: "other" type: "BatchNorm" bottom: "norm" top: "other" batch_norm_param { moving_average_fraction: 0.95 eps: 0.5 } }
"""


def test_statistics_are_renewed_as_fast_as_asked(tmp_path: Path) -> None:
    (tmp_path / "train_val.prototxt").write_text(NET)
    assert trained_model(tmp_path, None) == tmp_path / "train_val.prototxt"
    made = trained_model(tmp_path, 0.75)
    norms = [layer.batch_norm_param for layer in read_net(made).layer if layer.type == "BatchNorm"]
    assert [n.moving_average_fraction for n in norms] == [0.75, 0.75] and norms[1].eps == 0.5
    assert (tmp_path / "train_val.prototxt").read_text() == NET


def test_a_training_depends_on_how_fast(tmp_path: Path) -> None:
    solver = ROOT / "prototxt" / "resnet56" / "solver.prototxt"
    (tmp_path / "data.mdb").write_bytes(b"images")
    with ResultStore(tmp_path / "store.sqlite") as store:
        keys = [Training(4, solver, tmp_path, s).key(store)["statistics"] for s in (None, 0.9)]
    assert keys == [None, 0.9]
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(UsageError, match=f"--statistics {wrong}: a part between 0 and 1"):
            Training(4, solver, tmp_path, wrong)


@pytest.mark.caffe
@pytest.mark.parametrize(("statistics", "weight"), [(None, 1 + 0.999 + 0.999**2), (0.5, 1.75)])
def test_caffe_trains_by_the_statistics_that_were_asked_for(
    tmp_path: Path, statistics: Optional[float], weight: float
) -> None:
    prototxts, weights, train, test = trained_digits(tmp_path)
    folder, text = tmp_path / "net", (prototxts / "train_val.prototxt").read_text()
    folder.mkdir()
    behind = 'layer { name: "relu1"'
    norm = 'layer { name: "norm" type: "BatchNorm" bottom: "conv1" top: "conv1" }\n'
    (folder / "train_val.prototxt").write_text(text.replace(behind, norm + behind))
    (folder / "compressed.caffemodel").write_bytes(weights.read_bytes())
    training = Training(3, prototxts / "solver.prototxt", train, statistics)
    with ResultStore(tmp_path / "store.sqlite") as store, Workers(1).executor() as executor:
        made = retrained(training, folder, tmp_path / "out", test, store, executor, lambda step: None)
        # Where it trains goes through to Caffe's command.
        with pytest.raises(UsageError, match="--gpu x: all, or numbers"):
            retrained(replace(training, gpu="x"), folder, tmp_path / "x", test, store, executor, lambda step: None)
    # What counts the right images is the table's own pass, and no second one of caffe test.
    assert not (tmp_path / "out" / "caffe_test.log").exists()
    assert made["iterations"] == 3 and made["score"]["images"] == 60
    net = caffe_pb2().NetParameter.FromString((tmp_path / "out" / RESULT).read_bytes())
    # Caffe's sums of means and variances, and their weight: each iteration takes the fraction of it and adds 1.
    (blobs,) = (layer.blobs for layer in net.layer if layer.name == "norm")
    assert blobs[2].data[0] == pytest.approx(weight, rel=1e-6)
