"""The tables of all categories at one threshold: a row for each method, and each category of one method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from mddbench.metrics.names import LABELS, MEAN
from mddbench.metrics.rates import FEWEST_NORMAL
from mddbench.report.rows.scored import ScoredRow
from mddbench.report.tables.cells import RankedRow, over_seeds, ranked
from mddbench.report.tables.conditions import NAME as CONDITIONS
from mddbench.report.tables.conditions import conditions_of, conditions_table
from mddbench.report.tables.results import protocol, remarks
from mddbench.report.tables.table import DASH, Cell, Column, MakeTable, Row, RunOf, Table, number, one_line, percent

NAME = "one-threshold"
"""Name of the table's file without suffix; that of a method has the method behind it."""
RATES = (Column("FPR@95TPR", "fpr95"), Column("PG2", "pg2"), Column("PB2", "pb2"))
COLUMNS = (
    Column(LABELS["i_auroc"], "i_auroc"),
    Column("Pooled AUROC", "auroc_pooled"),
    Column("Within", "auroc_within"),
    Column("Across", "auroc_across"),
    Column("Pooled AP", "ap_pooled"),
    Column("Pooled F1max", "f1max_pooled"),
    Column(LABELS["i_f1max"], "i_f1max"),
    Column("F1 at one threshold", "f1_one"),
    Column("Gap", "f1_gap"),
    *RATES,
)
OF_CATEGORY = (Column(LABELS["i_f1max"], "i_f1max"), Column("F1 at one threshold", "f1_one"), *RATES)
LOWER_IS_BETTER, NO_BEST = "fpr95", "f1_gap"
POOLED_NOTE = (
    "Pooled: the test images of all categories as one list, so the value depends on how many a category has. "
    "Within and across: pairs of images of one category, and of two; together they are the pooled AUROC."
)
THRESHOLD_NOTE = (
    "The one threshold has the best pooled F1. It is chosen on the test labels: a diagnosis, no operating point. "
    "Lower is better for FPR@95TPR."
)
GAP_NOTE = (
    "Gap: I-F1max minus F1 at one threshold, in percentage points. It has no best: a method that finds little has "
    "little to lose."
)
NOTHING = "There is no table of one threshold: the runs stored no image scores, or none that fit their records."
STEP_NOTE = (
    "Step: one false alarm among the normal test images of the category. FPR@95TPR and PG2 move in such steps, and PB2 "
    "allows as many false alarms as fit into 2 %."
)


@dataclass(frozen=True)
class OneThreshold:
    """The tables of a sheet that follow from stored image scores.

    Attributes:
        folder: Folder of their files, relative to the report.
        dataset: Name of the dataset for titles.
        names: Label of a row -> its name in names of files.
        load: Loads the rows with stored scores, and lines about those that lack some.
    """

    folder: Path
    dataset: str
    names: dict[str, str]
    load: Callable[[], tuple[tuple[ScoredRow, ...], tuple[str, ...]]]

    @cached_property
    def _loaded(self) -> tuple[tuple[ScoredRow, ...], tuple[str, ...]]:
        return self.load()

    @property
    def missing(self) -> str:
        """Why there is no table; empty if there is one."""
        rows, _ = self._loaded
        return "" if rows else NOTHING

    def tables(self) -> dict[Path, MakeTable]:
        """Load the scores and prepare the tables: file without suffix -> function; none if no scores are stored."""
        rows, lines = self._loaded
        if not rows:
            return {}
        tables: dict[Path, MakeTable] = {self.folder / NAME: partial(methods_table, self.dataset, rows, lines)}
        for row in rows:
            file = self.folder / f"{NAME}-{self.names[row.group.label]}"
            tables[file] = partial(categories_table, self.dataset, row)
        if conditions_of(rows):
            tables[self.folder / CONDITIONS] = partial(conditions_table, self.dataset, rows)
        return tables


def methods_table(
    dataset: str, rows: Sequence[ScoredRow], lines: Sequence[str] = (), run_of: RunOf | None = None
) -> Table:
    """Make the table with a row for each method.

    Args:
        dataset: Name of the dataset, for the title.
        rows: The rows.
        lines: Lines about rows without stored scores.
        run_of: Run of a record, for a page; None for no runs.

    Returns:
        Means and standard deviations over the seeds whose scores are stored.
    """
    shown: list[RankedRow] = []
    for row in rows:
        runs = tuple(map(run_of, row.group.records)) if run_of else ()
        cells = (Cell.of_count(len(row.runs)), *_cells(row, MEAN, COLUMNS))
        shown.append((Row(one_line(row.group.marked_label), cells, runs=runs), row.group.competes))
    for place, column in enumerate(COLUMNS, start=1):
        if column.key != NO_BEST:
            shown = ranked(shown, place, lowest=column.key == LOWER_IS_BETTER)
    groups = [row.group for row in rows]
    notes = (POOLED_NOTE, THRESHOLD_NOTE, GAP_NOTE, *rates_notes(rows), *lines, *remarks(groups))
    columns, title = (Column("n", "n", "count"), *COLUMNS), f"{dataset}: one threshold for all categories"
    return Table(title, "Method", columns, tuple(row for row, _ in shown), notes, protocol(groups))


def categories_table(dataset: str, row: ScoredRow, _: RunOf | None = None) -> Table:
    """Make the table of one method with a row for each category, and how fine its rates can be.

    Args:
        dataset: Name of the dataset, for the title.
        row: The method.

    Returns:
        Means and standard deviations over the seeds whose scores are stored.
    """
    rows, count = [], Cell.of_count(len(row.runs))
    for category, images in row.runs[0].normal.items():
        step = 1 / images if images else float("nan")
        of_images = (Cell.of_count(images), Cell(percent(step), number(step)))
        rows.append(Row(category, (count, *of_images, *_cells(row, category, OF_CATEGORY))))
    of_images = (Cell.of_count(sum(row.runs[0].normal.values())), Cell(DASH))
    rows.append(Row(MEAN, (count, *of_images, *_cells(row, MEAN, OF_CATEGORY)), is_mean=True))
    columns = (Column("n", "n", "count"), Column("Normal", "normal", "count"), Column("Step", "step"), *OF_CATEGORY)
    notes = (THRESHOLD_NOTE, STEP_NOTE, *rates_notes([row]), *remarks([row.group]))
    title = f"{dataset}, {row.group.label}: each category at one threshold"
    return Table(title, "Category", columns, tuple(rows), notes, protocol([row.group]))


def rates_notes(rows: Sequence[ScoredRow]) -> list[str]:
    """Return over which categories the means of rates go, a line for each set of rows that agree in it.

    Args:
        rows: The rows.

    Returns:
        The lines.
    """
    labels: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        labels.setdefault((len(row.runs[0].enough), len(row.runs[0].normal)), []).append(row.group.label)
    lines = []
    for (enough, total), names in labels.items():
        which = (
            f"means over {enough} of {total} categories, those" if enough else f"no means, none of {total} categories"
        )
        words = (
            f"{', '.join(column.head for column in RATES)}: {which} with at least {FEWEST_NORMAL} normal test images."
        )
        lines.append(words if len(labels) == 1 else f"{', '.join(names)}: {words}")
    return lines


def _cells(row: ScoredRow, category: str, columns: Sequence[Column]) -> list[Cell]:
    return [over_seeds([run.value(category, column.key) for run in row.runs]) for column in columns]
