"""Published rows for tables. They are marked, and they are ranked with measured rows only if a user asks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from mddbench.errors import InputError
from mddbench.metrics.names import MAD, SEVEN
from mddbench.report.rows.groups import PUBLISHED
from mddbench.report.rows.reported import Published, category_count, checked_number, csv_rows, means, paper_tables
from mddbench.runs.card import SEEN_ONCE
from mddbench.runs.records import Record

FIELDS = ("dataset", "method", "epochs", "parameters_million", "multiply_adds_billion", "train_seconds", "source")
UNITS = {
    "parameters_million": ("parameters_total", 1e6),
    "multiply_adds_billion": ("multiply_adds", 1e9),
    "train_seconds": ("train_seconds", 1.0),
}
"""Column of the file -> the cost that it holds, and its unit in the unit of records."""
NOTE = (
    f"{PUBLISHED} published, not measured here: with the image size, encoder and metric code of their sources, and not "
    "ranked with the other rows unless `--rank-published` is given."
)
Costs = tuple[dict[str, float], str]
"""Cost -> value in the unit of records, and the source of the values."""


@dataclass(frozen=True)
class PublishedRow:
    """A published row as tables take it.

    Attributes:
        label: The method, with its number of epochs where a table needs it.
        values: Metric -> value in [0, 1].
        costs: Cost -> value in the unit of records.
        source: Where the values come from.
        cost_source: Where the costs come from; empty if there are none.
        source_number: Number of the source in the table, from 1.
    """

    label: str
    values: dict[str, float]
    costs: dict[str, float]
    source: str
    cost_source: str = ""
    source_number: int = 0


def published_rows(record: Record, which: str, with_costs: bool) -> list[PublishedRow]:
    """Find the published rows that stand beside measured ones.

    There are none beside a record of several models, or of other images than the dataset's own.

    Args:
        record: A record of the table.
        which: 'none', 'same epochs' as the record (or a single pass), or 'all', with the epochs in the labels.
        with_costs: True to leave out rows without costs.

    Returns:
        The rows by method and epochs, with their sources numbered.
    """
    whole = len(record.categories) == category_count(record.dataset)
    if which == "none" or not whole or not record.card.standard_setting:
        return []
    reported = means(record.dataset, "unified")
    if which == "same epochs":
        reported = [row for row in reported if row.epochs in (str(record.card.epochs), SEEN_ONCE)]
    reported = sorted(reported, key=lambda row: (row.method.lower(), len(row.epochs), row.epochs, row.source))
    rows = [_row(row, which == "all") for row in reported]
    rows = [row for row in rows if row.costs or not with_costs]
    numbers = {source: number for number, source in enumerate(dict.fromkeys(row.source for row in rows), 1)}
    return [replace(row, source_number=numbers[row.source]) for row in rows]


def source_notes(rows: Sequence[PublishedRow], with_costs: bool) -> list[str]:
    """Write the notes of a table with published rows.

    Args:
        rows: The published rows.
        with_costs: True if the table shows costs.

    Returns:
        What must be said of such rows, and their sources.
    """
    if not rows:
        return []
    sources = {row.source_number: row.source for row in rows}
    notes = [NOTE, *(f"{PUBLISHED}{number} {source}." for number, source in sources.items())]
    costs = sorted({row.cost_source for row in rows if row.cost_source}) if with_costs else []
    if costs:
        notes.append(
            f"{PUBLISHED} costs are published, too, measured on another machine (one NVIDIA L40S), training with its "
            f"evaluations; times cannot be compared with measured ones: {'; '.join(costs)}."
        )
    return notes


def _row(row: Published, with_epochs: bool) -> PublishedRow:
    values = dict(row.values)
    if all(key in values for key in SEVEN):
        values[MAD.key] = sum(values[key] for key in SEVEN) / len(SEVEN)
    plural = "epoch" if row.epochs == "1" else "epochs"
    epochs = f"{row.epochs} {plural}" if row.epochs.isdigit() else row.epochs or "epochs not stated"
    key = (row.dataset, row.method, row.epochs)
    costs, source = parse_efficiency(paper_tables() / "efficiency.csv").get(key, ({}, ""))
    return PublishedRow(f"{row.method}, {epochs}" if with_epochs else row.method, values, costs, row.source, source)


@lru_cache
def parse_efficiency(file: Path) -> dict[tuple[str, str, str], Costs]:
    """Return the published costs of a CSV file with the columns FIELDS, by dataset, method and epochs.

    Raises:
        InputError: If a line does not fit. The message names the line.
    """
    costs: dict[tuple[str, str, str], Costs] = {}
    positive = partial(checked_number, expected="a number above 0", fits=lambda value: 0 < value < math.inf)
    for line, row in csv_rows(file, FIELDS):
        key = (row["dataset"], row["method"], row["epochs"])
        if key in costs or not row["source"]:
            raise InputError(f"{line}: {'a second row of' if key in costs else 'no source for'} {', '.join(key)}")
        values = {field: positive(row[field], f"{line}: {field}") for field in UNITS if row[field]}
        costs[key] = {UNITS[field][0]: UNITS[field][1] * value for field, value in values.items()}, row["source"]
    return costs
