"""Rows of the metrics that follow from stored image scores: which runs kept theirs, and what their scores say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mddbench.metrics.names import MEAN
from mddbench.metrics.pooled import one_threshold, pooled_values
from mddbench.metrics.rates import FEWEST_NORMAL, rate_values
from mddbench.metrics.rates import KEYS as RATES
from mddbench.metrics.steps import auroc, steps_of_items
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group
from mddbench.runs.evidence import Evidence
from mddbench.runs.records import Record

SAME = 1e-6
"""The largest difference between a record's image AUROC and that of scores that are the record's."""


@dataclass(frozen=True)
class ScoredRun:
    """A run whose image scores are stored.

    Attributes:
        record: Its record.
        evidence: Scores of each category.
    """

    record: Record
    evidence: tuple[Evidence, ...]

    @property
    def fits(self) -> bool:
        """True if the scores give the record's image AUROC in each of its categories."""
        found = {part.category: auroc(steps_of_items(part.scores, part.labels)) for part in self.evidence}
        expected = {category: self.record.value(category, "i_auroc") for category in self.record.categories}
        return found.keys() == expected.keys() and bool(
            np.allclose([found[name] for name in expected], list(expected.values()), rtol=0, atol=SAME, equal_nan=True)
        )

    @cached_property
    def normal(self) -> dict[str, int]:
        """Category -> number of its normal test images."""
        return {part.category: int(np.count_nonzero(~part.labels)) for part in self.evidence}

    @property
    def enough(self) -> tuple[str, ...]:
        """The categories with enough normal images for a mean of rates."""
        return tuple(category for category, count in self.normal.items() if count >= FEWEST_NORMAL)

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """Category or MEAN -> metric -> value in [0, 1], NaN where it is not defined.

        MEAN has the pooled metrics, too. Its rates are means over the categories with enough normal images.
        """
        images = [(part.scores, part.labels) for part in self.evidence]
        shared = one_threshold(images).shared
        values = {
            part.category: {"f1_one": float(f1), **rate_values(part.scores, part.labels)}
            for part, f1 in zip(self.evidence, shared, strict=True)
        }
        rates = {key: _mean([values[category][key] for category in self.enough]) for key in RATES}
        return {**values, MEAN: {**pooled_values(images), **rates}}

    def value(self, category: str, key: str) -> float:
        """Return the value of a metric of the scores, or else of the record.

        Args:
            category: MEAN or the name of a category.
            key: Key of the metric.

        Returns:
            The value, NaN if it is not defined or if there is no such category.
        """
        own = self.values.get(category, {})
        return own[key] if key in own else self.record.value(category, key)


@dataclass(frozen=True)
class ScoredRow:
    """A row of a table of these metrics.

    Attributes:
        group: The row, with the records of the runs alone.
        runs: The runs, at least one.
    """

    group: Group
    runs: tuple[ScoredRun, ...]


def scored_rows(groups: Sequence[Group], entries: Mapping[str, Entry]) -> tuple[tuple[ScoredRow, ...], tuple[str, ...]]:
    """Load the stored scores of the runs of a sheet.

    Args:
        groups: The rows of the sheet.
        entries: Identity of a record -> its entry.

    Returns:
        The rows with stored scores, and a line for each row that lacks those of a run.
    """
    rows, remarks = [], []
    for group in groups:
        kept = [(record, entries[record.identity].evidence()) for record in group.records]
        stored = [ScoredRun(record, evidence) for record, evidence in kept if evidence]
        runs = tuple(run for run in stored if run.fits)
        if runs:
            rows.append(ScoredRow(replace(group, records=tuple(run.record for run in runs)), runs))
        if len(runs) < len(kept):
            remarks.append(_remark(group, len(kept) - len(stored), len(stored) - len(runs)))
    return tuple(rows), tuple(remarks)


def _remark(group: Group, without: int, unfit: int) -> str:
    """Say how many runs of a row stored no scores, or scores that do not fit their record."""
    total = len(group.records)
    parts = [f"{without} of {total} runs stored no image scores"] if without else []
    parts += [f"the image scores of {unfit} of {total} runs do not fit their record"] if unfit else []
    return f"{group.label}{'' if without + unfit < total else ' has no row'}: {'; '.join(parts)}."


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are defined, NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
