"""Rows of results on changed images: which runs have some, and at which changes all of them were measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean

from mddbench.data.changes import CHANGES, LEVELS
from mddbench.metrics.names import MEAN
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, quality_metric
from mddbench.runs.records import Record
from mddbench.runs.shift import Shifts

Point = tuple[str, int]
"""Name of a change and a level."""
ALARM = "fpr_05_one"
"""The false-positive rate that stands for false alarms: one threshold for all categories, 5 % wanted."""


@dataclass(frozen=True)
class ShiftedRow:
    """A row of a table of these results.

    Attributes:
        group: The row, with the records of the runs alone.
        runs: The results of each record.
    """

    group: Group
    runs: tuple[Shifts, ...]

    def values(self, point: Point | None, key: str, category: str = MEAN) -> list[float]:
        """Return a metric of each seed.

        Args:
            point: A change and a level; None for the images as they are.
            key: Key of the metric.
            category: 'mean' or the name of a category.

        Returns:
            The values in [0, 1], NaN where it was not measured.
        """
        return [run.value(point, key, category) for run in self.runs]

    def means(self, points: Sequence[Point], key: str) -> list[float]:
        """Return the mean of a metric over some changes and levels, for each seed.

        Args:
            points: The changes and levels, at least one.
            key: Key of the metric.

        Returns:
            The means in [0, 1], NaN if a value was not measured.
        """
        return [mean(run.value(point, key) for point in points) for run in self.runs]


@dataclass(frozen=True)
class ShiftedRows:
    """The rows of a sheet that have results on changed images.

    Attributes:
        rows: The rows.
        lines: A line for each row that lacks results of a run.
    """

    rows: tuple[ShiftedRow, ...] = ()
    lines: tuple[str, ...] = ()

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The changes and levels at which all runs of all rows were measured, in the order of CHANGES."""
        found = [set(run.points) for row in self.rows for run in row.runs]
        shared = set.intersection(*found) if found else set()
        return tuple((change, level) for change in CHANGES for level in LEVELS if (change, level) in shared)

    @property
    def changes(self) -> dict[str, tuple[Point, ...]]:
        """Change -> its shared points."""
        names = dict.fromkeys(change for change, _ in self.points)
        return {name: tuple(point for point in self.points if point[0] == name) for name in names}

    @property
    def quality(self) -> str:
        """Key of the metric that stands for quality."""
        return quality_metric(row.group for row in self.rows)

    @property
    def has_alarms(self) -> bool:
        """True if false alarms were counted in some row."""
        return any(not math.isnan(value) for row in self.rows for value in row.values(None, ALARM))


def shifted_rows(groups: Sequence[Group], entries: Mapping[str, Entry]) -> ShiftedRows:
    """Load the results on changed images of the runs of a sheet.

    Args:
        groups: The rows of the sheet.
        entries: Identity of a record -> its entry.

    Returns:
        The rows with results. Those of another model than the record's are left out.
    """
    rows, lines = [], []
    for group in groups:
        found = [(record, shifts) for record in group.records for shifts in _of(record, entries)]
        if found:
            own = replace(group, records=tuple(record for record, _ in found))
            rows.append(ShiftedRow(own, tuple(shifts for _, shifts in found)))
        if 0 < len(found) < len(group.records):
            lacking = len(group.records) - len(found)
            lines.append(f"{group.label}: {lacking} of {len(group.records)} runs have no results on changed images.")
    versions = {run.changes_version for row in rows for run in row.runs}
    if len(versions) > 1:
        newest = max(versions)
        lines.append(f"Left out: runs with changes of another version than {newest}; run `mddbench shift` again.")
        rows = [kept for row in rows for kept in _of_version(row, newest)]
    return ShiftedRows(tuple(rows), tuple(lines))


def _of(record: Record, entries: Mapping[str, Entry]) -> Iterator[Shifts]:
    yield from (shifts for shifts in entries[record.identity].shifts() if shifts.belongs_to(record))


def _of_version(row: ShiftedRow, version: int) -> Iterator[ShiftedRow]:
    """The row with the runs of one version of the changes, if there are any."""
    kept = [pair for pair in zip(row.group.records, row.runs, strict=True) if pair[1].changes_version == version]
    if kept:
        records, runs = zip(*kept, strict=True)
        yield ShiftedRow(replace(row.group, records=records), runs)
