"""One sorted pass over scores, from which every metric of the suite follows.

All four metrics depend only on how many anomalous and how many normal items lie at or above each
distinct score, so nothing here changes under a strictly increasing transform of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Cumulative counts at every distinct score, from the highest score down; equal scores are one step.

    tp, fp: (T,) int64, anomalous and normal items scored at or above the step.
    overlap: (T,) float64, the mean share of each ground-truth region at or above it, in [0, 1]; all zero without regions.
    """

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @property
    def positives(self) -> int:
        return int(self.tp[-1]) if len(self.tp) else 0

    @property
    def negatives(self) -> int:
        return int(self.fp[-1]) if len(self.fp) else 0

    @property
    def defined(self) -> bool:
        """Whether there is at least one anomalous and one normal item."""
        return self.positives > 0 and self.negatives > 0


def count(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> Counts:
    """Sort once and count.

    scores: (N,) any number type, no NaN; labels: (N,) True for anomalous;
    weights: (N,) the share of the mean region overlap that each item carries, zero for normal items.
    """
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)  # the negative of an unsigned integer is not smaller
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1) if len(ranked) else order
    anomalous = labels[order]
    tp = np.cumsum(anomalous, dtype=np.int64)[last_of_ties]
    overlap = np.zeros(len(tp)) if weights is None else np.cumsum(weights[order])[last_of_ties]
    return Counts(tp=tp, fp=last_of_ties + 1 - tp, overlap=overlap)


def auroc(counts: Counts) -> float:
    """Area under the ROC curve by trapezoids, so a tie counts one half; NaN unless both kinds are present."""
    if not counts.defined:
        return float("nan")
    tp, fp = np.append(0, counts.tp), np.append(0, counts.fp)
    doubled = np.sum(np.diff(fp).astype(np.float64) * (tp[1:] + tp[:-1]))
    return float(doubled / (2.0 * counts.positives * counts.negatives))


def average_precision(counts: Counts) -> float:
    """Average precision as a step-wise sum (not trapezoids); NaN unless both kinds are present."""
    if not counts.defined:
        return float("nan")
    gained = np.diff(np.append(0, counts.tp))
    return float(np.sum(gained * (counts.tp / (counts.tp + counts.fp))) / counts.positives)


def f1_max(counts: Counts) -> float:
    """The best F1 over all thresholds; NaN unless both kinds are present."""
    if not counts.defined:
        return float("nan")
    return float(np.max(2.0 * counts.tp / (counts.positives + counts.tp + counts.fp)))


def area_under_pro(counts: Counts, limit: float = 0.3) -> float:
    """Area under mean region overlap against false-positive rate up to `limit`, divided by `limit`.

    The curve is interpolated linearly at the limit. NaN unless both kinds are present.
    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.
    """
    if not counts.defined:
        return float("nan")
    rate = np.append(0.0, counts.fp / counts.negatives)
    overlap = np.append(0.0, counts.overlap)
    beyond = int(np.searchsorted(rate, limit, side="right"))
    if beyond == len(rate):
        inside, heights = rate, overlap
    else:
        share = (limit - rate[beyond - 1]) / (rate[beyond] - rate[beyond - 1])
        at_limit = overlap[beyond - 1] + share * (overlap[beyond] - overlap[beyond - 1])
        inside, heights = np.append(rate[:beyond], limit), np.append(overlap[:beyond], at_limit)
    return float(np.sum(np.diff(inside) * (heights[1:] + heights[:-1])) / 2.0 / limit)
