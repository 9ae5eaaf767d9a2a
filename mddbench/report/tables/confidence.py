"""The table of bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

from mddbench.metrics.names import COLUMNS, LABELS
from mddbench.report.rows.groups import Group
from mddbench.report.tables.results import MEAN
from mddbench.report.tables.table import Cell, Column, Row, Table, percent

NOTE = "Percent, with the 95 % interval of a bootstrap over the test images of each category (docs/metrics.md)."


def confidence_table(dataset: str, groups: Sequence[Group]) -> Table | None:
    """The bootstrap intervals of means over categories.

    Args:
        dataset: Its name, for the title.
        groups: The measured rows.

    Returns:
        A table with a row for each run that has intervals; None if no run has any.
    """
    rows = []
    for group in groups:
        for record in group.records:
            intervals = record.confidence.get(MEAN, {})
            if intervals:
                cells = [_cell(record.value(MEAN, key), intervals.get(key)) for key in COLUMNS]
                rows.append(Row(group.shown, (Cell(str(record.seed), record.seed), *cells)))
    columns = (Column("seed", "seed", "count"), *(Column(LABELS[key], key) for key in COLUMNS))
    title = f"{dataset}: means over categories with confidence intervals"
    return Table(title, "Method", columns, tuple(rows), (NOTE,)) if rows else None


def _cell(value: float, ends: tuple[float, float] | None) -> Cell:
    interval = "" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
    return Cell(f"{percent(value)}{interval}")
