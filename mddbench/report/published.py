"""Published rows beside measured ones: visibly marked, and apart from them unless somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

from mddbench.errors import InputError
from mddbench.metrics.names import MAD, SEVEN
from mddbench.records import UNIFIED, Record
from mddbench.report.reported import Published, means

MARK = "‡"
FIELDS = ("dataset", "method", "epochs", "parameters_million", "multiply_adds_billion", "train_seconds", "source")
COST_NOTE = (
    f"Costs of rows with {MARK} are published: on another machine (one NVIDIA L40S), training with its evaluations, so times "
    "cannot be compared with measured ones."
)


@dataclass(frozen=True)
class PublishedRow:
    """A row as tables take it. label: without the mark; values: metric -> value in [0, 1]; costs: in the units of records."""

    label: str
    values: dict[str, float]
    costs: dict[str, float]
    source: str


def published_rows(record: Record, which: str, with_costs: bool) -> list[PublishedRow]:
    """The published rows that may stand beside a record's: of its dataset, one model for all categories, its own images.

    which: 'none', 'same epochs' or 'all', whose labels tell the epochs; with_costs: those of which a cost is known, only.
    """
    setting = str(record.card.get("setting"))
    if which == "none" or not setting.startswith(UNIFIED) or "," in setting:
        return []
    rows = means(record.dataset, "unified")
    if which == "same epochs":
        rows = [row for row in rows if row.epochs == str(record.card.get("epochs"))]
    found = [
        _row(row, which == "all") for row in sorted(rows, key=lambda row: (row.method.lower(), row.epochs, row.source))
    ]
    return [row for row in found if row.costs or not with_costs]


def source_notes(rows: Sequence[PublishedRow]) -> list[str]:
    """Where the rows come from: a line a source."""
    if not rows:
        return []
    by_source: dict[str, list[str]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row.label)
    return [
        f"{MARK} published, not measured here and not ranked unless asked for:",
        *(f"{MARK} {', '.join(labels)}: {source}." for source, labels in by_source.items()),
    ]


def _row(row: Published, tell_epochs: bool) -> PublishedRow:
    values = dict(row.values)
    if all(key in values for key in SEVEN):
        values[MAD.key] = sum(values[key] for key in SEVEN) / len(SEVEN)
    epochs = f"{row.epochs} epochs" if row.epochs.isdigit() else row.epochs or "epochs not told"
    label = f"{row.method}, {epochs}" if tell_epochs else row.method
    return PublishedRow(label, values, _efficiency().get((row.dataset, row.method, row.epochs), {}), row.source)


@lru_cache
def _efficiency() -> dict[tuple[str, str, str], dict[str, float]]:
    """Costs of published runs by dataset, method and epochs. Raises InputError if the file is not as it should be."""
    table = pd.read_csv(Path(str(files("mddbench.paper_tables"))) / "efficiency.csv", dtype={"epochs": str})
    if tuple(table.columns) != FIELDS:
        raise InputError(f"efficiency.csv: expected the columns {', '.join(FIELDS)}, found {', '.join(table.columns)}")
    units = (("parameters_million", "parameters_total", 1e6), ("multiply_adds_billion", "multiply_adds", 1e9))
    found = {}
    for row in table.to_dict("records"):
        costs = {key: row[field] * scale for field, key, scale in (*units, ("train_seconds", "train_seconds", 1.0))}
        found[row["dataset"], row["method"], row["epochs"]] = {k: float(v) for k, v in costs.items() if not pd.isna(v)}
    return found
