"""The curves behind the metrics, thinned to what a picture can show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.steps import LIMIT, Steps

POINTS = 201
"""Number of points of a curve."""


def precision_recall(steps: Steps) -> NDArray[np.float64]:
    """Compute the precision at evenly spaced values of recall.

    The precision is that of the first step that reaches the recall.
    Every point lies on the curve itself: nothing is interpolated, as in average precision.

    Args:
        steps: Counts of all items.

    Returns:
        (2, POINTS) recall from 0 to 1 and the precision there; NaN unless both kinds of item exist.
    """
    if not steps.defined:
        return np.full((2, POINTS), np.nan)
    true_positives = np.cumsum(steps.hits)
    recall, precision = true_positives / steps.positives, true_positives / (true_positives + steps.at_least)
    recalls = np.linspace(0.0, 1.0, POINTS)
    reached = np.searchsorted(recall, recalls).clip(max=len(recall) - 1)
    return np.stack([recalls, precision[reached]])


def region_overlap(steps: Steps, limit: float = LIMIT) -> NDArray[np.float64]:
    """Compute the mean region overlap at evenly spaced false-positive rates.

    The area under the curve divided by `limit` is AUPRO, apart from the thinning.
    While normal items tie with a step, the overlap grows linearly, as in `area_under_pro`.

    Args:
        steps: Counts of all pixels.
        limit: Highest false-positive rate, in (0, 1].

    Returns:
        (2, POINTS) false-positive rate from 0 to `limit`, and the mean share of a region that is detected there.
        All values are NaN unless both kinds of pixel exist.
    """
    if not steps.defined:
        return np.full((2, POINTS), np.nan)
    gained = np.cumsum(steps.overlap)
    rate = np.stack([steps.above, steps.at_least], axis=1).reshape(-1) / steps.negatives
    overlap = np.stack([gained - steps.overlap, gained], axis=1).reshape(-1)
    rates = np.linspace(0.0, limit, POINTS)
    return np.stack([rates, np.interp(rates, np.append(rate, 1.0), np.append(overlap, gained[-1]))])
