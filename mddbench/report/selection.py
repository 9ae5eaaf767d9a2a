"""The selection gap: how much better a method looks if its epoch is chosen on the test set, as some do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

from mddbench.metrics.names import LABELS, MAD, SEVEN
from mddbench.records import Record
from mddbench.report.groups import Group

COLUMNS = (*SEVEN, MAD.key)


def with_curves(groups: Sequence[Group]) -> list[Group]:
    """The rows with a test curve, each with those of its records that have one."""
    found = [Group(g.label, tuple(r for r in g.records if len(r.test_curve) > 1), g.differs) for g in groups]
    return [group for group in found if group.records]


def gap(record: Record, key: str) -> float:
    """The metric's best epoch on the test set minus its last one; NaN if it is not defined."""
    values = [
        math.nan if point.metrics[key] is None else float(point.metrics[key] or 0.0) for point in record.test_curve
    ]
    return max(values) - values[-1] if not any(map(math.isnan, values)) else math.nan


def selection_markdown(dataset: str, groups: Sequence[Group]) -> str:
    """A Markdown table of the gaps."""
    rows = []
    for group in groups:
        cells = " | ".join(_cell([gap(record, key) for record in group.records]) for key in COLUMNS)
        rows.append(f"| {group.label.replace('|', chr(92) + '|')} | {len(group.records)} | {cells} |")
    looks = sorted({len(record.test_curve) for group in groups for record in group.records})
    return (
        "\n".join(
            [
                f"### {dataset}: selection gap",
                "",
                f"| Method | n | {' | '.join(LABELS[key] for key in COLUMNS)} |",
                f"|:--|--:|{'--:|' * len(COLUMNS)}",
                *rows,
                "",
                f"Percent points that a metric gains if its best of {' or '.join(map(str, looks))} looks at the **test "
                "set** is reported instead of the last epoch:  ",
                "what others do, and no result of this suite. ± is the standard deviation over n seeds.  ",
            ]
        ).rstrip()
        + "\n"
    )


def _cell(gaps: list[float]) -> str:
    if any(map(math.isnan, gaps)):
        return "–"
    spread = f" ± {100 * stdev(gaps):.1f}" if len(gaps) > 1 else ""
    return f"+{100 * mean(gaps):.1f}{spread}"
