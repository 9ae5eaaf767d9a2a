"""Tables from records: their numbers, as a frame, and what must be said below them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from mddbench.metrics.names import LABELS, SEVEN
from mddbench.report.rows.groups import OTHER, Group
from mddbench.report.rows.published import PublishedRow
from mddbench.report.tables.costs import mean_cost
from mddbench.report.tables.spec import TableSpec

MEAN = "mean"
APART = "apart"
"""Rows that are not ranked with the others: upper bounds, other protocols, published numbers."""


def numbers(
    spec: TableSpec, groups: Sequence[Group], published: Sequence[PublishedRow] = (), rank_published: bool = False
) -> pd.DataFrame:
    """One row a method or variant (of 'mean') or a category (of one group), then the published ones: columns 'row', 'n', KEY
    and KEY_std in [0, 1], and costs in the units of records.

    The standard deviation is that of a sample over the seeds; NaN for a single one. n is 0 in published rows, which are ranked
    with the others if that is asked for.
    """
    if spec.rows != "category":
        places = [(group.shown, group, MEAN) for group in groups]
    else:
        places = [(place, group, place) for group in groups for place in (*group.first.categories, MEAN)]
    rows = []
    for label, group, place in places:
        row: dict[str, object] = {"row": label, "n": len(group.records)}
        for key in spec.columns:
            values = pd.Series([record.value(place, key) for record in group.records], dtype=float)
            row[key], row[f"{key}_std"] = values.mean(skipna=False), values.std(skipna=False)
        rows.append(row | {key: mean_cost(group.records, key) for key in spec.costs})
    for other in published:
        known = {key: other.values.get(key, math.nan) for key in spec.columns}
        costs = {key: other.costs.get(key, math.nan) for key in spec.costs}
        rows.append({"row": other.label, "n": 0, **known, **{f"{key}_std": math.nan for key in known}, **costs})
    frame: pd.DataFrame = pd.DataFrame(rows)
    own = [group.first.card.upper_bound or bool(group.differs) for _, group, _ in places]
    frame.attrs[APART] = [*own, *([not rank_published] * len(published))]
    return frame


def protocol_notes(groups: Sequence[Group]) -> list[str]:
    """The protocol under a table: what all rows share on one line, then what differs, row by row."""
    cards = [group.first.card for group in groups]
    rows = [dict(card.rows()) for card in cards]
    common = [f"{name} {value}" for name, value in rows[0].items() if all(row.get(name) == value for row in rows)]
    notes = [f"Protocol: {'; '.join(common)}."]
    for group, row in zip(groups, rows, strict=True):
        own = "; ".join(text for name, value in row.items() if (text := f"{name} {value}") not in common)
        seeds = ", ".join(str(record.seed) for record in group.records)
        notes.append(f"{group.label}: {own + '; ' if own else ''}seeds {seeds}; data {group.first.fingerprint[:12]}.")
    notes += [f"{OTHER} {group.label}: another protocol ({group.differs})." for group in groups if group.differs]
    notes += [note for group in groups for note in (_undefined(group), _approximate(group)) if note]
    notes.append(f"Percent. ± is the standard deviation over n seeds; {chr(0x2013)} is not defined or not measured.")
    return notes


def _undefined(group: Group) -> str:
    """Which metrics' means leave categories out, and how many."""
    record = group.first
    labels: dict[int, list[str]] = {}
    for key in SEVEN:
        missing = sum(math.isnan(record.value(category, key)) for category in record.categories)
        if missing:
            labels.setdefault(missing, []).append(LABELS[key])
    total = len(record.categories)
    nowhere = labels.pop(total, [])
    parts = [f"{', '.join(names)} of {total - missing} of {total} categories" for missing, names in labels.items()]
    said = [f"means of {'; '.join(parts)}, not defined in the others"] if parts else []
    said += [f"{', '.join(nowhere)} not defined in any category"] if nowhere else []
    return f"{group.label}: {'; '.join(said)}." if said else ""


def _approximate(group: Group) -> str:
    """How far approximate metrics can be from the exact ones at most."""
    pairs = [(key, pair) for record in group.records for place in record.bounds.values() for key, pair in place.items()]
    widths = {
        key: max((pair[1] - pair[0] for name, pair in pairs if pair and name == key), default=0.0) for key in SEVEN
    }
    parts = [f"{LABELS[key]} {100 * width:.3f}" for key, width in widths.items() if width > 0]
    return f"{group.label}: certified intervals of the values, widest in percent: {', '.join(parts)}." if parts else ""
