"""Settings of one method alone: defaults, ranges, and what contradicts them."""

from __future__ import annotations

import pytest

from enc_caffe.errors import UsageError
from enc_caffe.search.methods import METHODS, method_for, most_evaluations
from enc_caffe.search.own import OWN
from tests.search.tables import options


def test_every_setting_belongs_to_methods_that_exist() -> None:
    assert all(m in METHODS for own in OWN.values() for m in own.methods)
    assert all(own.flag == f"--{name}" for name, own in OWN.items())


def test_defaults() -> None:
    assert options(method="adc").own("episodes") == 400 and options(method="adc").own("exploration") == 100
    assert options(method="adc", episodes=40).own("exploration") == 10
    assert options(method="adc", episodes=40, exploration=40).own("exploration") == 40
    assert options(method="ars", step=0.1).own("step") == 0.1 and options(method="iterative").own("step") == 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "map", "episodes": 5}, "--episodes 5: belongs to --method adc, but --method map is asked for"),
        ({"method": "adc", "boundary": 0.1}, "--boundary 0.1: belongs to --method ars, but --method adc"),
        ({"method": "ars", "tilt": 0.1}, "--tilt 0.1: belongs to --method heuristic"),
        ({"method": "adc", "episodes": 0}, "--episodes 0: a whole number from 1"),
        ({"method": "adc", "exploration": 401}, "--exploration 401: more than the 400 episodes in all"),
        ({"method": "adc", "episodes": 10, "exploration": 11}, "--exploration 11: more than the 10 episodes"),
        ({"method": "adc", "noise": 0.0}, "--noise 0.0: a number above 0 to 10"),
        ({"method": "ars", "step": 1.5}, "--step 1.5: a number above 0 to 1"),
        ({"method": "heuristic", "tilt": -2}, "--tilt -2: a number from -1 to 1"),
        ({"method": "ars", "step": float("nan")}, "--step nan: a number above 0 to 1"),
        ({"method": "y_d", "target_accuracy": 0.9}, "--method y_d makes one network"),
    ],
)
def test_what_is_refused(changes, words) -> None:
    with pytest.raises(UsageError) as found:
        options(**changes)
    assert words in str(found.value)


def test_a_method_that_is_none() -> None:
    with pytest.raises(UsageError, match="--method magic: known are map, .*adc, amc"):
        method_for("magic")


def test_evaluations_that_a_bar_counts() -> None:
    assert most_evaluations(options(method="adc", episodes=7), 50) == 7
    assert most_evaluations(options(method="amc"), 50) == 400
    assert most_evaluations(options(method="inf"), 54) == 20 and most_evaluations(options(method="map"), 54) == 0
    assert most_evaluations(options(method="ars", target_flops=0.5), 54) == 33
