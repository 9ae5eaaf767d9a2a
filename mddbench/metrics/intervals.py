"""Metrics from the counts of bins: an estimate of AP, and for each pixel metric an interval with the exact value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.steps import LIMIT, LOW_LIMITS, Steps, auroc, f1_max

ROUNDING = 1e-12
"""Added to both ends of an interval for rounding in the arithmetic on bins.

Rounding of the sums within bins has a bound of its own, in `slack_of`.
"""
LIMITS = {"aupro": LIMIT, **LOW_LIMITS}
"""Metric key -> the false-positive rate up to which AUPRO integrates in it."""
KEYS = (*PIXEL_LEVEL, *LOW_LIMITS)
"""The metrics that have intervals."""


def mixed_average_precision(steps: Steps, tied: NDArray[np.bool_]) -> float:
    """Compute average precision as if the normal pixels of each bin lay evenly among its anomalous pixels.

    Let a be the hits before a bin, b the hits in it and A all pixels before it.
    Let s = 1 + normal pixels of the bin / (b + 1).
    The sum over hits i = 1 .. b of (a + i) / (A + s i) is replaced by an integral from 1/2 to b + 1/2.
    This is the midpoint rule.

    Args:
        steps: Counts of all pixels, one step for each bin with anomalous pixels.
        tied: (T,) True for bins whose pixels all have one score. Nothing is estimated for these.

    Returns:
        Average precision in [0, 1], NaN unless both kinds of pixel exist.
    """
    if not steps.defined:
        return float("nan")
    true_positives = np.cumsum(steps.hits)
    before = true_positives - steps.hits
    all_before = true_positives - steps.hits + steps.above
    slope = 1.0 + (steps.at_least - steps.above) / (steps.hits + 1.0)
    growth = np.log1p(slope * steps.hits / (all_before + slope / 2.0))
    mixed = steps.hits / slope + (before - all_before / slope) / slope * growth
    exact = steps.hits * (true_positives / (true_positives + steps.at_least))
    return float(np.sum(np.where(tied, exact, mixed)) / steps.positives)


def intervals(steps: Steps) -> dict[str, tuple[float, float]]:
    """Compute each pixel metric for the worst and for the best order of the pixels within every bin.

    Args:
        steps: Counts of all pixels, one step for each bin with anomalous pixels.

    Returns:
        Metric key -> (worst, best) value, widened by `slack_of`; NaN unless both kinds of pixel exist.
    """
    if not steps.defined:
        return dict.fromkeys(KEYS, (float("nan"), float("nan")))
    positives, negatives = steps.positives, steps.negatives
    true_positives = np.cumsum(steps.hits)
    before, normals = true_positives - steps.hits, steps.at_least - steps.above
    auroc_error = float(np.sum(steps.hits / positives * (normals / negatives))) / 2.0
    lost = np.log1p(steps.hits / np.maximum(before + steps.at_least, 1)) * steps.at_least
    ends = {
        "p_auroc": (auroc(steps) - auroc_error, auroc(steps) + auroc_error),
        # The sum of x / (x + normals) over x = a + 1 .. a + b is at least its integral from a to a + b.
        "p_ap": (
            np.sum(steps.hits - lost) / positives,
            np.sum(steps.hits * (true_positives / (true_positives + steps.above))) / positives,
        ),
        "p_f1max": (f1_max(steps), np.max(2 * true_positives / (positives + true_positives + steps.above))),
        **{
            key: tuple(
                np.sum(steps.overlap * np.maximum(limit - rank / negatives, 0.0)) / limit
                for rank in (steps.at_least, steps.above)
            )
            for key, limit in LIMITS.items()
        },
    }
    slack = slack_of(steps)
    return {key: (float(low) - slack[key], float(high) + slack[key]) for key, (low, high) in ends.items()}


def slack_of(steps: Steps) -> dict[str, float]:
    """Bound the error that rounding can cause in each pixel metric.

    For AUPRO it includes rounding in the sum of the overlaps within a bin.
    This part grows with the number of pixels of the bin.

    Args:
        steps: Counts of all pixels, one step for each bin with anomalous pixels.

    Returns:
        Metric key -> largest error.
    """
    summing = float(np.finfo(np.float64).eps * np.sum(steps.hits * steps.overlap))
    return {key: ROUNDING + (summing / LIMITS[key] if key in LIMITS else 0.0) for key in KEYS}
