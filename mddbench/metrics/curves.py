"""The curves behind the metrics, thinned to what a picture can show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.steps import LIMIT, Steps

POINTS = 201


def precision_recall(steps: Steps) -> NDArray[np.float64]:
    """(2, POINTS) recall, evenly spaced from 0 to 1, and the precision of the first step that reaches it; NaN unless both kinds
    of item exist.

    Every point is one of the curve's own: nothing is interpolated, as in average precision.
    """
    if not steps.defined:
        return np.full((2, POINTS), np.nan)
    found = np.cumsum(steps.hits)
    recall, precision = found / steps.positives, found / (found + steps.at_least)
    wanted = np.linspace(0.0, 1.0, POINTS)
    reached = np.searchsorted(recall, wanted).clip(max=len(recall) - 1)
    return np.stack([wanted, precision[reached]])


def region_overlap(steps: Steps, limit: float = LIMIT) -> NDArray[np.float64]:
    """(2, POINTS) false-positive rate, evenly spaced from 0 to `limit`, and the mean share of a region that is found at it; NaN
    unless both kinds of pixel exist. Its area divided by `limit` is AUPRO, but for the thinning.

    While normal items tie with a step the overlap grows linearly, as in `area_under_pro`.
    """
    if not steps.defined:
        return np.full((2, POINTS), np.nan)
    gained = np.cumsum(steps.overlap)
    rate = np.stack([steps.above, steps.at_least], axis=1).reshape(-1) / steps.negatives
    overlap = np.stack([gained - steps.overlap, gained], axis=1).reshape(-1)
    wanted = np.linspace(0.0, limit, POINTS)
    return np.stack([wanted, np.interp(wanted, np.append(rate, 1.0), np.append(overlap, gained[-1]))])
