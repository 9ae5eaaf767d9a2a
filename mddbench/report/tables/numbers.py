"""Tables from records: their numbers, as a frame, and what must be said below them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mddbench.metrics.names import LABELS, SEVEN
from mddbench.report.rows.groups import OTHER, Group, is_upper_bound
from mddbench.report.rows.published import PublishedRow
from mddbench.report.tables.costs import mean_cost
from mddbench.report.tables.spec import TableSpec

CARD_ROWS = (
    "setting",
    "epochs",
    "iterations",
    "batch_size",
    "image_size",
    "interpolation",
    "mask_rule",
    "augmentation",
    "textures",
    "test_labels",
    "encoder",
    "encoder_levels",
    "encoder_padding",
    "encoder_weights",
    "encoder_sha256",
    "network",
    "learned_weights",
    "optimizer",
    "schedule",
    "gradient_clip",
    "precision",
    "smoothing",
    "image_score",
    "selection",
    "metrics",
    "method_version",
)
"""All of a protocol card, in the order in which a table tells it."""
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
    own = [is_upper_bound(group.first) or bool(group.differs) for _, group, _ in places]
    frame.attrs[APART] = [*own, *([not rank_published] * len(published))]
    return frame


def protocol_notes(groups: Sequence[Group]) -> list[str]:
    """The protocol under a table: what all rows share on one line, then what differs, row by row."""
    cards = [group.first.card for group in groups]
    told = [key for key in CARD_ROWS if any(key in card for card in cards)]
    shared = [key for key in told if len({str(card.get(key, "not told")) for card in cards}) == 1]
    notes = ["Protocol: " + "; ".join(_said(key, cards[0]) for key in shared) + "."]
    for group, card in zip(groups, cards, strict=True):
        own = "; ".join(_said(key, card) for key in told if key not in shared and key in card)
        seeds = ", ".join(str(record.seed) for record in group.records)
        notes.append(f"{group.label}: {own + '; ' if own else ''}seeds {seeds}; data {group.first.fingerprint[:12]}.")
    notes += [f"{OTHER} {group.label}: another protocol ({group.differs})." for group in groups if group.differs]
    notes += [note for group in groups for note in (_undefined(group), _approximate(group)) if note]
    notes.append(f"Percent. ± is the standard deviation over n seeds; {chr(0x2013)} is not defined or not measured.")
    return notes


def card_fields(card: dict[str, Any]) -> list[tuple[str, str]]:
    """A protocol card as names and values in words, in the order in which a table tells it."""
    return [(key.replace("_", " "), _told(key, card)) for key in CARD_ROWS if key in card]


def _said(key: str, card: dict[str, Any]) -> str:
    """A field of a protocol card, its name and value."""
    return f"{key.replace('_', ' ')} {_told(key, card)}"


def _told(key: str, card: dict[str, Any]) -> str:
    value = card.get(key)
    if key == "encoder_sha256" and isinstance(value, str):
        value = value[:12]
    if isinstance(value, dict):
        value = " ".join(f"{'' if name == 'name' else f'{name} '}{_plain(part)}" for name, part in value.items())
    return _plain(value)


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str("none" if value is None else value)


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
