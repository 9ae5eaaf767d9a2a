"""Tables as CSV, with all digits."""

from __future__ import annotations

import csv as _csv
import io
from collections.abc import Iterable, Sequence

from mddbench.report.tables.table import Table

FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that begins with one of these signs for a formula


def csv(table: Table) -> str:
    """Write a table as CSV.

    Values and standard deviations are in [0, 1], costs in the units of records. A published row has 0 seeds.

    Args:
        table: The table.

    Returns:
        The text. A field is empty where there is no number.
    """
    heads = ["row"]
    for column in table.columns:
        for key in [f"{column.key} {part}" for part in column.parts] or [column.key]:
            heads += [key, f"{key}_std"] if column.kind == "percent" else [key]
    lines: list[list[object]] = []
    for row in table.rows:
        line: list[object] = [row.marked_label]
        for column, whole in zip(table.columns, row.cells, strict=True):
            for cell in whole.parts or (whole,):
                number = int(cell.value or 0) if column.kind == "count" else cell.value
                line.append(number if column.is_number else cell.text)
                line += [cell.deviation] if column.kind == "percent" else []
        lines.append(line)
    return csv_lines([heads, *lines])


def csv_lines(lines: Iterable[Sequence[object]]) -> str:
    """Write lines as CSV.

    Args:
        lines: The cells of each line; None for an empty field.

    Returns:
        The text. No cell of it is a formula.
    """
    text = io.StringIO()
    writer = _csv.writer(text, lineterminator="\n")
    writer.writerows([csv_text(cell) for cell in line] for line in lines)
    return text.getvalue()


def csv_text(cell: object) -> object:
    """Return a cell, with an apostrophe before a text that a spreadsheet would take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(FORMULA) else cell
