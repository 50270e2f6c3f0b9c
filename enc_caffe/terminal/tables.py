"""Tables on standard output."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_table(title: str, headers: list[str], rows: list[list[str]], left: int = 1, wrap: bool = False) -> None:
    """A table on standard output; the first ``left`` columns are text, the others numbers; ``wrap`` lets long cells take several lines."""
    table = Table(box=None, pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < left else "right", no_wrap=not wrap)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    # A pipe has no width of its own: nothing may be cut there.
    if not console.is_terminal:
        console = Console(width=1000, markup=False, highlight=False)
    if title:
        console.print(title, soft_wrap=True)
    console.print(table)
