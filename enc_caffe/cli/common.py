"""Arguments and displays that several commands share."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Callable, Iterator, Optional

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from enc_caffe.shapes import Shape


def shape_argument(text: str) -> Shape:
    """``C,H,W`` as a shape."""
    try:
        parts = tuple(int(p) for p in text.split(","))
    except ValueError:
        parts = ()
    if len(parts) != 3 or min(parts) < 1:
        raise argparse.ArgumentTypeError(f"{text}: three positive integers C,H,W are needed, such as 3,224,224")
    return parts


def list_argument(text: str) -> tuple[int, ...]:
    """``1,5`` as a tuple of integers."""
    try:
        return tuple(int(p) for p in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: integers separated by commas are needed, such as 1,5") from None


def add_model(command: argparse.ArgumentParser, weights: bool = True) -> None:
    """``--model``, ``--weights``, and what says how large images are."""
    command.add_argument("--model", type=Path, required=True, help="prototxt of the network (train_val or deploy)")
    if weights:
        command.add_argument("--weights", type=Path, required=True, help="caffemodel")
    command.add_argument(
        "--input_shape", type=shape_argument, metavar="C,H,W", help="size of the images, where no LMDB says it"
    )


def add_search(command: argparse.ArgumentParser) -> None:
    """Arguments of the rank search."""
    command.add_argument(
        "--method",
        default="map",
        help="map, model (the exact optimum of the product of the layers' metrics) or uniform (default: map)",
    )
    command.add_argument("--metric", default="pca", help="pca or measured (default: pca)")
    command.add_argument(
        "--target_flops", type=float, required=True, metavar="F", help="MACs wanted, as a part of the original's"
    )
    command.add_argument(
        "--first_layer", default="keep", help="keep (default), half or search: what becomes of the first layer"
    )
    command.add_argument("--floor", type=float, default=0.1, help="lowest rank as a part of r_max (default: 0.1)")
    command.add_argument(
        "--convention", choices=("paper", "exact"), default="paper", help="how MACs are counted (default: paper)"
    )


def add_emission(command: argparse.ArgumentParser) -> None:
    """Arguments of the emission."""
    command.add_argument(
        "--stride_placement",
        choices=("exact", "published"),
        default="exact",
        help="exact: the pair at full rank is the original; published: both strides on the first half",
    )
    command.add_argument("--solver", type=Path, help="solver prototxt whose schedule the emitted solver takes over")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--force", action="store_true", help="replace an output that exists")


@contextlib.contextmanager
def progress_bar(what: str, total: Optional[int]) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; the callable takes what is done and what there is in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, all_: bar.update(task, completed=done, total=all_)


def print_table(title: str, headers: list[str], rows: list[list[str]], left: int = 1, wrap: bool = False) -> None:
    """A table on standard output; the first ``left`` columns are text, the others numbers; ``wrap`` lets long cells take several lines."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < left else "right", no_wrap=not wrap)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    # A pipe has no width of its own: nothing may be cut there.
    if not console.is_terminal:
        console = Console(width=1000, markup=False, highlight=False)
    console.print(table)
