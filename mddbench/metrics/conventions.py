"""The metrics as other code computes them, by name, so that a gap to a published number can be explained.

They never share a column with the exact metrics. They were written from descriptions of that code, not from the code.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.names import IMAGE_LEVEL, PIXEL_LEVEL, SEVEN
from mddbench.metrics.steps import LIMIT, auroc, average_precision, f1_max, steps_of_items
from mddbench.metrics.suite import check_shapes, floating

VERSION = "conventions-1"
"""Changes whenever a value of one of them differs by more than 1e-12 for the same maps."""
ADER_BINS, ADER_THRESHOLDS, RD4AD_THRESHOLDS = 50, 21, 200
Scores = NDArray[np.floating]
Masks = NDArray[np.bool_]


def evaluate(convention: str, *, maps: Scores, masks: Masks, image_scores: Scores) -> dict[str, float]:
    """Compute the seven metrics of one category in a convention.

    There are no image labels. In these conventions an image is defective if its resized mask is not empty.

    Args:
        convention: A key of CONVENTIONS.
        maps: (N, H, W) finite floats, higher is more anomalous.
        masks: (N, H, W), not zero on defects.
        image_scores: (N,) finite floats, higher is more anomalous.

    Returns:
        Metric key -> value in [0, 1], NaN where a metric is not defined.

    Raises:
        ValueError: If the convention is unknown, shapes disagree or a score is not finite.
            The message names the first image with a score that is not finite.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention '{convention}': expected one of {', '.join(CONVENTIONS)}")
    maps, masks = floating(np.asarray(maps)), np.asarray(masks).astype(bool, copy=False)
    labels = np.asarray(masks.any(axis=tuple(range(1, masks.ndim))))
    check_shapes(maps, masks, image_scores, labels)
    not_finite = ~(np.isfinite(maps).all(axis=(1, 2)) & np.isfinite(image_scores))
    if not_finite.any():
        raise ValueError(
            f"image {int(np.argmax(not_finite))}: a score is not finite, for which this convention has no rule"
        )
    steps = steps_of_items(image_scores, labels)
    images = dict(zip(IMAGE_LEVEL, (auroc(steps), average_precision(steps), f1_max(steps)), strict=True))
    pixels = dict.fromkeys(PIXEL_LEVEL, float("nan"))
    if masks.any() and not masks.all():
        pixels = CONVENTIONS[convention](maps, masks)
    return {key: {**images, **pixels}[key] for key in SEVEN}


def _ader(maps: Scores, masks: Masks) -> dict[str, float]:
    """Compute the pixel metrics as ADer does.

    AUROC, AP and AUPRO use trapezoids over 50 bins of equal width from the lowest to the highest score.
    F1 is the best of 21 thresholds.

    Args:
        maps: (N, H, W) finite floats.
        masks: (N, H, W) True on defects, with both kinds of pixel.

    Returns:
        Metric key -> value; NaN if all scores are equal.

    Source: ADEval, as ADer calls it, for the bins; ADer's own metric for F1.
    """
    low, high = float(maps.min()), float(maps.max())
    if low == high:
        return dict.fromkeys(PIXEL_LEVEL, float("nan"))
    shares = np.zeros(masks.shape)
    pixels = ExactPixels()
    pixels.add(maps, masks, copy=False)
    shares[masks] = 1.0 / np.concatenate(pixels.areas)
    edges = np.linspace(low, high, ADER_BINS + 1)
    hits, normals, overlap = (
        _at_or_above(edges, maps[selection], None if weights is None else weights[selection])
        for selection, weights in ((masks, None), (~masks, None), (masks, shares))
    )
    recall, rate = hits / hits[-1], normals / normals[-1]
    detected = hits + normals
    precision = np.divide(hits, detected, out=np.ones_like(hits), where=detected > 0)
    return {
        "p_auroc": _trapezoids(rate, recall),
        "p_ap": _trapezoids(recall, precision),
        "p_f1max": _f1_at_thresholds((maps - low) / (high - low), masks),
        "aupro": _trapezoids(*_cut(rate, overlap / overlap[-1])) / LIMIT,
    }


def _rd4ad(maps: Scores, masks: Masks) -> dict[str, float]:
    """Compute the pixel metrics as RD4AD does: the mean AUPRO of defective images; its other metrics are exact.

    Each image has 200 thresholds from its lowest to its highest score.
    Points with a false-positive rate of 0.3 or more are dropped, without interpolation at the limit.
    The remaining rates are stretched to [0, 1].

    Args:
        maps: (N, H, W) finite floats.
        masks: (N, H, W) True on defects, with both kinds of pixel.

    Returns:
        Metric key -> value, NaN where AUPRO is not defined.
    """
    pixels = ExactPixels()
    pixels.add(maps, masks, copy=False)
    values = [
        _aupro_of_image(scores, mask, areas, regions)
        for (scores, _, areas), mask, regions in zip(pixels.by_image(), masks, pixels.regions[0], strict=True)
        if mask.any() and not mask.all()
    ]
    return {**pixels.values(), "aupro": float(np.mean(values)) if values else float("nan")}


CONVENTIONS: dict[str, Callable[[Scores, Masks], dict[str, float]]] = {"ader": _ader, "rd4ad": _rd4ad}
"""Name -> function that computes the four pixel metrics of maps with both kinds of pixel."""


def _at_or_above(
    edges: NDArray[np.float64], scores: Scores, weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the number (or the summed weights) of scores at or above each edge, from the highest edge down."""
    counts, _ = np.histogram(scores, bins=np.append(edges, np.inf), weights=weights)
    return np.cumsum(counts[::-1], dtype=np.float64)


def _trapezoids(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2.0)


def _cut(rate: NDArray[np.float64], overlap: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cut the curve at the limit and interpolate its last point."""
    within = rate <= LIMIT
    return np.append(rate[within], LIMIT), np.append(overlap[within], np.interp(LIMIT, rate, overlap))


def _f1_at_thresholds(scaled: Scores, masks: Masks) -> float:
    """Return the best F1 at the thresholds 0, 0.05, ..., 1; a pixel counts as anomalous if it scores higher."""
    best = 0.0
    for threshold in np.linspace(0.0, 1.0, ADER_THRESHOLDS):
        detected = scaled > threshold
        hits = np.count_nonzero(detected & masks)
        best = max(best, 2.0 * hits / (np.count_nonzero(detected) + np.count_nonzero(masks)))
    return float(best)


def _aupro_of_image(values: Scores, mask: Masks, areas: NDArray[np.uint32], regions: int) -> float:
    """Return the AUPRO of one image; NaN if all scores are equal or all rates below the limit are."""
    scores, flat = values.astype(np.float64), mask.reshape(-1)
    low, high = scores.min(), scores.max()
    if low == high:
        return float("nan")
    thresholds = low + (high - low) / RD4AD_THRESHOLDS * np.arange(RD4AD_THRESHOLDS)
    normals = np.sort(scores[~flat])
    rate = (len(normals) - np.searchsorted(normals, thresholds, side="right")) / len(normals)
    order = np.argsort(scores[flat])
    shares = np.append(np.cumsum((1.0 / areas)[order][::-1])[::-1], 0.0) / regions
    overlap = shares[np.searchsorted(scores[flat][order], thresholds, side="right")]
    within = rate < LIMIT
    if np.ptp(rate[within]) == 0:
        return float("nan")
    rate, overlap = rate[within][::-1], overlap[within][::-1]
    return _trapezoids((rate - rate.min()) / np.ptp(rate), overlap)
