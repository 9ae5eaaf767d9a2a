"""The tables of thresholds that were set without test labels: what they do to the test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mddbench.metrics.names import MEAN
from mddbench.metrics.thresholds import PERCENTS, PIXEL_RATE, QUANTILE, RULES, SCOPES, SIGMA
from mddbench.report.rows.groups import Group
from mddbench.report.tables.cells import RankedRow, over_seeds, ranked
from mddbench.report.tables.results import protocol, remarks
from mddbench.report.tables.table import Cell, Column, MakeTable, Row, RunOf, Table, one_line
from mddbench.runs.records import Record

NAME = "thresholds"
"""Begins the names of the tables' files."""
WORST = "worst_"
"""Begins the key of a column with the worst category."""
RULE_WORDS = {QUANTILE: "quantile", SIGMA: "3 sigma"}
IMAGE_NOTE = (
    "Thresholds are set on normal images that were held out of the training, by split conformal prediction. No test image "
    "and no label is used. One: a threshold for all categories. Each: one for each category, which must then be known. "
    "Worst: the category with the most false alarms. Error: mean distance of a category's false-positive rate from the "
    "wanted one; lower is better."
)
PIXEL_NOTE = (
    f"Quantile: {100 * PIXEL_RATE:.3f} % of the held-out pixels lie above the threshold. 3 sigma: their mean plus three "
    "standard deviations, the rule of MVTec AD 2; in a normal distribution both are the same. SegF1: F1 of all test "
    "pixels of a category. ClassF1: F1 of its images, where one is defective if any pixel is."
)


def threshold_tables(
    folder: Path, dataset: str, groups: Sequence[Group], names: dict[str, str]
) -> dict[Path, MakeTable]:
    """Prepare the tables of a sheet.

    Args:
        folder: Folder of their files, relative to the report.
        dataset: Name of the dataset for titles.
        groups: The rows of the sheet.
        names: Label of a row -> its name in names of files.

    Returns:
        File without suffix -> function that makes the table; none if no record has thresholds.
    """
    rows = [group for group in groups if all(record.thresholds is not None for record in group.records)]
    if not rows:
        return {}
    tables: dict[Path, MakeTable] = {
        folder / f"{NAME}-{percent}": partial(_images_table, dataset, rows, percent) for percent in PERCENTS
    }
    tables[folder / f"{NAME}-pixels"] = partial(_pixels_table, dataset, rows)
    for group in rows:
        tables[folder / f"{NAME}-{names[group.label]}"] = partial(_categories_table, dataset, group)
    return tables


def _images_table(dataset: str, groups: Sequence[Group], percent: int, run_of: RunOf | None) -> Table:
    """Make the table of image scores at one wanted share of false alarms."""
    title = f"{dataset}: thresholds without test labels, {percent} % false alarms wanted"
    columns = [column for scope in SCOPES for column in _image_columns(percent, scope)]
    refusals = [f"{group.label}: {line}." for group in groups for line in _refusals(group, percent)]
    return _methods_table(title, groups, columns, (IMAGE_NOTE, *refusals), run_of)


def _pixels_table(dataset: str, groups: Sequence[Group], run_of: RunOf | None) -> Table:
    """Make the table of binary maps."""
    columns = [
        Column(f"{label}, {RULE_WORDS[rule]}, {scope}", f"{key}_{rule}_{scope}")
        for rule in RULES
        for scope in SCOPES
        for label, key in (("SegF1", "seg_f1"), ("ClassF1", "class_f1"))
    ]
    return _methods_table(f"{dataset}: binary maps without test labels", groups, columns, (PIXEL_NOTE,), run_of)


def _methods_table(
    title: str, groups: Sequence[Group], columns: Sequence[Column], notes: Sequence[str], run_of: RunOf | None
) -> Table:
    """Make a table with a row for each method: means over categories, and over seeds."""
    rows: list[RankedRow] = []
    for group in groups:
        runs = tuple(map(run_of, group.records)) if run_of else ()
        held_out = sum(group.first.thresholds.images.values()) if group.first.thresholds else 0
        cells = [Cell.of_count(len(group.records)), Cell.of_count(held_out)]
        cells += [over_seeds([_mean(record, column.key) for record in group.records]) for column in columns]
        rows.append((Row(one_line(group.marked_label), tuple(cells), runs=runs), group.competes))
    for place, column in enumerate(columns, start=2):
        if not column.key.startswith((WORST, "fpr_0", "tpr_")):  # rates say little alone
            rows = ranked(rows, place, lowest=column.key.startswith("fpr_error"))
    head = (Column("n", "n", "count"), Column("Held out", "held_out", "count"))
    shown, lines = tuple(row for row, _ in rows), (*notes, *remarks(groups))
    return Table(title, "Method", (*head, *columns), shown, lines, protocol(groups))


def _categories_table(dataset: str, group: Group, _: RunOf | None) -> Table:
    """Make the table of one method with a row for each category."""
    first = group.first.thresholds
    columns = [
        Column(f"{label}, {percent} %, {scope}", f"{key}_{percent:02d}_{scope}")
        for percent in PERCENTS
        for scope in SCOPES
        for label, key in (("FPR", "fpr"), ("TPR", "tpr"))
    ]
    rows = []
    for category in (*group.first.categories, MEAN):
        images = dict(first.images) if first else {}
        count = sum(images.values()) if category == MEAN else images.get(category, 0)
        cells = [over_seeds([record.value(category, column.key) for record in group.records]) for column in columns]
        head = (Cell.of_count(len(group.records)), Cell.of_count(count))
        rows.append(Row(category, (*head, *cells), is_mean=category == MEAN))
    refusals = [f"{group.label}: {line}." for percent in PERCENTS for line in _refusals(group, percent)]
    heads = (Column("n", "n", "count"), Column("Held out", "held_out", "count"), *columns)
    notes = (IMAGE_NOTE, *refusals, *remarks([group]))
    title = f"{dataset}, {group.label}: each category at thresholds without test labels"
    return Table(title, "Category", heads, tuple(rows), notes, protocol([group]))


def _image_columns(percent: int, scope: str) -> list[Column]:
    end = f"{percent:02d}_{scope}"
    return [
        Column(f"FPR, {scope}", f"fpr_{end}"),
        Column(f"Worst, {scope}", f"{WORST}fpr_{end}"),
        Column(f"Error, {scope}", f"fpr_error_{end}"),
        Column(f"TPR, {scope}", f"tpr_{end}"),
        Column(f"F1, {scope}", f"f1_{end}"),
    ]


def _mean(record: Record, key: str) -> float:
    """Return the mean over categories, or the highest value of a category; NaN if a category was not measured."""
    if not key.startswith(WORST):
        return record.value(MEAN, key)
    plain = key.removeprefix(WORST)
    if any(plain not in record.further.get(category, {}) for category in record.categories):
        return math.nan
    values = [record.value(category, plain) for category in record.categories]
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _refusals(group: Group, percent: int) -> list[str]:
    """Say which thresholds at a wanted share could not be set in one of the runs."""
    lines = [
        line
        for record in group.records
        if record.thresholds is not None
        for line in record.thresholds.refusals()
        if line.startswith(f"no threshold at {percent} %")
    ]
    return list(dict.fromkeys(lines))
