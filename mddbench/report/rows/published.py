"""Published rows beside measured ones: visibly marked, and apart from them unless somebody asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

from mddbench.errors import InputError
from mddbench.metrics.names import MAD, SEVEN
from mddbench.report.rows.groups import PUBLISHED
from mddbench.report.rows.reported import Published, category_count, means
from mddbench.runs.records import Record

FIELDS = ("dataset", "method", "epochs", "parameters_million", "multiply_adds_billion", "train_seconds", "source")
UNITS = {
    "parameters_million": ("parameters_total", 1e6),
    "multiply_adds_billion": ("multiply_adds", 1e9),
    "train_seconds": ("train_seconds", 1.0),
}
"""Of a field of the file: the cost that it is, and how many of the record's units make one of its own."""
NOTE = (
    f"{PUBLISHED} published, not measured here: with the image size, encoder and metric code of their sources, and not ranked with "
    "the other rows unless somebody asks."
)


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
    """The published rows that may stand beside a record's: of its whole dataset, one model for all categories, its own images.

    which: 'none', 'same epochs' or 'all', whose labels tell the epochs; with_costs: those of which a cost is known, only.
    """
    whole = len(record.categories) == category_count(record.dataset)
    if which == "none" or not whole or not record.card.standard_setting:
        return []
    rows = means(record.dataset, "unified")
    if which == "same epochs":
        rows = [row for row in rows if row.epochs == str(record.card.epochs)]
    rows = sorted(rows, key=lambda row: (row.method.lower(), len(row.epochs), row.epochs, row.source))
    found = [_row(row, which == "all") for row in rows]
    found = [row for row in found if row.costs or not with_costs]
    numbers = {source: place for place, source in enumerate(dict.fromkeys(row.source for row in found), 1)}
    return [replace(row, source_number=numbers[row.source]) for row in found]


def source_notes(rows: Sequence[PublishedRow], with_costs: bool) -> list[str]:
    """What must be said of published rows, and where they come from. with_costs: whether their costs are shown."""
    if not rows:
        return []
    notes = [NOTE]
    notes += [
        f"{PUBLISHED}{number} {source}." for number, source in enumerate(dict.fromkeys(row.source for row in rows), 1)
    ]
    costs = sorted({row.cost_source for row in rows if row.cost_source}) if with_costs else []
    if costs:
        notes.append(
            f"{PUBLISHED} costs are published, too, measured on another machine (one NVIDIA L40S), training with its evaluations; "
            f"times cannot be compared with measured ones: {'; '.join(costs)}."
        )
    return notes


def _row(row: Published, tell_epochs: bool) -> PublishedRow:
    values = dict(row.values)
    if all(key in values for key in SEVEN):
        values[MAD.key] = sum(values[key] for key in SEVEN) / len(SEVEN)
    plural = "epoch" if row.epochs == "1" else "epochs"
    epochs = f"{row.epochs} {plural}" if row.epochs.isdigit() else row.epochs or "epochs not told"
    costs, source = _efficiency().get((row.dataset, row.method, row.epochs), ({}, ""))
    return PublishedRow(f"{row.method}, {epochs}" if tell_epochs else row.method, values, costs, row.source, source)


@lru_cache
def _efficiency() -> dict[tuple[str, str, str], tuple[dict[str, float], str]]:
    """Costs of published runs with their source, by dataset, method and epochs."""
    return parse_efficiency(Path(str(files("mddbench.paper_tables"))) / "efficiency.csv")


def parse_efficiency(file: Path) -> dict[tuple[str, str, str], tuple[dict[str, float], str]]:
    """The rows of a file of published costs. Raises InputError, naming the line, for what is not as it should be."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if tuple(table.columns) != FIELDS:
        raise InputError(f"{file.name}: expected the columns {', '.join(FIELDS)}, found {', '.join(table.columns)}")
    found: dict[tuple[str, str, str], tuple[dict[str, float], str]] = {}
    for number, row in enumerate(table.to_dict("records"), 2):
        place, key = f"{file.name}, line {number}", (row["dataset"], row["method"], row["epochs"])
        if key in found or not row["source"]:
            raise InputError(f"{place}: {'a second row of' if key in found else 'no source for'} {', '.join(key)}")
        told = {field: _positive(row[field], f"{place}: {field}") for field in UNITS if row[field]}
        found[key] = {UNITS[field][0]: UNITS[field][1] * value for field, value in told.items()}, row["source"]
    return found


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{where}: expected a number above 0, found {text!r}")
    return value
