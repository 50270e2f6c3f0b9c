"""Flags of the search and of what layers may become, which several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional

from enc_caffe.errors import UsageError
from enc_caffe.flags.common import range_of
from enc_caffe.form import ALL, CONVENTIONS, PAPER, Schemes
from enc_caffe.search.names import COUNTS, METHODS
from enc_caffe.search.own import OWN


def bounds_argument(text: str) -> tuple[str, Optional[int], Optional[int]]:
    """``LAYER=LOW:HIGH``; either end may be absent."""
    name, equals, span = text.rpartition("=")
    low, colon, high = span.partition(":")
    try:
        if name and equals and colon:
            return name, int(low) if low else None, int(high) if high else None
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text}: LAYER=LOW:HIGH is needed, such as conv2_1=16:64 or fc6=:256")


def range_argument(text: str) -> list[float]:
    """A number, or ``first:last:step``."""
    try:
        return range_of(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def add_search(command: argparse.ArgumentParser, sweeps: bool = False, solver: str = "--solver") -> None:
    """Arguments of the rank search; ``solver`` is the flag where --solver already means a prototxt."""
    target = command.add_argument_group("budgets, as parts of the original's cost; several can be combined")
    target.add_argument(
        "--target_flops", type=range_argument if sweeps else float, metavar="F",
        help="MACs" + (", or a sweep of them, first:last:step such as 0.2:0.9:0.05" if sweeps else ""),
    )  # fmt: skip
    target.add_argument("--target_params", type=float, metavar="P", help="parameters")
    target.add_argument(
        "--target_latency", type=float, metavar="T", help="time from end to end, in the runtime of --latency"
    )
    target.add_argument("--latency", type=Path, metavar="LATENCY.json", help="what enc-caffe latency measured")
    target.add_argument(
        "--target_accuracy", type=float, metavar="A", help="least MACs whose predicted (or evaluated) accuracy is A"
    )
    how = command.add_argument_group("how ranks are found")
    how.add_argument("--method", default="map", help=f"{', '.join(METHODS)} (default: map)")
    how.add_argument(
        "--metric", default="pca",
        help="pca (default), measured, combined (A_c), or divergence, loss, output or fisher where the metrics hold them; compress also "
        "takes fisher+measured: what gradients predict, measured where it is large and decides",
    )  # fmt: skip
    how.add_argument(
        solver, dest="search_solver", default="exact", help="of model and inf: exact (default) or the paper's space"
    )
    how.add_argument(
        "--preset", default="budget",
        help="budget (default: never above it), paper (the paper's text), or published (the authors' runs)",
    )  # fmt: skip
    how.add_argument("--space_margin", type=float, metavar="D", help="delta_s of the space, part of C_orig")
    how.add_argument("--complexity_margin", type=float, metavar="D", help="delta_m of the space")
    how.add_argument("--density", type=float, metavar="D", help="delta_d of the space, the mean of 1/t")
    how.add_argument(
        "--candidates", type=int, metavar="N", help="N of inf and random (default: 50 up to 10 layers, else 20)"
    )
    how.add_argument(
        "--groups", action=argparse.BooleanOptionalAction, default=True,
        help="search layers of equal cost by their summed rank in the space (default: yes)",
    )  # fmt: skip
    how.add_argument("--seed", type=int, default=0, help="of random, adc and amc (default: 0)")
    add_own(command)
    rank = command.add_argument_group("ranks that are allowed")
    rank.add_argument(
        "--first_layer", help="keep, half or search: what becomes of the first layer (default: keep with the paper's schemes, "
        "else search)",
    )  # fmt: skip
    rank.add_argument("--floor", type=float, default=0.1, help="lowest rank as a part of r_max (default: 0.1)")
    rank.add_argument(
        "--multiple_of", type=int, default=1, metavar="N", help="ranks, and widths of pruned layers, in multiples of N"
    )
    rank.add_argument("--bounds", type=bounds_argument, action="append", default=[], metavar="LAYER=LOW:HIGH")
    rank.add_argument("--whole", action="append", default=[], metavar="LAYER", help="a layer that stays whole")
    count = command.add_argument_group("what is counted")
    count.add_argument(
        "--count", choices=COUNTS,
        help="what targets are parts of: all convolutions and fully connected layers (all, the default), or, as in the paper, the "
        "layers that can be decomposed (paper, the default with --preset paper and published)",
    )  # fmt: skip
    count.add_argument(
        "--convention",
        choices=CONVENTIONS,
        help="how MACs are counted (default: exact; with --count paper, paper)",
    )
    add_schemes(command)


def add_own(command: argparse.ArgumentParser) -> None:
    """Settings of one method each (:mod:`enc_caffe.search.own`)."""
    group = command.add_argument_group("settings of single methods")
    for own in OWN.values():
        default = "" if own.default is None else f" (default: {own.default:g})"
        group.add_argument(
            own.flag, type=int if own.whole else float, metavar="N" if own.whole else "X",
            help=f"of {' and '.join(own.methods)}: {own.what}{default}",
        )  # fmt: skip


class _Known:
    """The schemes that there are, as help has them."""

    def __str__(self) -> str:
        from enc_caffe.decomposition import on_request, pruning, schemes

        return (
            f"{', '.join(schemes())}; all is these, without {', '.join(on_request())} and without {', '.join(pruning())}, "
            "which take channels out"
        )


def add_schemes(command: Any) -> None:
    """``--schemes``."""
    asked = command.add_argument(
        "--schemes", type=schemes_argument, default=PAPER, metavar="paper|all|LIST",
        help="what a layer may become: the paper's scheme (default), any scheme, or one of a list such as spatial,channel; "
        "known are %(known)s",
    )  # fmt: skip
    # Where help is written; until then no scheme is imported.
    asked.known = _Known()
    command.add_argument(
        "--prune_by", metavar="error|lasso|magnitude",
        help="also let layers read fewer channels, chosen by the least error of their outputs, by LASSO, or by the size of their weights",
    )  # fmt: skip


def schemes_argument(text: str) -> Schemes:
    """``paper``, ``all``, or a list of names."""
    if text in (PAPER, ALL):
        return text
    from enc_caffe.decomposition.policy import parse_schemes

    try:
        return parse_schemes(text)
    except UsageError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("--schemes ")) from None


def add_runtime_python(command: Any) -> None:
    """``--runtime_python``."""
    command.add_argument(
        "--runtime_python", type=Path, metavar="PATH",
        help="the Python that has the runtime (default: this one, or what make deploy-test installed)",
    )  # fmt: skip


def add_format(command: Any) -> None:
    """``--format``."""
    command.add_argument(
        "--format", type=int, choices=(1, 2), default=2, help="version of the JSON format to write (default: 2; 1 has one scheme a layer)"
    )  # fmt: skip
