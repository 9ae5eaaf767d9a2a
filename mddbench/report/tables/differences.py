"""Bootstrap intervals of the means of runs, and of paired differences between methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import COLUMNS, MEAN
from mddbench.report.rows.groups import Group, quality_metric
from mddbench.report.tables.csv import csv_lines
from mddbench.report.tables.table import DASH, METRIC_COLUMNS, Cell, Column, Row, Table, number, percent

RESAMPLES, LEVEL = 10_000, 0.95
ENOUGH_SEEDS = 1 + math.ceil(-math.log2(1 - LEVEL))  # the fewest pairs whose sign test can be significant at LEVEL
ENOUGH_CATEGORIES = 5
MINUS = chr(0x2212)
CONFIDENCE_NOTE = (
    "Percent, with the 95 % interval of a bootstrap over the test images of each category (docs/metrics.md)."
)


@dataclass(frozen=True)
class Difference:
    """One metric of a method minus that of another method, in [-1, 1]; NaN where it is not defined.

    Attributes:
        mean: Mean over seeds and categories.
        low: Lower end of its bootstrap interval.
        high: Upper end of its bootstrap interval.
        categories: Number of categories in which the metric is defined for all seeds.
    """

    mean: float
    low: float
    high: float
    categories: int


@dataclass(frozen=True)
class Pair:
    """Two methods side by side.

    Attributes:
        better: Label of the method with the higher mAD.
        worse: Label of the other method.
        seeds: The seeds that both have.
        differences: Metric -> difference.
    """

    better: str
    worse: str
    seeds: tuple[int, ...]
    differences: dict[str, Difference]


def confidence_table(dataset: str, groups: Sequence[Group]) -> Table | None:
    """Make the table of bootstrap intervals of means over categories.

    Args:
        dataset: Name of the dataset, for the title.
        groups: The rows, one for each method.

    Returns:
        A table with a row for each run that has intervals; None if no run has.
    """
    rows = []
    for group in groups:
        for record in group.records:
            intervals = record.confidence.get(MEAN, {})
            if intervals:
                cells = []
                for key in COLUMNS:
                    ends = intervals.get(key)
                    interval = "" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
                    cells.append(Cell(f"{percent(record.value('mean', key))}{interval}"))
                rows.append(Row(group.marked_label, (Cell.of_count(record.seed), *cells)))
    columns = (Column("seed", "seed", "count"), *METRIC_COLUMNS)
    title = f"{dataset}: means over categories with confidence intervals"
    return Table(title, "Method", columns, tuple(rows), (CONFIDENCE_NOTE,)) if rows else None


def paired_differences(groups: Sequence[Group]) -> list[Pair]:
    """Compare all pairs of rows under one protocol that share seeds and categories.

    Args:
        groups: The rows.

    Returns:
        The pairs, best rows first.
    """
    quality = quality_metric(groups)
    ranked = sorted(groups, key=lambda group: _rank(group, quality))
    pairs = [_pair(better, worse) for better, worse in combinations(ranked, 2) if better.differs == worse.differs]
    return [pair for pair in pairs if pair is not None]


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of a percentile interval of the mean of differences (S seeds, C categories).

    Seeds and categories are drawn with replacement, independently of each other. The draws are always the same.

    Source: the pigeonhole bootstrap for crossed factors (Owen, Annals of Applied Statistics 2007).
    """
    generator = np.random.default_rng(0)
    seeds, categories = differences.shape
    drawn = [
        generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count for count in (seeds, categories)
    ]
    means = np.einsum("rs,sc,rc->r", drawn[0], differences, drawn[1])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def statement(pairs: Sequence[Pair]) -> list[str]:
    """Return in plain words what may be concluded from the differences."""
    fewest = min(len(pair.seeds) for pair in pairs)
    categories = max(difference.categories for pair in pairs for difference in pair.differences.values())
    least = 2.0 ** (1 - fewest)
    lines = [
        f"Percentage points, with the {100 * LEVEL:.0f} % interval of {RESAMPLES} bootstrap samples over the shared seeds and "
        f"the {categories} categories, which are drawn independently.",
    ]
    if least > 1 - LEVEL:
        plural = "seed" if fewest == 1 else "seeds"
        lines.append(
            f"With {fewest} {plural} no significance can be claimed: a sign test over {fewest} paired {plural} cannot "
            f"give p below {least:.2g}; {ENOUGH_SEEDS} seeds are the fewest that can. The intervals tell mostly how "
            "categories differ."
        )
    else:
        lines.append(
            f"An interval without 0 suggests a difference on these categories; no correction was made for {len(COLUMNS)} "
            f"metrics and {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}, and with few seeds the interval is too narrow."
        )
    if categories < ENOUGH_CATEGORIES:
        lines.append(f"{categories} {'category says' if categories == 1 else 'categories say'} little about others.")
    return lines


def differences_table(dataset: str, pairs: Sequence[Pair]) -> Table:
    """Make the table of paired differences.

    Args:
        dataset: Name of the dataset, for the title.
        pairs: The pairs, at least one.

    Returns:
        A table with a row for each pair, and the statement as notes.
    """
    rows = []
    for pair in pairs:
        cells = (Cell(_shown(pair.differences[key])) for key in COLUMNS)
        rows.append(Row(f"{pair.better} {MINUS} {pair.worse}", (Cell.of_count(len(pair.seeds)), *cells)))
    columns, notes = (Column("n", "n", "count"), *METRIC_COLUMNS), tuple(statement(pairs))
    return Table(f"{dataset}: paired differences", "Difference", columns, tuple(rows), notes)


def differences_csv(pairs: Sequence[Pair]) -> str:
    """Write paired differences as CSV.

    Args:
        pairs: The pairs.

    Returns:
        A line for each pair and metric, with all digits, in [-1, 1].
    """
    heads = ("one", "other", "metric", "seeds", "categories", "mean", "low", "high")
    lines = [
        (pair.better, pair.worse, key, len(pair.seeds), diff.categories, *map(number, (diff.mean, diff.low, diff.high)))
        for pair in pairs
        for key, diff in pair.differences.items()
    ]
    return csv_lines([heads, *lines])


def _pair(better: Group, worse: Group) -> Pair | None:
    first, second = ({record.seed: record for record in group.records} for group in (better, worse))
    seeds = tuple(sorted(first.keys() & second.keys()))
    shared = [name for name in better.first.categories if name in worse.first.categories]
    if not seeds or not shared:
        return None
    differences = {}
    for key in COLUMNS:
        values = [[first[s].value(name, key) - second[s].value(name, key) for name in shared] for s in seeds]
        table = np.array(values, dtype=np.float64)
        table = table[:, np.isfinite(table).all(axis=0)]
        if table.shape[1]:
            differences[key] = Difference(float(table.mean()), *interval(table), table.shape[1])
        else:
            differences[key] = Difference(math.nan, math.nan, math.nan, 0)
    return Pair(better.marked_label, worse.marked_label, seeds, differences)


def _rank(group: Group, key: str) -> float:
    """Sorts rows by the mean of a metric, best first and NaN last."""
    level = float(np.mean([record.value(MEAN, key) for record in group.records]))
    return math.inf if math.isnan(level) else -level


def _shown(difference: Difference) -> str:
    if math.isnan(difference.mean):
        return DASH
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
