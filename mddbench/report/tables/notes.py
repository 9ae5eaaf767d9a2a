"""What must be said below a table of results."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mddbench.metrics.names import LABELS, SEVEN
from mddbench.report.rows.groups import OTHER, Group
from mddbench.report.tables.table import DASH


def protocol_notes(groups: Sequence[Group]) -> list[str]:
    """The protocol of a table and its remarks.

    Args:
        groups: The measured rows.

    Returns:
        First the line of what all rows share, then a line for each row with what differs, then remarks.
    """
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
    notes.append(f"Percent. ± is the standard deviation over n seeds; {DASH} is not defined or not measured.")
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
