"""Paired differences between methods: the same seeds, the same categories, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import COLUMNS, LABELS, MAD
from mddbench.report.rows.groups import Group
from mddbench.report.tables.csv import csv_lines
from mddbench.report.tables.table import DASH, Cell, Column, Row, Table, number

RESAMPLES, LEVEL = 10_000, 0.95
ENOUGH_CATEGORIES = 5
MINUS = chr(0x2212)


@dataclass(frozen=True)
class Difference:
    """One metric of one method minus another's: the mean over seeds and categories, and its bootstrap interval; NaN if it is
    not defined. categories: how many count.
    """

    mean: float
    low: float
    high: float
    categories: int


@dataclass(frozen=True)
class Pair:
    """A method beside another, the one of higher mAD first. seeds: that both have; differences: by metric."""

    one: str
    other: str
    seeds: tuple[int, ...]
    differences: dict[str, Difference]


def paired_differences(groups: Sequence[Group]) -> list[Pair]:
    """All pairs of rows under one protocol that share seeds, best first."""
    ranked = sorted(groups, key=lambda group: -_nan_last(_level(group)))
    pairs = [(one, other) for one, other in combinations(ranked, 2) if one.differs == other.differs]
    return [pair for one, other in pairs for pair in _pair(one, other)]


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of the mean of differences (S seeds, C categories), seeds and categories drawn anew with
    replacement, independently of each other; always the same draws.

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
    """What may be said of the differences, in plain words."""
    fewest = min(len(pair.seeds) for pair in pairs)
    categories = max(difference.categories for pair in pairs for difference in pair.differences.values())
    least = 2.0 ** (1 - fewest)
    lines = [
        f"Percent points, with the {100 * LEVEL:.0f} % interval of {RESAMPLES} bootstrap samples over the shared seeds and the "
        f"{categories} categories, which are drawn independently.",
    ]
    if least > 1 - LEVEL:
        plural = "seed" if fewest == 1 else "seeds"
        lines.append(
            f"**With {fewest} {plural} no significance can be claimed**: a sign test over {fewest} paired {plural} cannot give "
            f"p below {least:.2g}; {_enough()} seeds are the fewest that can. The intervals tell mostly how categories differ."
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
    """The differences of all pairs, with what may be said of them below.

    Args:
        dataset: Its name, for the title.
        pairs: At least one.

    Returns:
        A table with a row for each pair.
    """
    rows = []
    for pair in pairs:
        cells = (Cell(_shown(pair.differences[key])) for key in COLUMNS)
        seeds = Cell(str(len(pair.seeds)), len(pair.seeds))
        rows.append(Row(f"{pair.one} {MINUS} {pair.other}", (seeds, *cells)))
    columns = (Column("n", "n", "count"), *(Column(LABELS[key], key) for key in COLUMNS))
    return Table(f"{dataset}: paired differences", "Difference", columns, tuple(rows), tuple(statement(pairs)))


def differences_csv(pairs: Sequence[Pair]) -> str:
    """All digits, in [-1, 1]: one line for each pair and metric."""
    heads = ("one", "other", "metric", "seeds", "categories", "mean", "low", "high")
    lines = [
        (pair.one, pair.other, key, len(pair.seeds), each.categories, *map(number, (each.mean, each.low, each.high)))
        for pair in pairs
        for key, each in pair.differences.items()
    ]
    return csv_lines([heads, *lines])


def _pair(one: Group, other: Group) -> list[Pair]:
    left, right = ({record.seed: record for record in group.records} for group in (one, other))
    seeds = tuple(sorted(left.keys() & right.keys()))
    shared = [name for name in one.first.categories if name in other.first.categories]
    if not seeds or not shared:
        return []
    found = {}
    for key in COLUMNS:
        values = [[left[s].value(name, key) - right[s].value(name, key) for name in shared] for s in seeds]
        table = np.array(values, dtype=np.float64)
        table = table[:, np.isfinite(table).all(axis=0)]
        if table.shape[1]:
            found[key] = Difference(float(table.mean()), *interval(table), table.shape[1])
        else:
            found[key] = Difference(math.nan, math.nan, math.nan, 0)
    return [Pair(one.shown, other.shown, seeds, found)]


def _level(group: Group) -> float:
    return float(np.mean([record.value("mean", MAD.key) for record in group.records]))


def _nan_last(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _enough() -> int:
    """The fewest pairs whose sign test can be significant at the level."""
    return 1 + math.ceil(-math.log2(1 - LEVEL))


def _shown(found: Difference) -> str:
    if math.isnan(found.mean):
        return DASH
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
