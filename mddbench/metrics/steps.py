"""The counts from which every metric of the suite follows, and the metrics.

A step is a distinct score of anomalous items.
For each step the metrics need only two counts of normal items.
These are the items that score higher, and the items that score at least as high.
This holds for AUROC, AP, F1-max and AUPRO.

So the normal items need not be sorted.
A strictly increasing transform of the scores changes nothing.
The metrics of 40 million pixels are sums over less than a million steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 0.3
"""The false-positive rate up to which AUPRO integrates."""
LOW_LIMITS = {"aupro_05": 0.05, "aupro_01": 0.01}
"""Metric key -> the lower limit up to which AUPRO integrates in it."""


@dataclass(frozen=True)
class Steps:
    """Exact counts for each distinct score of an anomalous item, highest score first.

    Attributes:
        hits: (T,) int64 number of anomalous items with this score.
        above: (T,) int64 number of normal items that score higher.
        at_least: (T,) int64 number of normal items that score at least as high.
        negatives: Number of all normal items.
        overlap: (T,) float64 mean share of a ground-truth region that has this score. The sum is 1.
            All values are zero where there are no regions.
    """

    hits: NDArray[np.int64]
    above: NDArray[np.int64]
    at_least: NDArray[np.int64]
    negatives: int
    overlap: NDArray[np.float64]

    @property
    def positives(self) -> int:
        """The number of all anomalous items."""
        return int(self.hits.sum())

    @property
    def defined(self) -> bool:
        """Whether there is at least one anomalous and one normal item."""
        return self.negatives > 0 and len(self.hits) > 0


def steps_of_items(scores: NDArray[np.generic], labels: NDArray[np.bool_]) -> Steps:
    """Count items that have no regions, such as images.

    Args:
        scores: (N,) real numbers without NaN.
        labels: (N,) bool, True for an anomalous item.

    Returns:
        The counts, with zero overlap.
    """
    normals = np.sort(scores[~labels])
    distinct, hits = np.unique(scores[labels], return_counts=True)
    distinct, hits = distinct[::-1], hits[::-1].astype(np.int64)
    return Steps(
        hits=hits,
        above=len(normals) - np.searchsorted(normals, distinct, side="right").astype(np.int64),
        at_least=len(normals) - np.searchsorted(normals, distinct, side="left").astype(np.int64),
        negatives=len(normals),
        overlap=np.zeros(len(hits)),
    )


def auroc(steps: Steps) -> float:
    """Compute the chance that an anomalous item scores higher than a normal one; a tie counts one half.

    Args:
        steps: Counts of all items.

    Returns:
        AUROC in [0, 1], NaN unless both kinds of item exist.
    """
    if not steps.defined:
        return float("nan")
    beaten = 1.0 - (steps.above + steps.at_least) / (2 * steps.negatives)
    return float(np.sum(steps.hits * beaten) / steps.positives)


def average_precision(steps: Steps) -> float:
    """Compute the sum of precision x gain in recall over the steps (step-wise, not by trapezoids).

    Args:
        steps: Counts of all items.

    Returns:
        Average precision in [0, 1], NaN unless both kinds of item exist.
    """
    if not steps.defined:
        return float("nan")
    true_positives = np.cumsum(steps.hits)
    return float(np.sum(steps.hits * (true_positives / (true_positives + steps.at_least))) / steps.positives)


def f1_max(steps: Steps) -> float:
    """Compute the best F1 over all thresholds; the best threshold is the score of an anomalous item.

    Args:
        steps: Counts of all items.

    Returns:
        F1 in [0, 1], NaN unless both kinds of item exist.
    """
    return float(np.max(f1_curve(steps))) if steps.defined else float("nan")


def f1_curve(steps: Steps) -> NDArray[np.float64]:
    """Compute F1 at each distinct score of an anomalous item, highest score first: (T,) in [0, 1]."""
    true_positives = np.cumsum(steps.hits)
    return np.asarray(2 * true_positives / (steps.positives + true_positives + steps.at_least))


def area_under_pro(steps: Steps, limit: float = LIMIT) -> float:
    """Compute the area under mean region overlap against false-positive rate up to `limit`, divided by `limit`.

    The overlap that a step gains counts from the false-positive rate of the step to the limit.
    While normal items tie with the step, its overlap grows linearly, also across the limit.

    Args:
        steps: Counts of all pixels.
        limit: Highest false-positive rate, in (0, 1].

    Returns:
        AUPRO in [0, 1], NaN unless both kinds of pixel exist.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.
    """
    if not steps.defined:
        return float("nan")
    # Later steps gain nothing before the limit.
    within = slice(0, int(np.searchsorted(steps.above, limit * steps.negatives)))
    start, end = steps.above[within] / steps.negatives, steps.at_least[within] / steps.negatives
    crossing = np.square(limit - start) / np.maximum(2.0 * (end - start), np.finfo(float).tiny)
    reach = np.where(end <= limit, limit - (start + end) / 2.0, crossing)
    return float(np.sum(steps.overlap[within] * reach) / limit)
