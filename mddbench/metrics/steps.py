"""The counts from which every metric of the suite follows, and the metrics.

AUROC, AP, F1-max and AUPRO depend on the normal items only through how many of them score above, and at least as high as,
each distinct score of an anomalous item. So the normal items need not be sorted, nothing changes under a strictly increasing
transform of the scores, and the metrics of 40 million pixels are sums over the steps of less than a million of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 0.3
"""The false-positive rate up to which AUPRO integrates."""


@dataclass(frozen=True)
class Steps:
    """One entry for each distinct score of an anomalous item, highest first; all counts are exact.

    hits: (T,) int64 anomalous items with this score; above, at_least: (T,) int64 normal items that score higher, and at least
    as high; negatives: all normal items; overlap: (T,) float64 the mean share of a ground-truth region that has this score
    (its sum is 1), or zeros where there are no regions.
    """

    hits: NDArray[np.int64]
    above: NDArray[np.int64]
    at_least: NDArray[np.int64]
    negatives: int
    overlap: NDArray[np.float64]

    @property
    def positives(self) -> int:
        return int(self.hits.sum())

    @property
    def defined(self) -> bool:
        """Whether there is at least one anomalous and one normal item."""
        return self.negatives > 0 and len(self.hits) > 0


def steps_of_items(scores: NDArray[np.generic], labels: NDArray[np.bool_]) -> Steps:
    """The steps of items that carry no regions, such as images.

    scores: (N,) real numbers without NaN; labels: (N,) True for anomalous.
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
    """The chance that an anomalous item scores higher than a normal one, a tie counting one half; NaN unless both exist."""
    if not steps.defined:
        return float("nan")
    beaten = 1.0 - (steps.above + steps.at_least) / (2 * steps.negatives)
    return float(np.sum(steps.hits * beaten) / steps.positives)


def average_precision(steps: Steps) -> float:
    """The sum of precision x gain in recall over the steps (step-wise, not trapezoids); NaN unless both kinds exist."""
    if not steps.defined:
        return float("nan")
    found = np.cumsum(steps.hits)
    return float(np.sum(steps.hits * (found / (found + steps.at_least))) / steps.positives)


def f1_max(steps: Steps) -> float:
    """The best F1 over all thresholds, one of which is the score of an anomalous item; NaN unless both kinds exist."""
    if not steps.defined:
        return float("nan")
    found = np.cumsum(steps.hits)
    return float(np.max(2 * found / (steps.positives + found + steps.at_least)))


def area_under_pro(steps: Steps, limit: float = LIMIT) -> float:
    """The area under mean region overlap against false-positive rate up to `limit`, divided by `limit`.

    The overlap that a step gains counts from the step's rate to the limit; while normal items tie with it, it grows linearly,
    also across the limit. NaN unless both kinds of pixel exist.
    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.
    """
    if not steps.defined:
        return float("nan")
    within = slice(
        0, int(np.searchsorted(steps.above, limit * steps.negatives))
    )  # later steps gain nothing before the limit
    start, end = steps.above[within] / steps.negatives, steps.at_least[within] / steps.negatives
    crossing = np.square(limit - start) / np.maximum(2.0 * (end - start), np.finfo(float).tiny)
    reach = np.where(end <= limit, limit - (start + end) / 2.0, crossing)
    return float(np.sum(steps.overlap[within] * reach) / limit)
