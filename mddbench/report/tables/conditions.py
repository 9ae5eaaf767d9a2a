"""The table of the conditions in which test images were taken, such as their light, from stored image scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mddbench.metrics.names import LABELS
from mddbench.metrics.steps import auroc, steps_of_items
from mddbench.report.rows.scored import ScoredRow, ScoredRun
from mddbench.report.tables.cells import RankedRow, over_seeds, ranked
from mddbench.report.tables.results import protocol, remarks
from mddbench.report.tables.table import Cell, Column, Row, RunOf, Table, one_line

NAME = "conditions"
"""Name of the table's file without suffix."""
PERCENT, SCOPE = 5, "one"
"""The threshold at which false alarms are counted: one for all categories, 5 % wanted."""
NOT_TOLD = "not told"
AUROC, ALARMS = "i_auroc", "fpr"
WHAT_NOTE = (
    "Each condition is judged on its own test images, normal and defective ones: the mean over the categories that have "
    "some. The model and its threshold are the same in all conditions."
)
ALARMS_NOTE = (
    "FPR: share of normal images that are false alarms at the threshold that was set without test labels (5 % wanted, one "
    "for all categories); lower is better."
)


def conditions_of(rows: Sequence[ScoredRow]) -> list[str]:
    """List the conditions of the test images, in the order of the alphabet.

    Args:
        rows: The rows with stored image scores.

    Returns:
        The names, with 'not told' for images that do not tell theirs; none if no image tells.
    """
    names = {name for row in rows for run in row.runs for part in run.evidence for name in part.conditions}
    return sorted(name or NOT_TOLD for name in names) if any(names) else []


def conditions_table(dataset: str, rows: Sequence[ScoredRow], run_of: RunOf | None = None) -> Table:
    """Make the table with a row for each method, and columns for each condition.

    Args:
        dataset: Name of the dataset, for the title.
        rows: The rows with stored image scores.
        run_of: Run of a record, for a page; None for no runs.

    Returns:
        Means and standard deviations over the seeds whose scores are stored.
    """
    names = conditions_of(rows)
    found = {run.record.identity: _values(run) for row in rows for run in row.runs}
    alarms = any(
        not math.isnan(value) for values in found.values() for key, value in values.items() if key[1] == ALARMS
    )
    keys = [(name, key) for key in ((AUROC, ALARMS) if alarms else (AUROC,)) for name in names]
    heads = {AUROC: LABELS[AUROC], ALARMS: "FPR"}
    columns = [Column(f"{heads[key]}, {name}", f"{key}_{name}") for name, key in keys]
    shown: list[RankedRow] = []
    for row in rows:
        runs = tuple(map(run_of, row.group.records)) if run_of else ()
        values = [[found[run.record.identity].get(key, math.nan) for run in row.runs] for key in keys]
        cells = (Cell.of_count(len(row.runs)), *map(over_seeds, values))
        shown.append((Row(one_line(row.group.marked_label), cells, runs=runs), row.group.competes))
    for place, (_, key) in enumerate(keys, start=1):
        shown = ranked(shown, place, lowest=key == ALARMS)
    groups = [row.group for row in rows]
    notes = (WHAT_NOTE, *([ALARMS_NOTE] if alarms else []), *remarks(groups))
    lines = tuple(row for row, _ in shown)
    return Table(
        f"{dataset}: by condition", "Method", (Column("n", "n", "count"), *columns), lines, notes, protocol(groups)
    )


def _values(run: ScoredRun) -> dict[tuple[str, str], float]:
    """Condition and AUROC or ALARMS -> the mean of a run over the categories in which it is defined."""
    found: dict[tuple[str, str], list[float]] = {}
    for part in run.evidence:
        conditions = np.array([name or NOT_TOLD for name in part.conditions or [""] * len(part.names)])
        thresholds = run.record.thresholds.of_images(part.category) if run.record.thresholds else {}
        threshold = thresholds.get((PERCENT, SCOPE), math.nan)
        for name in np.unique(conditions):
            chosen = conditions == name
            scores, labels = part.scores[chosen], part.labels[chosen]
            normal = scores[~labels]
            alarms = float(np.mean(normal > threshold)) if len(normal) and not math.isnan(threshold) else math.nan
            for key, value in ((AUROC, auroc(steps_of_items(scores, labels))), (ALARMS, alarms)):
                if not math.isnan(value):
                    found.setdefault((str(name), key), []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}
