"""Tables of a report on a terminal; elsewhere they are Markdown, which other programs can read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mddbench.report.tables.table import METRIC_COLUMNS, PLUS_MINUS, Cell, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from mddbench.report.build import Report

WIDEST = 10_000
"""Columns of a terminal that is wide enough for any table."""
STYLES = {"": "", "best": "bold", "second": "underline"}


def print_tables(report: Report, console: Console | None = None) -> None:
    """Print the main tables of a report.

    On a terminal they have the metrics, or all columns of a table without these, and no notes, which are in the report.

    Args:
        report: The report.
        console: A terminal; None for standard output, if that is one.
    """
    if console is None and not sys.stdout.isatty():
        for text in report.main.values():
            print(text)
        return
    from rich.console import Console

    console = console or Console(highlight=False)
    for table in report.main_tables.values():
        _print(table, console)


def _print(table: Table, console: Console) -> None:
    """Print a table, without standard deviations where the terminal is too narrow for them."""
    grid = _grid(table, with_deviations=True)
    wanted = console.measure(grid, options=console.options.update(width=WIDEST)).maximum
    console.print(_grid(table, with_deviations=False) if wanted > console.width else grid)


def _grid(table: Table, with_deviations: bool) -> Grid:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    metrics = {column.key for column in METRIC_COLUMNS}
    chosen = [place for place, column in enumerate(table.columns) if column.key in metrics or column.kind == "count"]
    if not any(table.columns[place].key in metrics for place in chosen):
        chosen = list(range(len(table.columns)))
    grid = Grid(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.padding = (0, 1, 0, 0)
    grid.add_column(Text(table.row_head))
    for place in chosen:
        column = table.columns[place]
        grid.add_column(Text(column.head), justify="right" if column.is_number else "left")
    for row in table.rows:
        grid.add_row(Text(row.marked_label), *(_text(row.cells[place], with_deviations) for place in chosen))
    return grid


def _text(cell: Cell, with_deviation: bool) -> Text:
    from rich.text import Text

    if cell.parts:
        return Text(" / ").join(_text(part, with_deviation) for part in cell.parts)
    text = cell.text if with_deviation else cell.text.partition(PLUS_MINUS)[0]
    return Text(text, style=STYLES[cell.mark])
