"""The table of bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mddbench.metrics.names import COLUMNS, LABELS
from mddbench.report.rows.groups import Group
from mddbench.report.tables.formats import markdown_text, percent
from mddbench.report.tables.numbers import MEAN


def confidence_table(dataset: str, groups: Sequence[Group]) -> str | None:
    """A Markdown table of the bootstrap intervals of means, one row a run; None if no run has any."""
    rows = []
    for group in groups:
        for record in group.records:
            intervals = record.confidence.get(MEAN, {})
            cells = [_interval(record.value(MEAN, key), intervals.get(key)) for key in COLUMNS]
            rows += [f"| {markdown_text(group.shown)} | {record.seed} | {' | '.join(cells)} |"] if intervals else []
    if not rows:
        return None
    head = f"| Method | seed | {' | '.join(LABELS[key] for key in COLUMNS)} |"
    note = "Percent, with the 95 % interval of a bootstrap over the test images of each category (docs/metrics.md)."
    title = f"### {markdown_text(dataset)}: means over categories with confidence intervals"
    return "\n".join([title, "", head, f"|:--|--:|{'--:|' * len(COLUMNS)}", *rows, "", note, ""])


def _interval(value: float, ends: tuple[float, float] | None) -> str:
    shown = percent(value, math.nan, "")
    return shown if ends is None else f"{shown} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
