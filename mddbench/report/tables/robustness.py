"""The tables of changed test images: a row for each method, and each change of one method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from mddbench.data.changes import CHANGES
from mddbench.metrics.names import LABELS
from mddbench.report.rows.shifted import ALARM, Point, ShiftedRow, ShiftedRows
from mddbench.report.tables.cells import RankedRow, over_seeds, ranked
from mddbench.report.tables.results import protocol, remarks
from mddbench.report.tables.table import Cell, Column, MakeTable, Row, RunOf, Table, one_line

NAME = "robustness"
"""Name of the table's file without suffix; that of a method has the method behind it."""
TPR = "tpr_05_one"
WHAT_NOTE = (
    "The finished model on test images that were changed in fixed ways, with the threshold that was set on unchanged "
    "normal images (5 % false alarms wanted, one for all categories). Changed: mean over the changes and their levels. "
    "Drop: what of the clean value is lost. FPR: share of normal images that are false alarms; lower is better."
)
NO_ALARMS = "No false alarms: no threshold was set without test labels (`calibration`)."
NOTHING_SHARED = (
    "There is no table of changed test images: the rows share no change and level; `mddbench shift` adds some."
)
WORST_NOTE = "Worst: the change, over its levels, with the most false alarms."


@dataclass(frozen=True)
class Robustness:
    """The tables of a sheet from results on changed images.

    Attributes:
        folder: Folder of their files, relative to the report.
        dataset: Name of the dataset for titles.
        names: Label of a row -> its name in names of files.
        load: Loads the rows.
    """

    folder: Path
    dataset: str
    names: dict[str, str]
    load: Callable[[], ShiftedRows]

    @cached_property
    def found(self) -> ShiftedRows:
        """The rows, which are loaded now."""
        return self.load()

    @property
    def missing(self) -> str:
        """Why there is no table although there are results; empty otherwise."""
        return NOTHING_SHARED if self.found.rows and not self.found.points else ""

    def tables(self) -> dict[Path, MakeTable]:
        """Prepare the tables: file without suffix -> function; none if no results are there."""
        if not self.found.points:
            return {}
        tables: dict[Path, MakeTable] = {self.folder / NAME: partial(methods_table, self.dataset, self.found)}
        for row in self.found.rows:
            file = self.folder / f"{NAME}-{self.names[row.group.label]}"
            tables[file] = partial(changes_table, self.dataset, row, self.found.quality)
        return tables


def methods_table(dataset: str, found: ShiftedRows, run_of: RunOf | None = None) -> Table:
    """Make the table with a row for each method.

    Args:
        dataset: Name of the dataset, for the title.
        found: The rows.
        run_of: Run of a record, for a page; None for no runs.

    Returns:
        Means and standard deviations over the seeds that have results.
    """
    quality, alarms = found.quality, found.has_alarms
    label = LABELS[quality]
    columns = [
        Column(f"{label} clean", quality),
        Column(f"{label} changed", f"{quality}_changed"),
        Column("Drop", "drop"),
    ]
    if alarms:
        columns += [Column("FPR clean", "fpr"), Column("FPR changed", "fpr_changed"), Column("Worst FPR", "fpr_worst")]
        columns += [Column("TPR clean", "tpr"), Column("TPR changed", "tpr_changed")]
    shown: list[RankedRow] = []
    for row in found.rows:
        runs = tuple(map(run_of, row.group.records)) if run_of else ()
        clean, changed = row.values(None, quality), row.means(found.points, quality)
        cells = [over_seeds(clean), over_seeds(changed), over_seeds(list(map(_drop, clean, changed)))]
        if alarms:
            cells += [
                over_seeds(row.values(None, ALARM)),
                over_seeds(row.means(found.points, ALARM)),
                _worst(row, found),
            ]
            cells += [over_seeds(row.values(None, TPR)), over_seeds(row.means(found.points, TPR))]
        line = Row(one_line(row.group.marked_label), (Cell.of_count(len(row.runs)), *cells), runs=runs)
        shown.append((line, row.group.competes))
    for place, column in enumerate(columns, start=1):
        if not column.key.startswith("tpr"):  # a rate of hits says little without that of false alarms
            shown = ranked(shown, place, lowest=column.key == "drop" or column.key.startswith("fpr"))
    groups = [row.group for row in found.rows]
    without = [] if alarms else [NO_ALARMS]
    notes = (WHAT_NOTE, *([WORST_NOTE] if alarms else without), _points_note(found), *found.lines, *remarks(groups))
    rows = tuple(row for row, _ in shown)
    heads = (Column("n", "n", "count"), *columns)
    return Table(f"{dataset}: changed test images", "Method", heads, rows, notes, protocol(groups))


def changes_table(dataset: str, row: ShiftedRow, quality: str, _: RunOf | None = None) -> Table:
    """Make the table of one method with a row for each change and level that all of its runs have.

    Args:
        dataset: Name of the dataset, for the title.
        row: The method.
        quality: Key of the metric that stands for quality.

    Returns:
        Means and standard deviations over the seeds that have results.
    """
    own = ShiftedRows((row,))
    keys = list(dict.fromkeys((quality, "i_auroc", *(("p_ap", "aupro") if quality == "mad" else ()))))
    columns = [Column(LABELS[key], key) for key in keys]
    columns.insert(1, Column("Drop", "drop"))
    if own.has_alarms:
        columns += [Column("FPR, one", ALARM), Column("FPR, each", "fpr_05_each"), Column("TPR, one", TPR)]
    points: list[Point | None] = [None, *own.points]
    rows = []
    for point in points:
        cells = [
            over_seeds(list(map(_drop, row.values(None, quality), row.values(point, quality))))
            if column.key == "drop"
            else over_seeds(row.values(point, column.key))
            for column in columns
        ]
        rows.append(Row(words(point), (Cell.of_count(len(row.runs)), *cells)))
    title = f"{dataset}, {row.group.label}: each change of the test images"
    notes = (WHAT_NOTE, *([] if own.has_alarms else [NO_ALARMS]), *remarks([row.group]))
    heads = (Column("n", "n", "count"), *columns)
    return Table(title, "Change", heads, tuple(rows), notes, protocol([row.group]))


def words(point: Point | None) -> str:
    """Say a change and a level in words.

    >>> words(("brightness", 2))
    'Brightness, 0.5 stops'

    Args:
        point: The change and the level; None for the images as they are.

    Returns:
        The words.
    """
    if point is None:
        return "none"
    change = CHANGES[point[0]]
    return f"{change.label}, {change.amount(point[1]):g} {change.unit}"


def _points_note(found: ShiftedRows) -> str:
    """Say which changes and levels are in the means."""
    by_levels: dict[str, list[str]] = {}
    for change, points in found.changes.items():
        levels = ", ".join(str(level) for _, level in points)
        by_levels.setdefault(levels, []).append(CHANGES[change].label)
    parts = [f"{', '.join(names)} (levels {levels})" for levels, names in by_levels.items()]
    return f"Changes that all rows have: {'; '.join(parts)}."


def _drop(clean: float, changed: float) -> float:
    """The share of the clean value that is lost; NaN if there is none."""
    return (clean - changed) / clean if clean else math.nan


def _worst(row: ShiftedRow, found: ShiftedRows) -> Cell:
    """The highest mean over the levels of a change, for each seed."""
    of_changes: Sequence[list[float]] = [row.means(points, ALARM) for points in found.changes.values()]
    return over_seeds([max(values) for values in zip(*of_changes, strict=True)])
