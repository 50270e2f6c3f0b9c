from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enc_caffe.caffe_io.datum import array_records, write_lmdb
from enc_caffe.caffe_io.prototxt import read_solver
from enc_caffe.caffe_tools.finetune import finetune
from enc_caffe.caffe_tools.schedule import in_short
from enc_caffe.caffe_tools.training import LOG

DIGITS = Path(__file__).resolve().parents[2] / "prototxt" / "digits"
POLICIES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "step": {"gamma": 0.5, "stepsize": 16},
    "multistep": {"gamma": 0.3, "stepvalue": [8, 28]},
    "exp": {"gamma": 0.98},
    "inv": {"gamma": 0.05, "power": 0.75},
    "poly": {"power": 2.0},
    "sigmoid": {"gamma": 0.2, "stepsize": 20},
}


def rates(out: Path, fields: dict[str, Any]) -> dict[int, float]:
    """The learning rates that stock ``caffe train`` says, by iteration."""
    finetune(DIGITS / "solver.prototxt", None, out, None, out.parent / "lmdb", out.parent / "lmdb",
             {"base_lr": 0.001, "display": 1, "random_seed": 1, **fields}, test=False)  # fmt: skip
    found = re.findall(r"Iteration (\d+), lr = ([0-9.e+-]+)", (out / LOG).read_text())
    return {int(iteration): float(rate) for iteration, rate in found}


@pytest.mark.caffe
@pytest.mark.parametrize("policy", POLICIES)
def test_a_short_training_has_the_rates_of_the_whole_one(policy: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 17, (64, 1, 8, 8)).astype(np.uint8)
    write_lmdb(tmp_path / "lmdb", array_records(images, np.arange(64) % 10))
    whole = {**POLICIES[policy], "lr_policy": policy, "max_iter": 40, "snapshot": 40}
    solver = read_solver(DIGITS / "solver.prototxt")
    for name, value in whole.items():
        if isinstance(value, list):
            getattr(solver, name)[:] = value
        else:
            setattr(solver, name, value)
    long, short = (rates(tmp_path / n, {**whole, **own}) for n, own in (("long", {}), ("short", in_short(solver, 10))))
    assert len(set(long.values())) > 1 or policy == "fixed"
    assert [short[i] for i in range(10)] == pytest.approx([long[4 * i] for i in range(10)], rel=1e-4)


def test_many_steps_in_few_iterations() -> None:
    solver = read_solver(DIGITS / "solver.prototxt")
    solver.lr_policy, solver.max_iter, solver.stepsize, solver.gamma = "step", 1000, 50, 0.9
    for stepsize, short in ((50, 2), (10, 1), (100, 5)):
        solver.stepsize = stepsize
        own = in_short(solver, 50)
        assert own["stepsize"] == short
        # As much lower in the end as the whole training.
        assert own["gamma"] ** (50 / short) == pytest.approx(0.9 ** (1000 / stepsize), rel=1e-5)


def test_a_rate_that_rises_beyond_all_numbers_is_a_number() -> None:
    solver = read_solver(DIGITS / "solver.prototxt")
    solver.lr_policy, solver.max_iter, solver.gamma = "exp", 40000, 1.5
    assert 1e30 < in_short(solver, 20)["gamma"] < 3e38
    solver.gamma = 0.0
    assert in_short(solver, 20)["gamma"] == 0.0
    solver.max_iter = 0
    assert in_short(solver, 20)["max_iter"] == 20
