"""AMC: costs of channels that depend on each other, its walk within the budget, and what it does not do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from enc_caffe.decomposition import form_cost, group_spectra, scheme_for
from enc_caffe.errors import InfeasibleError, MetricsError, UsageError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, Layer
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.search import amc
from enc_caffe.search.build import build_problem
from enc_caffe.search.channels import ChannelProblem
from enc_caffe.search.walk import ChannelWalk
from tests.search.tables import curves, options

RULE = "prune_magnitude"


def layer_of(name: str, inputs: int, outputs: int, side: int) -> Layer:
    shapes = ((1, inputs, side, side),), ((1, outputs, side, side),)
    geometry = Convolution(outputs, (3, 3), pad=(1, 1))
    return Layer(name, "Convolution", bottom_shapes=shapes[0], top_shapes=shapes[1], convolution=geometry)


def pruned(layer: Layer, before: Before, seed: int) -> LayerMetrics:
    scheme, rng = scheme_for(RULE), np.random.default_rng(seed)
    weights = rng.standard_normal((layer.out_channels, layer.in_channels, *layer.kernel))
    spectra = tuple(group_spectra(scheme.matrices(layer, weights)))
    ladder = scheme.forms(layer, spectra)
    return LayerMetrics(layer, RULE, len(ladder), spectra, ladder=ladder, paper=False, before=before)


def chain(sizes: tuple[int, ...] = (3, 8, 6, 10, 4), side: int = 4, listed: bool = False) -> MetricsTable:
    """Convolutions in a row: all but the first read fewer channels; ``listed``: the first has curves of its own."""
    layers = [layer_of(f"l{i}", a, b, side) for i, (a, b) in enumerate(zip(sizes, sizes[1:]))]
    own = [m for m in curves("l0", sizes[0], sizes[1], side, 3, 0) if m.scheme == "channel"] if listed else []
    unlisted = Before((), *form_cost(layers[0], WHOLE, outputs=1))
    befores = [Before(("l0",)) if listed else unlisted, *(Before((x.name,)) for x in layers[1:-1])]
    found = [pruned(x, b, i) for i, (x, b) in enumerate(zip(layers[1:], befores))]
    whole = sum(form_cost(x, WHOLE)[0] for x in layers), sum(form_cost(x, WHOLE)[1] for x in layers)
    extra = (("network_macs", whole[0] + 1000), ("network_parameters", whole[1] + 10), ("first_layer", "l0"))
    return MetricsTable("net", "", (*own, *found), 1.0, extra)


def problem_of(table: MetricsTable, target: float = 0.5, **changes) -> ChannelProblem:
    problem = build_problem(table, options(method="amc", schemes=(RULE,), target_flops=target, **changes))
    assert isinstance(problem, ChannelProblem)
    return problem


def by_energy(problem: ChannelProblem):
    return lambda channels: float(np.exp(problem.score(channels) / len(problem.layers)))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("count", ["paper", "all"])
def test_costs_are_those_of_the_emitted_network(listed: bool, count: str) -> None:
    table = chain(listed=listed)
    problem = problem_of(table, count=count, convention="exact")
    more = (1000, 10) if count == "all" else (0, 0)
    numbers = [range(1, x.max_rank + 1, 2) for x in problem.layers]
    assert len(problem.layers) == 3 and problem.layers[0].forms[8] == WHOLE
    for channels in itertools.product(*numbers):
        forms = {n: f for x, k in zip(problem.layers, channels) for n, f in x.pairs(k)}
        wanted = tuple(c + m for c, m in zip(table.cost(forms), more))
        assert (problem.cost("macs", channels), problem.cost("parameters", channels)) == wanted
    assert problem.originals == {n: c + m for n, c, m in zip(("macs", "parameters"), table.cost({}), more)}
    rows = np.array(list(itertools.product(*numbers)))
    assert problem.costs_of("macs", rows).tolist() == [problem.cost("macs", r) for r in rows.tolist()]


def test_a_walk_meets_the_budget_whatever_is_asked_for() -> None:
    for target, more in ((0.1, {}), (0.3, {"target_params": 0.4}), (0.5, {}), (0.9, {"multiple_of": 2})):
        problem = problem_of(chain(), target, count="paper", **more)
        walk = ChannelWalk(problem, by_energy(problem))
        for actions in ([1.0] * 3, [1e-6] * 3, [1.0, 1e-6, 1.0], [0.3, 0.9, 0.2]):
            state, states = walk.reset(), []
            for action in actions:
                states.append(state)
                state = walk.step(action)
            assert state is None
            walk.reward()
            channels = walk.episodes[-1][0]
            assert problem.fits(channels) and all(k in x.ranks for k, x in zip(channels, problem.layers))
            seen = np.stack(states)
            assert seen.shape == (3, walk.features) and seen.min() >= 0 and seen.max() <= 1
        assert walk.episodes[1][0] == tuple(x.low for x in problem.layers)
        # Asked for everything, the first layer keeps all that the least of the others leaves room for.
        first, lowest = problem.layers[0], [x.low for x in problem.layers[1:]]
        assert walk.episodes[0][0][0] == max(k for k in first.ranks if problem.fits([int(k), *lowest]))


def test_what_is_saved_is_saved_in_the_layers_before_too() -> None:
    problem = problem_of(chain(), 1.0, count="paper", floor=0)
    walk = ChannelWalk(problem, by_energy(problem))
    assert walk.reset()[8] == 0
    whole = problem.originals["macs"]
    after = walk.step(0.5)
    assert after is not None and walk.episodes == []
    # Of 8 channels 4 are left: l0 makes half, l1 reads half.
    halves = (form_cost(layer_of("l0", 3, 8, 4), WHOLE)[0] + form_cost(layer_of("l1", 8, 6, 4), WHOLE)[0]) / 2
    assert after[8] == pytest.approx(halves / whole, abs=1e-6) and after[10] == pytest.approx(0.5)


def test_an_untrained_agent_proposes_what_the_budget_leaves() -> None:
    problem = problem_of(chain(), 0.5, count="paper")
    part = ChannelWalk(problem, by_energy(problem)).first_action()

    def at(part: float) -> list[int]:
        return [max(x.low, round(part * x.max_rank)) for x in problem.layers]

    assert problem.fits(at(part)) and not problem.fits(at(part + 0.1))


def test_the_best_episode_is_a_plan_and_gone_on_with() -> None:
    table, kept, asked = chain(listed=True), {}, []
    wanted = options(method="amc", schemes=(RULE,), episodes=24, count="paper")

    def stored(forms, stop=None):
        key = tuple(sorted(forms.items()))
        if key not in kept:
            if stop is not None and len(kept) == stop:
                raise KeyboardInterrupt
            asked.append(key)
            kept[key] = sum(f.ranks[0] for f in forms.values()) / 100
        return kept[key]

    with pytest.raises(KeyboardInterrupt):
        search_plan(table, wanted, lambda forms: stored(forms, 5))
    found = search_plan(table, wanted, stored)
    about = found.plan.about
    assert len(asked) == len(set(asked)) == about.evaluated and about.gap is None and not about.proven_optimal
    assert (
        about.accuracy == max(kept.values()) == max(about.learning["accuracy"])
        and len(about.learning["accuracy"]) == 24
    )
    assert all(f.scheme == RULE for f in found.plan.forms.values())
    macs, parameters = table.cost(found.plan.forms, "paper")
    whole = table.cost({}, "paper")
    assert about.flops_ratio == macs / whole[0] <= 0.5 and about.params_ratio == parameters / whole[1]


def test_it_prunes_where_it_may() -> None:
    # The layer that reads the data loses no outputs where it is to stay as it is.
    assert [x.name for x in problem_of(chain(listed=True), first_layer="keep").layers] == ["l2", "l3"]
    left = problem_of(chain(), whole=frozenset({"l2"}), target=0.95)
    assert [x.name for x in left.layers] == ["l1"]
    bounded = problem_of(chain(), bounds={"l2": (4, 5)}, count="paper")
    assert bounded.layers[1].ranks.tolist() == [4, 5]
    assert problem_of(chain(), multiple_of=4).layers[2].ranks.tolist() == [4, 8, 10]


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="--method amc prunes channels and does nothing else, but --schemes paper"):
        build_problem(chain(), options(method="amc"))
    with pytest.raises(UsageError, match=f"but --schemes spatial,{RULE} is asked for"):
        build_problem(chain(), options(method="amc", schemes=("spatial", RULE)))
    with pytest.raises(MetricsError, match="no layer is left to prune"):
        problem_of(chain((3, 8, 6)), whole=frozenset({"l1"}))
    with pytest.raises(UsageError, match="--bounds l2=4:9: 1 <= lowest <= highest <= 6 channels"):
        problem_of(chain(), bounds={"l2": (4, 9)})
    with pytest.raises(UsageError, match="--method amc evaluates every episode: give --model"):
        amc.search(problem_of(chain()), None)
    low = problem_of(chain(), 0.05)
    with pytest.raises(
        InfeasibleError, match="target 0.0500 of the MACs cannot be reached: .* lower --floor or --bounds"
    ):
        amc.search(low, by_energy(low))


def test_seeds_differ_and_the_same_seed_does_not() -> None:
    problem = problem_of(chain(), episodes=6)
    other = replace(problem, options=replace(problem.options, seed=1))
    first, again, third = (amc.search(p, by_energy(problem)) for p in (problem, problem, other))
    assert first == again and first.evaluated != third.evaluated


def test_form_of_a_place() -> None:
    first = problem_of(chain()).layers[0]
    assert first.pairs(3) == (("l1", Form(RULE, (3,))),) and first.pairs(8) == ()
