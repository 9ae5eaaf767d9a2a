"""Ranks of many methods over the categories of a dataset, and which of them differ.

A category counts once, with its mean over seeds. Seeds times categories are never taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mddbench.report.rows.groups import Group

ENOUGH_METHODS = 4
"""The fewest methods of which ranks are shown. For fewer, paired differences say it all."""
LEVEL = 0.05
"""Level of the tests, over all pairs together."""


@dataclass(frozen=True)
class RankedPair:
    """Two methods, the one with the better mean rank first.

    Attributes:
        better: Its label.
        worse: Label of the other one.
        difference: Mean over categories of better minus worse.
        effect: Rank-biserial correlation in [-1, 1]: the share of the rank sum that speaks for the better one, minus
            the rest. NaN if no category differs.
        p: Two-sided p of Wilcoxon's signed-rank test.
        corrected: The same after Holm's correction for all pairs.
    """

    better: str
    worse: str
    difference: float
    effect: float
    p: float
    corrected: float


@dataclass(frozen=True)
class Ranking:
    """Ranks of methods in one metric.

    Attributes:
        metric: Key of the metric.
        categories: Number of categories in which the metric is defined for all methods and seeds.
        mean_ranks: Label -> mean rank over these categories, 1 for the best; ties share a rank. Best first.
        pairs: All pairs.
    """

    metric: str
    categories: int
    mean_ranks: dict[str, float]
    pairs: tuple[RankedPair, ...]

    def alike(self) -> list[tuple[str, ...]]:
        """Find the largest sets of methods with neighbouring ranks of which no two differ at LEVEL.

        Returns:
            Labels of each set of at least two, best first.
        """
        labels = list(self.mean_ranks)
        differ = {frozenset((pair.better, pair.worse)) for pair in self.pairs if pair.corrected <= LEVEL}
        found: list[tuple[str, ...]] = []
        for start in range(len(labels)):
            end = start + 1
            while end < len(labels) and not any(
                frozenset(two) in differ for two in combinations(labels[start : end + 1], 2)
            ):
                end += 1
            members = tuple(labels[start:end])
            if len(members) > 1 and not any(set(members) <= set(earlier) for earlier in found):
                found.append(members)
        return found


def comparable(groups: Sequence[Group]) -> list[Group]:
    """Return the rows that are ranked: under one protocol, no upper bounds, of the first row's categories; else none."""
    rows = [group for group in groups if group.competes]
    same = [group for group in rows if set(group.first.categories) == set(rows[0].first.categories)]
    return same if len(same) >= ENOUGH_METHODS else []


def ranking(groups: Sequence[Group], metric: str) -> Ranking | None:
    """Rank methods in a metric.

    Args:
        groups: The rows, from `comparable`.
        metric: Key of the metric.

    Returns:
        The ranking; None if fewer than two categories define the metric for all methods and seeds.
    """
    values = np.array([
        [
            np.mean([record.value(category, metric) for record in group.records])
            for category in groups[0].first.categories
        ]
        for group in groups
    ])
    values = values[:, ~np.isnan(values).any(axis=0)]
    if values.shape[1] < 2:
        return None
    means = np.mean([_ranks(-column) for column in values.T], axis=0)
    order = sorted(range(len(groups)), key=lambda index: (means[index], groups[index].label))
    labels = [groups[index].label for index in order]
    tests = [
        (one, other, *signed_ranks(values[order[one]] - values[order[other]]))
        for one, other in combinations(range(len(order)), 2)
    ]
    corrected = holm([p for _, _, p, _ in tests])
    pairs = tuple(
        RankedPair(
            labels[one], labels[other], float(np.mean(values[order[one]] - values[order[other]])), effect, p, adjusted
        )
        for (one, other, p, effect), adjusted in zip(tests, corrected, strict=True)
    )
    mean_ranks = {label: float(means[index]) for label, index in zip(labels, order, strict=True)}
    return Ranking(metric, values.shape[1], mean_ranks, pairs)


def signed_ranks(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Test whether paired differences are symmetric about zero: Wilcoxon's signed-rank test, exact, also with ties.

    Differences of zero are left out. All signs are equally likely under the hypothesis, so the distribution of the
    rank sum is counted.

    Args:
        differences: (n,) differences.

    Returns:
        Two-sided p, and the rank-biserial correlation. They are 1 and NaN if all differences are zero.

    Source: Wilcoxon, Biometrics Bulletin 1945; Kerby, Comprehensive Psychology 2014, for the correlation.
    """
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0, math.nan
    doubled = np.round(2 * _ranks(np.abs(nonzero))).astype(np.int64)  # whole numbers, also for shared ranks
    total = int(doubled.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[: total + 1 - rank]
    positive = int(doubled[nonzero > 0].sum())
    extreme = min(positive, total - positive)
    p = 2.0 * float(ways[: extreme + 1].sum()) / 2.0 ** len(doubled)
    return min(p, 1.0), (2 * positive - total) / total


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's method.

    Args:
        p_values: The p values.

    Returns:
        Corrected values in the same order, at most 1.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value from 1, the lowest first; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[inverse.reshape(-1)], dtype=np.float64)
