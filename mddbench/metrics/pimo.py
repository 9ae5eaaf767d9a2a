"""AUPIMO: how much of each defective image is found at thresholds that hardly any normal pixel reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.largest import CHUNK, Largest

LOW, HIGH = 1e-5, 1e-4
"""The false-positive rates between which the curve is integrated, on a logarithmic scale."""
QUANTILES = {"aupimo_p05": 0.05, "aupimo_p25": 0.25, "aupimo_p50": 0.5}
"""Metric key -> quantile over the images."""


def aupimo_of_images(normal: Sequence[Any], defective: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Compute the area under the curve of each defective image: its recall against the logarithm of the rate.

    The rate at a threshold is the share of the pixels of normal images from it on. The recall is the share of the
    image's own defective pixels from it on. Neighbouring points are joined by straight lines over the logarithm.

    Args:
        normal: For each normal image (n,) scores of all its pixels, arrays or tensors. All have the same n.
        defective: For each defective image (m,) scores of its defective pixels.

    Returns:
        (images,) values in [0, 1]. All are NaN if there are fewer than 1 / LOW normal pixels, since the lowest rate
        is less than one pixel then. The value of an image without defective pixels is NaN.

    Raises:
        ValueError: If normal images differ in their number of pixels.

    Source: Bertoldo et al., AUPIMO, BMVC 2024 (arXiv 2401.01984).
    """
    if len({len(scores) for scores in normal}) > 1:
        raise ValueError("AUPIMO needs maps of one size")
    total = sum(len(scores) for scores in normal)
    if total * LOW < 1:
        return np.full(len(defective), np.nan)
    thresholds, above, at_least = _steps_of_normals(normal, total)
    with np.errstate(divide="ignore", invalid="ignore"):  # the first step begins at rate 0
        start, end = np.log(above / total), np.log(at_least / total)
        low, high = np.maximum(start, np.log(LOW)), np.minimum(end, np.log(HIGH))
        # Where recall changes within a step: the share of the step before the middle of what is integrated.
        share = np.where(above > 0, ((low + high) / 2 - start) / (end - start), 1.0)
    weights = np.maximum(high - low, 0.0) / np.log(HIGH / LOW)
    values = [_area(scores, thresholds, weights, share) for scores in defective]
    return np.array(values, dtype=np.float64)


def summary(images: NDArray[np.float64]) -> dict[str, float]:
    """Compute the mean and quantiles of the values of images.

    Args:
        images: (images,) values of `aupimo_of_images`.

    Returns:
        'aupimo' and the keys of QUANTILES -> value, NaN if no image has a value.
    """
    defined = images[~np.isnan(images)]
    if not len(defined):
        return dict.fromkeys(("aupimo", *QUANTILES), float("nan"))
    quantiles = {key: float(np.quantile(defined, share)) for key, share in QUANTILES.items()}
    return {"aupimo": float(np.mean(defined)), **quantiles}


def _steps_of_normals(
    normal: Sequence[Any], total: int
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of normal images at their highest scores, down to the rate HIGH.

    Args:
        normal: For each normal image (n,) scores of its pixels.
        total: Number of all these pixels.

    Returns:
        (T,) each, highest score first: distinct scores, number of pixels above each, and from each on.
    """
    largest = Largest(int(HIGH * total) + 1)
    for scores in normal:
        largest.add(scores)
    values, counts = np.unique(largest.values(), return_counts=True)
    values, counts = values[::-1], counts[::-1].astype(np.int64)
    # Other pixels may have the lowest of these scores, too.
    counts[-1] = sum(
        int((scores[start : start + CHUNK] == float(values[-1])).sum())
        for scores in normal
        for start in range(0, len(scores), CHUNK)
    )
    at_least = counts.cumsum()
    return values, at_least - counts, at_least


def _area(
    scores: NDArray[np.floating],
    thresholds: NDArray[np.floating],
    weights: NDArray[np.float64],
    share: NDArray[np.float64],
) -> float:
    """Integrate the recall of one image over the steps; NaN if it has no defective pixel."""
    if not len(scores):
        return float("nan")
    ordered = np.sort(scores)
    above, at_least = (len(scores) - np.searchsorted(ordered, thresholds, side=side) for side in ("right", "left"))
    return float(np.sum(weights * (above + share * (at_least - above))) / len(scores))
