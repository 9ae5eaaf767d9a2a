"""Tables of metrics and costs, from records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from mddbench.metrics.names import LABELS
from mddbench.report.rows.groups import Group
from mddbench.report.rows.published import PublishedRow, source_notes
from mddbench.report.tables.costs import COSTS, cost_note, mean_cost, shown_cost
from mddbench.report.tables.notes import protocol_notes
from mddbench.report.tables.spec import TableSpec
from mddbench.report.tables.table import DASH, Cell, Column, Mark, Row, Run, Table, number, one_line, percent
from mddbench.runs.records import Record

MEAN = "mean"
MARKS: tuple[Mark, ...] = ("best", "second")
RankedRow = tuple[Row, bool]
"""A row, and True if it competes for the best value."""


@dataclass(frozen=True)
class Results:
    """Measured rows, and published ones below them, as tables of several forms show them.

    Attributes:
        spec: What stands in the table.
        title: Its title.
        groups: The measured rows; of a table of categories, the one method.
        published: The published rows.
        rank_published: True if published rows are ranked with the measured ones.
    """

    spec: TableSpec
    title: str
    groups: tuple[Group, ...]
    published: tuple[PublishedRow, ...] = ()
    rank_published: bool = False

    def table(self) -> Table:
        """The whole table, with all that must be said below it."""
        costs = [cost_note(self.groups)] if self.spec.costs else []
        sources = source_notes(self.published, bool(self.spec.costs))
        return self._table((*protocol_notes(self.groups), *costs, *sources), lambda _: None)

    def narrow(self) -> Results:
        """The same for narrow places: a table of metrics goes without costs, which have a table of their own."""
        return replace(self, spec=self.spec.model_copy(update={"costs": ()})) if self.spec.columns else self

    def page_table(self, run_of: Callable[[Record], Run]) -> Table:
        """The table of a page, which shows the protocol and the sources of rows elsewhere.

        Args:
            run_of: Where a record comes from.

        Returns:
            The narrow table, with the runs of each row.
        """
        costs = [cost_note(self.groups)] if self.narrow().spec.costs else []
        return self.narrow()._table((*protocol_notes(self.groups)[1:], *costs), run_of)

    def _table(self, notes: tuple[str, ...], run_of: Callable[[Record], Run | None]) -> Table:
        metrics = [Column(LABELS[key], key) for key in self.spec.columns]
        costs = [Column(COSTS[key].label, key, "cost") for key in self.spec.costs]
        rows = [*self._measured(run_of), *self._published()]
        if self.spec.rows != "category":
            for place in range(1, 1 + len(metrics)):
                rows = _ranked(rows, place)
        columns = (Column("n", "n", "count"), *metrics, *costs)
        shown = tuple(row for row, _ in rows)
        return Table(self.title, self.spec.rows.capitalize(), columns, shown, notes)

    def _measured(self, run_of: Callable[[Record], Run | None]) -> Iterator[RankedRow]:
        """The measured rows, and True for those that compete with others."""
        if self.spec.rows == "category":
            (group,) = self.groups
            for category in (*group.first.categories, MEAN):
                yield Row(category, self._cells(group, category), is_mean=category == MEAN), False
            return
        for group in self.groups:
            runs = tuple(run for record in group.records if (run := run_of(record)) is not None)
            competes = not group.first.card.upper_bound and not group.differs
            yield Row(one_line(group.shown), self._cells(group, MEAN), runs=runs), competes

    def _cells(self, group: Group, category: str) -> tuple[Cell, ...]:
        """The number of seeds, then means and standard deviations over seeds (of a sample), then costs."""
        cells = [Cell(str(len(group.records)), len(group.records))]
        for key in self.spec.columns:
            values = pd.Series([record.value(category, key) for record in group.records], dtype=float)
            mean, deviation = float(values.mean(skipna=False)), float(values.std(skipna=False))
            cells.append(Cell(percent(mean, deviation), number(mean), number(deviation)))
        return (*cells, *(_cost_cell(mean_cost(group.records, key), key) for key in self.spec.costs))

    def _published(self) -> Iterator[RankedRow]:
        for row in self.published:
            values = [row.values.get(key, math.nan) for key in self.spec.columns]
            costs = [_cost_cell(row.costs.get(key, math.nan), key) for key in self.spec.costs]
            cells = (Cell(DASH), *(Cell(percent(value), number(value)) for value in values), *costs)
            yield Row(one_line(row.label), cells, row.source, row.source_number), self.rank_published


def _cost_cell(value: float, key: str) -> Cell:
    return Cell(shown_cost(value, key), number(value))


def _ranked(rows: list[RankedRow], place: int) -> list[RankedRow]:
    """Mark the best cell of a column if two rows compete, and the second best if three do. Equal texts get equal marks."""
    values = [row.cells[place].value for row, competes in rows if competes]
    texts = [percent(value) for value in sorted((value for value in values if value is not None), reverse=True)]
    leaders = list(dict.fromkeys(texts))[: 2 if len(values) > 2 else 1] if len(values) > 1 else []
    marks = dict(zip(leaders, MARKS, strict=False))
    return [
        (replace(row, cells=_marked(row.cells, place, marks)), competes) if competes else (row, competes)
        for row, competes in rows
    ]


def _marked(cells: tuple[Cell, ...], place: int, marks: dict[str, Mark]) -> tuple[Cell, ...]:
    value = cells[place].value
    marked = replace(cells[place], mark=marks.get(DASH if value is None else percent(value), ""))
    return (*cells[:place], marked, *cells[place + 1 :])
