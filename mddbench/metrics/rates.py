"""Image-level metrics of one category at a fixed rate of misses or of false alarms.

Nothing is interpolated, and a score that ties with the threshold counts as at least the threshold.
So a rate of normal images moves in steps of one through their number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEYS = ("fpr95", "pg2", "pb2")
"""The metrics of `rate_values`."""
FEWEST_NORMAL = 50
"""The fewest normal images with which one false alarm is at most 2 %. Means leave out categories with fewer."""


def fpr_at_tpr(scores: NDArray[np.generic], labels: NDArray[np.bool_], percent: int = 95) -> float:
    """Compute the false-positive rate at the highest threshold that finds enough defective images. Lower is better.

    Args:
        scores: (N,) real numbers without NaN, higher is more anomalous.
        labels: (N,) bool, True for a defective image.
        percent: Least share of the defective images that must be found, from 1 to 100, in percent.

    Returns:
        The rate in [0, 1], NaN unless both kinds of image exist.
    """
    defective, normal = np.sort(scores[labels]), scores[~labels]
    if not len(defective) or not len(normal):
        return float("nan")
    found = -(-percent * len(defective) // 100)  # rounded up, in integers
    return float(np.mean(normal >= defective[-found]))


def presorted_good(scores: NDArray[np.generic], labels: NDArray[np.bool_], percent: int = 2) -> float:
    """Compute the true-negative rate at a false-negative rate of at most `percent`, called PGn.

    Args:
        scores: (N,) real numbers without NaN, higher is more anomalous.
        labels: (N,) bool, True for a defective image.
        percent: Highest share of the defective images that may be missed, from 0 to 99, in percent.

    Returns:
        The rate in [0, 1], NaN unless both kinds of image exist.

    Source: VIAD (arXiv 2503.23451). anomalib interpolates the threshold between scores, which differs for few images.
    """
    return 1.0 - fpr_at_tpr(scores, labels, 100 - percent)


def presorted_bad(scores: NDArray[np.generic], labels: NDArray[np.bool_], percent: int = 2) -> float:
    """Compute the true-positive rate at the lowest threshold with few enough false alarms, called PBn.

    Args:
        scores: (N,) real numbers without NaN, higher is more anomalous.
        labels: (N,) bool, True for a defective image.
        percent: Highest share of the normal images that may give an alarm, from 0 to 99, in percent.

    Returns:
        The rate in [0, 1], NaN unless both kinds of image exist.

    Source: VIAD (arXiv 2503.23451).
    """
    defective, normal = scores[labels], np.sort(scores[~labels])
    if not len(defective) or not len(normal):
        return float("nan")
    allowed = percent * len(normal) // 100
    return float(np.mean(defective > normal[-1 - allowed]))  # the highest normal score that gives no alarm


def rate_values(scores: NDArray[np.generic], labels: NDArray[np.bool_]) -> dict[str, float]:
    """Compute FPR@95TPR, PG2 and PB2.

    Args:
        scores: (N,) real numbers without NaN, higher is more anomalous.
        labels: (N,) bool, True for a defective image.

    Returns:
        Key of KEYS -> value in [0, 1], NaN unless both kinds of image exist.
    """
    values = (fpr_at_tpr(scores, labels), presorted_good(scores, labels), presorted_bad(scores, labels))
    return dict(zip(KEYS, values, strict=True))
