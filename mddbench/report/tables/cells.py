"""Cells of means over seeds, and the marks of the best cells of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from mddbench.report.tables.table import Cell, Mark, Row, number, percent

MARKS: tuple[Mark, ...] = ("best", "second")
RankedRow = tuple[Row, bool]  # the bool: the row competes for the best value


def over_seeds(values: Sequence[float]) -> Cell:
    """Return the cell of a mean over seeds, with the standard deviation of a sample.

    Args:
        values: The value of each seed in [0, 1]. If one is NaN, the cell has no value.

    Returns:
        The cell.
    """
    series = pd.Series(values, dtype=float)
    mean, deviation = float(series.mean(skipna=False)), float(series.std(skipna=False))
    return Cell(percent(mean, deviation), number(mean), number(deviation))


def ranked(rows: list[RankedRow], column: int, lowest: bool = False) -> list[RankedRow]:
    """Mark the best of at least two competing cells of a column, and the second best of three. Equal texts tie.

    Args:
        rows: The rows.
        column: Number of the column, from 0.
        lowest: True if the lowest value is the best one.

    Returns:
        The rows with marks.
    """
    marked = marked_best([(row.cells[column], competes) for row, competes in rows], lowest)
    return [
        (replace(row, cells=(*row.cells[:column], cell, *row.cells[column + 1 :])), competes)
        for (row, competes), cell in zip(rows, marked, strict=True)
    ]


def marked_best(cells: Sequence[tuple[Cell, bool]], lowest: bool = False) -> list[Cell]:
    """Mark the best of at least two competing cells, and the second best of three. Equal texts tie.

    Args:
        cells: The cells, each with True if it competes.
        lowest: True if the lowest value is the best one.

    Returns:
        The cells with marks.
    """
    values = [cell.value for cell, competes in cells if competes]
    ordered = sorted((value for value in values if value is not None), reverse=not lowest)
    leaders = list(dict.fromkeys(map(percent, ordered)))[: 2 if len(values) > 2 else 1] if len(values) > 1 else []
    marks = dict(zip(leaders, MARKS, strict=False))
    return [
        replace(cell, mark=marks.get(percent(cell.value), "")) if competes and cell.value is not None else cell
        for cell, competes in cells
    ]
