"""The selection gap: how much better a method looks if its epoch is chosen on the test set, as some papers do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

from mddbench.metrics.names import COLUMNS, LABELS
from mddbench.report.rows.groups import Group
from mddbench.report.tables.table import DASH, METRIC_COLUMNS, Cell, Column, Row, Table
from mddbench.runs.records import Record

CRITERION = "p_auroc"  # the metric by which UniAD's authors choose their epoch


def with_curves(groups: Sequence[Group]) -> list[Group]:
    """Find the rows with a test curve.

    Args:
        groups: The rows.

    Returns:
        These rows, each with those of its records that have a curve.
    """
    tested = [Group(g.label, tuple(r for r in g.records if len(r.test_curve) > 1), g.differs) for g in groups]
    return [group for group in tested if group.records]


def selection_gap(record: Record, key: str, criterion: str = CRITERION) -> float:
    """Compute what a metric gains if the epoch is chosen on the test set.

    Args:
        record: A record with a test curve.
        key: Key of the metric.
        criterion: Key of the metric whose best epoch is chosen.

    Returns:
        The metric at the chosen epoch minus that at the last epoch; NaN if one of the two metrics is not defined.
    """
    points = record.test_curve
    if any(math.isnan(point.value(criterion)) for point in points):
        return math.nan
    return max(points, key=lambda point: point.value(criterion)).value(key) - points[-1].value(key)


def selection_table(dataset: str, groups: Sequence[Group]) -> Table:
    """Make the table of selection gaps.

    Args:
        dataset: Name of the dataset, for the title.
        groups: The rows, whose records all have a test curve.

    Returns:
        Two rows for each method: the gains at one chosen epoch, and at the best epoch of each metric.
    """
    rows = []
    for group in groups:
        for words, criterion in ((f"one epoch, best {LABELS[CRITERION]}", CRITERION), ("each metric's best epoch", "")):
            gaps = ([selection_gap(record, key, criterion or key) for record in group.records] for key in COLUMNS)
            cells = (Cell(words), Cell.of_count(len(group.records)), *(Cell(_shown(values)) for values in gaps))
            rows.append(Row(group.marked_label, cells))
    looks = " or ".join(map(str, sorted({len(record.test_curve) for group in groups for record in group.records})))
    columns = (Column("Chosen on the test set", "chosen", "text"), Column("n", "n", "count"), *METRIC_COLUMNS)
    note = (
        f"Percentage points that a metric gains if the epoch is chosen by {looks} looks at the test set, in place of the "
        "last epoch that is reported. A diagnostic and no result; each metric's own best epoch is the most that can be gained. "
        "± is the standard deviation over n seeds."
    )
    return Table(f"{dataset}: selection gap", "Method", columns, tuple(rows), (note,))


def _shown(gaps: list[float]) -> str:
    if any(map(math.isnan, gaps)):
        return DASH
    spread = f" ± {100 * stdev(gaps):.1f}" if len(gaps) > 1 else ""
    return f"{100 * mean(gaps):+.1f}{spread}"
