"""Tables as CSV, with all digits."""

from __future__ import annotations

import csv as _csv
import io
from collections.abc import Iterable, Sequence

from mddbench.report.tables.table import Column, Table

FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet takes for a formula."""


def csv(table: Table) -> str:
    """A table as CSV: values and standard deviations in [0, 1], costs in the units of records.

    Args:
        table: The table.

    Returns:
        The text. A field is empty where there is no number; a published row has 0 seeds.
    """
    heads = ["row", *(head for column in table.columns for head in _heads(column))]
    lines: list[list[object]] = []
    for row in table.rows:
        line: list[object] = [row.marked_label]
        for column, cell in zip(table.columns, row.cells, strict=True):
            if column.kind == "count":
                line.append(int(cell.value or 0))
            else:
                line.append(cell.value if column.is_number else cell.text)
            line += [cell.deviation] if column.kind == "percent" else []
        lines.append(line)
    return csv_lines([heads, *lines])


def csv_lines(lines: Iterable[Sequence[object]]) -> str:
    """Lines as CSV; a text is never a formula, and None is an empty field."""
    text = io.StringIO()
    writer = _csv.writer(text, lineterminator="\n")
    writer.writerows([csv_text(cell) for cell in line] for line in lines)
    return text.getvalue()


def csv_text(cell: object) -> object:
    """A text that a spreadsheet would take for a formula, with a quotation mark before it; anything else as it is."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(FORMULA) else cell


def _heads(column: Column) -> tuple[str, ...]:
    return (column.key, f"{column.key}_std") if column.kind == "percent" else (column.key,)
