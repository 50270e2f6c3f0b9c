"""The agent's networks: gradients against differences, Adam, and following."""

from __future__ import annotations

import numpy as np
import pytest

from enc_caffe.agents.mlp import LAST, Mlp


@pytest.mark.parametrize("sigmoid", [False, True])
def test_gradients_are_those_of_small_differences(sigmoid: bool) -> None:
    rng = np.random.default_rng(0)
    net = Mlp((3, 7, 5, 2), rng, 1e-3, sigmoid)
    # Large enough last weights for differences to be seen.
    net.parameters = [p.astype(np.float64) * (100 if i == 4 else 1) for i, p in enumerate(net.parameters)]
    x, above = rng.standard_normal((6, 3)).astype(np.float32), rng.standard_normal((6, 2)).astype(np.float32)
    net(x)
    found, inputs = net.backward(above)

    def value(at: np.ndarray = x) -> float:
        return float((net(at) * above).sum())

    for parameter, gradient in zip(net.parameters, found):
        for place in [(0,) * parameter.ndim, tuple(n - 1 for n in parameter.shape)]:
            kept = parameter[place]
            parameter[place] = kept + 1e-4
            up = value()
            parameter[place] = kept - 1e-4
            down = value()
            parameter[place] = kept
            assert gradient[place] == pytest.approx((up - down) / 2e-4, rel=2e-3, abs=1e-4)
    moved = x.copy()
    moved[2, 1] += 1e-2
    other = x.copy()
    other[2, 1] -= 1e-2
    assert inputs[2, 1] == pytest.approx((value(moved) - value(other)) / 2e-2, rel=2e-2, abs=1e-3)


def test_an_untrained_network_answers_its_start() -> None:
    net = Mlp((4, 300, 300, 1), np.random.default_rng(1), 1e-3, sigmoid=True, start=float(np.log(0.3 / 0.7)))
    out = net(np.random.default_rng(2).random((50, 4)))
    assert np.abs(out - 0.3).max() < 300 * LAST * 0.2 and len(np.unique(out)) > 1


def test_adam_moves_every_parameter_by_its_rate_at_first_and_finds_a_least_square() -> None:
    rng = np.random.default_rng(3)
    net = Mlp((2, 16, 1), rng, 1e-2)
    x = rng.standard_normal((64, 2))
    wanted = (x[:, :1] - 2 * x[:, 1:]).astype(np.float32)
    before = [p.copy() for p in net.parameters]
    off = net(x) - wanted
    first = float((off**2).mean())
    gradients = net.backward(2 * off / len(x))[0]
    net.descend(gradients)
    for old, new, g in zip(before, net.parameters, gradients):
        far = np.abs(g) > 1e-6
        assert np.allclose((new - old)[far], -1e-2 * np.sign(g)[far], rtol=0.02)
    for _ in range(300):
        off = net(x) - wanted
        net.descend(net.backward(2 * off / len(x))[0])
    assert float((off**2).mean()) < 0.01 * first


def test_following_goes_a_part_of_the_way() -> None:
    rng = np.random.default_rng(4)
    one, two = Mlp((2, 3, 1), rng, 1e-3), Mlp((2, 3, 1), rng, 1e-3)
    start = [p.copy() for p in one.parameters]
    one.follow(two, 0.25)
    for old, now, other in zip(start, one.parameters, two.parameters):
        assert np.allclose(now, old + 0.25 * (other - old), atol=1e-6)
