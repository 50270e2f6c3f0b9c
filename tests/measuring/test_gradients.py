"""Changes of the scores by gradients against changes of the weights, in real Caffe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.calibration.sensitivity import backward_task
from enc_caffe.form import Form
from enc_caffe.measuring.passes import NetTask, batches, engine_of
from enc_caffe.measuring.probes import probes_of
from enc_caffe.measuring.subject import net_task
from enc_caffe.workers.choice import Workers
from tests.calibration.test_sensitivity import IMAGES, sensed, subject_of
from tests.measuring import nets

pytestmark = pytest.mark.caffe


def two_outputs() -> str:
    """A trunk with two heads, of which the second is an output of its own; a 1x1 and a fully connected layer, no softmax."""
    return (
        'name: "heads" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
        + nets.conv("a", "data", 8, stride=2) + nets.simple("ra", "ReLU", "a") + nets.conv("other", "a", 4)
        + nets.conv("b", "a", 8, kernel=1) + nets.simple("rb", "ReLU", "b", "rb") + nets.conv("c", "rb", 6, groups=2)
        + 'layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc" inner_product_param { num_output: 20 } }\n'
    )  # fmt: skip


def reshaped() -> str:
    """A Reshape before a Flatten: the gradient must come through both. The Reshape says that there is one image."""
    return (
        'name: "rows" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
        + nets.conv("a", "data", 8, stride=2) + nets.simple("ra", "ReLU", "a") + nets.conv("b", "a", 6, stride=2)
        + nets.simple("rows", "Reshape", "b", "rows", "reshape_param { shape { dim: 1 dim: -1 dim: 6 } }") + nets.simple("rr", "ReLU", "rows")
        + nets.simple("flat", "Flatten", "rows", "flat")
        + 'layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 20 } }\n'
    )  # fmt: skip


def moved(task: NetTask, name: str, form: Form, images: int, step: float) -> np.ndarray:
    """Derivative of the scores (images, K) along what a form changes in a layer, by central differences (in a worker)."""
    with engine_of(task) as engine:
        blob = engine.net.params[name][0]
        kept = blob.data.copy()
        change = engine.truncated(name, form).reshape(kept.shape) - kept
        (data, _), *_ = batches(task, 0, images)
        try:
            found = []
            for sign in (1, -1):
                blob.data[...] = kept + sign * step * change
                found.append(engine.run(data))
        finally:
            blob.data[...] = kept
        return (found[0] - found[1]) / (2 * step)


@pytest.mark.parametrize(
    "text",
    (nets.residual(), nets.grouped(), two_outputs(), reshaped()),
    ids=("residual", "grouped", "heads", "reshaped"),
)
def test_changes_of_the_scores_are_those_of_small_changes_of_the_weights(tmp_path: Path, text: str) -> None:
    with Workers(1).executor() as executor:
        made, pairs = subject_of(tmp_path, text, executor)
        task = backward_task(made, made.look.network.weighted)
        found = sensed(made, pairs, tmp_path / "s", task, executor)
        plain = replace(net_task(made, made.look.network.weighted, IMAGES))
        directions = probes_of(found.scores, made.look.scores.softmax, 0, made.units).directions
        scales = {}
        for name, form in pairs:
            derivative = executor.result(executor.submit(moved, plain, name, form, IMAGES, 5e-4))
            wanted = np.einsum("nmk,nk->nm", directions, derivative)
            scales[name, form] = float(np.abs(wanted).max())
            # A ReLU may turn within the step: few of many.
            near = np.isclose(found.changes[name, form], wanted, rtol=0.02, atol=0.02 * scales[name, form] + 2e-3)
            assert near.mean() > 0.93, (name, form, found.changes[name, form], wanted)
        assert min(scales[p] for p in pairs if p[0] != "other" and p[1].ranks[0] == 1) > 0.01
