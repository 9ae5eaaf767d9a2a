"""What counts of bins say of the metrics: an estimate of AP, and for each pixel metric an interval around the exact value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.steps import LIMIT, Steps, auroc, f1_max

ROUNDING = 1e-12
"""Added to both ends of an interval for the arithmetic on bins; the sums within them are bounded apart."""


def mixed_average_precision(steps: Steps, tied: NDArray[np.bool_]) -> float:
    """Average precision if the normal pixels of each bin lie evenly among its anomalous ones; NaN unless both kinds exist.

    With a hits before the bin, b in it, A pixels before it and s = 1 + normals of the bin / (b + 1), the sum over hits i = 1
    .. b of (a + i) / (A + s i) is taken as the integral from 1/2 to b + 1/2, as the midpoint rule has it. tied: (T,) the bins
    whose pixels have one score, for which nothing is estimated.
    """
    if not steps.defined:
        return float("nan")
    found = np.cumsum(steps.hits)
    before, all_before = found - steps.hits, found - steps.hits + steps.above
    slope = 1.0 + (steps.at_least - steps.above) / (steps.hits + 1.0)
    growth = np.log1p(slope * steps.hits / (all_before + slope / 2.0))
    mixed = steps.hits / slope + (before - all_before / slope) / slope * growth
    return float(np.sum(np.where(tied, steps.hits * (found / (found + steps.at_least)), mixed)) / steps.positives)


def intervals(steps: Steps) -> dict[str, tuple[float, float]]:
    """For each pixel metric the values with the pixels of every bin in the worst and in the best order."""
    if not steps.defined:
        return dict.fromkeys(PIXEL_LEVEL, (float("nan"), float("nan")))
    positives, negatives = steps.positives, steps.negatives
    found = np.cumsum(steps.hits)
    before, normals = found - steps.hits, steps.at_least - steps.above
    off = float(np.sum(steps.hits / positives * (normals / negatives))) / 2.0
    lost = np.log1p(steps.hits / np.maximum(before + steps.at_least, 1)) * steps.at_least
    ends = {
        "p_auroc": (auroc(steps) - off, auroc(steps) + off),
        # The sum of x / (x + normals) over x = a + 1 .. a + b is at least its integral from a to a + b.
        "p_ap": (
            np.sum(steps.hits - lost) / positives,
            np.sum(steps.hits * (found / (found + steps.above))) / positives,
        ),
        "p_f1max": (f1_max(steps), np.max(2 * found / (positives + found + steps.above))),
        "aupro": tuple(
            np.sum(steps.overlap * np.maximum(LIMIT - rank / negatives, 0.0)) / LIMIT
            for rank in (steps.at_least, steps.above)
        ),
    }
    slack = slack_of(steps)
    return {key: (float(low) - slack[key], float(high) + slack[key]) for key, (low, high) in ends.items()}


def slack_of(steps: Steps) -> dict[str, float]:
    """How far rounding can be off: for AUPRO also that of summing the shares of as many pixels as a bin has."""
    summing = float(np.finfo(np.float64).eps * np.sum(steps.hits * steps.overlap)) / LIMIT
    return {key: ROUNDING + (summing if key == "aupro" else 0.0) for key in PIXEL_LEVEL}
