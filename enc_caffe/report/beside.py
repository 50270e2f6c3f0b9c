"""Networks beside each other: what their searches cost, how agents learned, and the ranks of all layers in one table."""

from __future__ import annotations

from typing import Iterable, Sequence

from enc_caffe.report.rows import Chart, Network, Points, Run, Section, Series, Table

#: Episodes that one point of a learning curve stands for.
BLOCK = 10
NOTHING = "-"


def has_searches(run: Run) -> bool:
    """Whether it is known how many networks the searches evaluated."""
    return any(n.evaluations is not None for n in run.networks)


def search_cells(network: Network) -> list[str]:
    """Evaluations and seconds of a search, for a row of the summary."""
    evaluations = NOTHING if network.evaluations is None else str(network.evaluations)
    seconds = network.search_seconds
    return [evaluations, NOTHING if seconds is None else f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"]


def learning_curve(network: Network) -> list[tuple[float, float]]:
    """(Episode, mean accuracy in percent of the block that ends there); a last block that is not full counts too."""
    values = network.learning
    blocks = [values[at : at + BLOCK] for at in range(0, len(values), BLOCK)]
    return [(float(i * BLOCK + len(b)), 100.0 * sum(b) / len(b)) for i, b in enumerate(blocks)]


def best_so_far(network: Network) -> list[tuple[float, float]]:
    """(Episode, accuracy in percent) wherever an episode is better than all before it, and at the end."""
    found: list[tuple[float, float]] = []
    for at, value in enumerate(network.learning, 1):
        if not found or 100.0 * value > found[-1][1]:
            found.append((float(at), 100.0 * value))
    if found:
        found.append((float(len(network.learning)), found[-1][1]))
    return found


def _stairs(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same with a point below each rise: what was best stays so until then."""
    found = points[:1]
    for (_, before), (at, value) in zip(points, points[1:]):
        found += [(at, before), (at, value)] if value != before else [(at, value)]
    return found


def learning(run: Run, name: str) -> Iterable[Section]:
    """The curves of all agents in one chart."""
    learners = [n for n in run.networks if n.learning]
    if not learners:
        return
    series, words = [], []
    for n in learners:
        label = n.label if n.target is None else f"{n.label} at {n.target:g}"
        curve, best = learning_curve(n), best_so_far(n)
        series.append(Series(f"{label}, mean of {BLOCK} episodes", curve, label, line=True))
        series.append(Series(f"{label}, best so far", _stairs(best), label, hollow=True, line=True))
        words.append(
            f"{label} begins at {curve[0][1]:.1f} % (mean of {BLOCK}), ends at {curve[-1][1]:.1f} %, best {best[-1][1]:.1f} % "
            f"of {len(n.learning)} episodes, first reached in episode {best[-2][0]:.0f}"
        )
    drawing = Points("episode", "top-1 accuracy, %", series)
    chart = Chart(name, "Learning curves", "; ".join(words), drawing)
    yield Section(
        "Learning curves",
        ["Every episode is one evaluation of a whole network on the images that choose."],
        (),
        [chart],
    )


def ranks(run: Run) -> Iterable[Section]:
    """One table for each target: a row a layer, a column a network."""
    tables = []
    for target in dict.fromkeys(n.target for n in run.networks if n.layers):
        shown = [n for n in run.networks if n.layers and n.target == target]
        if len(shown) > 2:
            title = "whatever the target" if target is None else f"at {target:g} of the MACs"
            tables.append(Table(f"Forms {title}", ["layer", *(n.label for n in shown)], _rows(shown), folded=True))
    if tables:
        yield Section("Forms side by side", (), tables)


def _rows(networks: Sequence[Network]) -> list[list[str]]:
    names = dict.fromkeys(layer.name for n in networks for layer in n.layers)
    forms = [{layer.name: _short(layer.form, layer.rank) for layer in n.layers} for n in networks]
    return [[name, *(own.get(name, "whole") for own in forms)] for name in names]


def _short(form: str, rank: object) -> str:
    # A single rank says all where the layer has the usual scheme; pairs of ranks keep its name.
    return form if rank is None else form.partition(":")[2]
