"""Tables of metrics and costs, from records, with the notes below them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mddbench.metrics.names import LABELS, MEAN, SEVEN
from mddbench.report.rows.groups import OTHER_PROTOCOL, Group
from mddbench.report.rows.published import PublishedRow, source_notes
from mddbench.report.tables.costs import COSTS, cost_note, mean_cost, shown_cost
from mddbench.report.tables.spec import TableSpec
from mddbench.report.tables.table import DASH, Cell, Column, Mark, Row, Run, Table, number, one_line, percent
from mddbench.runs.records import Record

MARKS: tuple[Mark, ...] = ("best", "second")
RankedRow = tuple[Row, bool]  # the bool: the row competes for the best value


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
        """Return the whole table with all notes."""
        costs = [cost_note(self.groups)] if self.spec.costs else []
        sources = source_notes(self.published, bool(self.spec.costs))
        return self.with_notes((*protocol_notes(self.groups), *costs, *sources))

    def narrow(self) -> Results:
        """Return the results for a narrow place: a table of metrics leaves costs to the table of costs."""
        return replace(self, spec=self.spec.model_copy(update={"costs": ()})) if self.spec.columns else self

    def page_table(self, run_of: Callable[[Record], Run]) -> Table:
        """Return the narrow table for a page, which shows protocol and sources elsewhere.

        Args:
            run_of: Run of a record.

        Returns:
            The table with the runs of each row.
        """
        narrow = self.narrow()
        costs = [cost_note(self.groups)] if narrow.spec.costs else []
        return narrow.with_notes((*protocol_notes(self.groups)[1:], *costs), run_of)

    def with_notes(self, notes: tuple[str, ...], run_of: Callable[[Record], Run] | None = None) -> Table:
        """Return the table with the given notes, and with the runs of each row if `run_of` is given."""
        metrics = [Column(LABELS[key], key) for key in self.spec.columns]
        costs = [Column(COSTS[key].label, key, "cost") for key in self.spec.costs]
        rows = [*self._measured(run_of), *self._published()]
        if self.spec.rows != "category":
            for column in range(1, 1 + len(metrics)):
                rows = _ranked(rows, column)
        columns = (Column("n", "n", "count"), *metrics, *costs)
        return Table(self.title, self.spec.rows.capitalize(), columns, tuple(row for row, _ in rows), notes)

    def _measured(self, run_of: Callable[[Record], Run] | None) -> Iterator[RankedRow]:
        if self.spec.rows == "category":
            (group,) = self.groups
            for category in (*group.first.categories, MEAN):
                yield Row(category, self._cells(group, category), is_mean=category == MEAN), False
            return
        for group in self.groups:
            runs = tuple(map(run_of, group.records)) if run_of else ()
            competes = not group.first.card.upper_bound and not group.differs
            yield Row(one_line(group.marked_label), self._cells(group, MEAN), runs=runs), competes

    def _cells(self, group: Group, category: str) -> tuple[Cell, ...]:
        """The number of seeds, then means and standard deviations over seeds (of a sample), then costs."""
        cells = [Cell.of_count(len(group.records))]
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


def _ranked(rows: list[RankedRow], column: int) -> list[RankedRow]:
    """Mark the best of at least two competing cells of a column, and the second best of three. Equal texts tie."""
    values = [row.cells[column].value for row, competes in rows if competes]
    texts = [percent(value) for value in sorted((value for value in values if value is not None), reverse=True)]
    leaders = list(dict.fromkeys(texts))[: 2 if len(values) > 2 else 1] if len(values) > 1 else []
    marks = dict(zip(leaders, MARKS, strict=False))
    ranked = []
    for row, competes in rows:
        cells = list(row.cells)
        if competes:
            value = cells[column].value
            cells[column] = replace(cells[column], mark=marks.get(DASH if value is None else percent(value), ""))
        ranked.append((replace(row, cells=tuple(cells)), competes))
    return ranked


def protocol_notes(groups: Sequence[Group]) -> list[str]:
    """Return what the protocols of all rows share, then a line for each row with what differs, then remarks."""
    cards = [group.first.card for group in groups]
    rows = [dict(card.rows()) for card in cards]
    common = [f"{name} {value}" for name, value in rows[0].items() if all(row.get(name) == value for row in rows)]
    notes = [f"Protocol: {'; '.join(common)}."]
    for group, row in zip(groups, rows, strict=True):
        own = "; ".join(text for name, value in row.items() if (text := f"{name} {value}") not in common)
        seeds = ", ".join(str(record.seed) for record in group.records)
        notes.append(f"{group.label}: {own + '; ' if own else ''}seeds {seeds}; data {group.first.fingerprint[:12]}.")
    notes += [
        f"{OTHER_PROTOCOL} {group.label}: another protocol ({group.differs})." for group in groups if group.differs
    ]
    notes += [note for group in groups for note in (_undefined(group), _approximate(group)) if note]
    notes.append(f"Percent. ± is the standard deviation over n seeds; {DASH} is not defined or not measured.")
    return notes


def _undefined(group: Group) -> str:
    """The metrics that are not defined in all categories, and the number of categories that their means cover."""
    record = group.first
    labels: dict[int, list[str]] = {}
    for key in SEVEN:
        missing = sum(math.isnan(record.value(category, key)) for category in record.categories)
        if missing:
            labels.setdefault(missing, []).append(LABELS[key])
    total = len(record.categories)
    nowhere = labels.pop(total, [])
    parts = [f"{', '.join(names)} of {total - missing} of {total} categories" for missing, names in labels.items()]
    remarks = [f"means of {'; '.join(parts)}, not defined in the others"] if parts else []
    remarks += [f"{', '.join(nowhere)} not defined in any category"] if nowhere else []
    return f"{group.label}: {'; '.join(remarks)}." if remarks else ""


def _approximate(group: Group) -> str:
    """The largest possible error of approximate metrics."""
    pairs = [(key, pair) for record in group.records for row in record.bounds.values() for key, pair in row.items()]
    widths = {
        key: max((pair[1] - pair[0] for name, pair in pairs if pair and name == key), default=0.0) for key in SEVEN
    }
    parts = [f"{LABELS[key]} {100 * width:.3f}" for key, width in widths.items() if width > 0]
    return f"{group.label}: certified intervals of the values, widest in percent: {', '.join(parts)}." if parts else ""
