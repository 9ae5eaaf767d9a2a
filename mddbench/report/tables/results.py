"""Tables of metrics and costs, from records, with the notes below them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mddbench.data.dataset import remarks_on
from mddbench.metrics.names import LABELS, MEAN, SEVEN
from mddbench.report.rows.groups import OTHER_PROTOCOL, Group
from mddbench.report.rows.published import PublishedRow, source_notes
from mddbench.report.tables.cells import RankedRow, marked_best, over_seeds, ranked
from mddbench.report.tables.costs import COSTS, cost_note, mean_cost, shown_cost
from mddbench.report.tables.spec import TableSpec
from mddbench.report.tables.table import (
    DASH,
    LEGEND,
    PLUS_MINUS,
    SLASH,
    Cell,
    Column,
    Row,
    RunOf,
    Table,
    number,
    one_line,
    percent,
)


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

    def narrow(self) -> Results:
        """Return the results for a narrow place: a table of metrics leaves costs to the table of costs."""
        return replace(self, spec=self.spec.model_copy(update={"costs": ()})) if self.spec.columns else self

    def table(self, run_of: RunOf | None = None) -> Table:
        """Return the table with its protocol and all notes.

        Args:
            run_of: Run of a record, for a page; None for no runs.

        Returns:
            The table.
        """
        costs = [cost_note(self.groups)] if self.spec.costs else []
        notes = (*remarks(self.groups), *costs, *source_notes(self.published, bool(self.spec.costs)))
        columns, rows = self._by_method() if self.spec.by_method else self._by_row(run_of)
        if self.spec.by_method:
            notes = (*notes, f"Each cell: {metrics_of(self.spec)}, means over seeds. CSV has the standard deviations.")
        return Table(self.title, self.spec.rows.capitalize(), columns, rows, notes, protocol(self.groups))

    def _by_row(self, run_of: RunOf | None) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
        """The columns and rows of a table with a column for each metric and cost."""
        metrics = [Column(LABELS[key], key) for key in self.spec.columns]
        costs = [Column(COSTS[key].label, key, "cost") for key in self.spec.costs]
        rows = [*self._measured(run_of), *self._published()]
        if self.spec.rows != "category":
            for column in range(1, 1 + len(metrics)):
                rows = ranked(rows, column)
        return (Column("n", "n", "count"), *metrics, *costs), tuple(row for row, _ in rows)

    def _by_method(self) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
        """The columns and rows of a table with a column for each method. The best of a row is marked, metric by metric."""
        rows, competes = [], [group.competes for group in self.groups]
        for category in (*dict.fromkeys(name for group in self.groups for name in group.first.categories), MEAN):
            metrics = []
            for key in self.spec.columns:
                cells = [over_seeds([record.value(category, key) for record in group.records]) for group in self.groups]
                plain = [replace(cell, text=cell.text.partition(PLUS_MINUS)[0]) for cell in cells]
                metrics.append(marked_best([*zip(plain, competes, strict=True)]))
            cells = [Cell.of_parts(parts) for parts in zip(*metrics, strict=True)]
            rows.append(Row(category, tuple(cells), is_mean=category == MEAN))
        names = [one_line(group.marked_label) for group in self.groups]
        return tuple(Column(name, name, parts=self.spec.columns) for name in names), tuple(rows)

    def _measured(self, run_of: RunOf | None) -> Iterator[RankedRow]:
        if self.spec.rows == "category":
            (group,) = self.groups
            for category in (*group.first.categories, MEAN):
                yield Row(category, self._cells(group, category), is_mean=category == MEAN), False
            return
        for group in self.groups:
            runs = tuple(map(run_of, group.records)) if run_of else ()
            yield Row(one_line(group.marked_label), self._cells(group, MEAN), runs=runs), group.competes

    def _cells(self, group: Group, category: str) -> tuple[Cell, ...]:
        """The number of seeds, then means and standard deviations over seeds (of a sample), then costs."""
        cells = [Cell.of_count(len(group.records))]
        for key in self.spec.columns:
            cells.append(over_seeds([record.value(category, key) for record in group.records]))
        return (*cells, *(_cost_cell(mean_cost(group.records, key), key) for key in self.spec.costs))

    def _published(self) -> Iterator[RankedRow]:
        for row in self.published:
            values = [row.values.get(key, math.nan) for key in self.spec.columns]
            costs = [_cost_cell(row.costs.get(key, math.nan), key) for key in self.spec.costs]
            cells = (Cell(DASH), *(Cell(percent(value), number(value)) for value in values), *costs)
            yield Row(one_line(row.label), cells, row.source, row.source_number), self.rank_published


def _cost_cell(value: float, key: str) -> Cell:
    return Cell(shown_cost(value, key), number(value))


def metrics_of(spec: TableSpec) -> str:
    """Return the names of the metrics that a cell of a table by method holds."""
    return SLASH.join(LABELS[key] for key in spec.columns)


def protocol(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return what the protocols of all rows share, then a line for each row with what differs."""
    rows = [dict(group.first.card.rows()) for group in groups]
    common = [f"{name} {value}" for name, value in rows[0].items() if all(row.get(name) == value for row in rows)]
    lines = [f"Protocol: {'; '.join(common)}."]
    for group, row in zip(groups, rows, strict=True):
        own = "; ".join(text for name, value in row.items() if (text := f"{name} {value}") not in common)
        seeds = ", ".join(str(record.seed) for record in group.records)
        lines.append(f"{group.label}: {own + '; ' if own else ''}seeds {seeds}; data {group.first.fingerprint[:12]}.")
    return tuple(lines)


def remarks(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return what must be said of rows beside their protocol."""
    lines = [
        f"{OTHER_PROTOCOL} {group.label}: another protocol ({group.differs})." for group in groups if group.differs
    ]
    lines += [note for group in groups for note in (_undefined(group), _approximate(group)) if note]
    for dataset in dict.fromkeys(group.first.dataset for group in groups):
        lines += [f"{dataset}: {remark}" for remark in remarks_on(dataset)]
    return (*lines, LEGEND)


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
