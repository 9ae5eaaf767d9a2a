"""Thresholds from normal images alone, and what they do to test images.

The normal images were not trained on. No test image and no label is used to set a threshold.
An image or a pixel is defective if its score is higher than the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.largest import Largest

PERCENTS = (5, 1)
"""The wanted shares of normal images that give a false alarm, in percent."""
SCOPES = ("one", "each")
"""One threshold for all categories, or one for each."""
QUANTILE, SIGMA = RULES = ("quantile", "sigma")
"""The rules for the threshold of pixels: a quantile, and that of MVTec AD 2."""
DEVIATIONS = 3.0
"""Standard deviations above the mean at which MVTec AD 2's rule sets the threshold."""
PIXEL_RATE = 0.5 * math.erfc(DEVIATIONS / math.sqrt(2.0))
"""The share of a normal distribution above DEVIATIONS, 0.135 %. The quantile leaves this share of the pixels above."""
NAN = float("nan")


def conformal(scores: NDArray[np.floating], percent: int) -> float | None:
    """Compute the threshold that a new normal image exceeds with a probability of at most `percent`.

    This holds on average over draws of the n images, if the new image is exchangeable with them. The threshold is the
    k-th smallest score, where k is (n + 1) (1 - percent / 100), rounded up.

    Args:
        scores: (n,) scores of normal images that were not trained on, without NaN.
        percent: The wanted probability of a false alarm, from 1 to 50, in percent.

    Returns:
        The threshold; None if there are fewer than 100 / percent - 1 images (19 for 5 %).

    Source: split conformal prediction (Vovk et al.; Bates et al., Testing for Outliers with Conformal p-values, 2023).
    """
    rank = -(-(len(scores) + 1) * (100 - percent) // 100)  # rounded up, in integers
    return None if rank > len(scores) else float(np.sort(scores)[rank - 1])


class PixelSummary:
    """Scores of the pixels of normal images, of which no copy is kept.

    Attributes:
        pixels: Number of pixels that will be added.
    """

    def __init__(self, pixels: int) -> None:
        """Begin without pixels.

        Args:
            pixels: Number of pixels that will be added.
        """
        self.pixels = pixels
        self._largest = Largest(int(PIXEL_RATE * pixels) + 1)
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, maps: NDArray[np.floating]) -> None:
        """Add pixels.

        Args:
            maps: (N, H, W) floats without NaN.
        """
        scores = maps.reshape(-1)
        self._largest.add(scores)
        with np.errstate(invalid="ignore", over="ignore"):  # scores may be infinite; then no threshold is finite
            mean = float(np.mean(scores, dtype=np.float64))
            squares = float(np.sum(np.square(np.subtract(scores, mean, dtype=np.float64))))
        count = self._count + len(scores)
        step = mean - self._mean
        self._squares += squares + step * step * self._count * len(scores) / count
        self._mean += step * len(scores) / count
        self._count = count

    def thresholds(self) -> dict[str, float]:
        """Compute the threshold of each rule.

        Returns:
            Rule -> threshold. 'quantile' is the lowest score with at most PIXEL_RATE of the pixels above it.
            'sigma' is the mean plus three population standard deviations. They may be infinite or NaN.

        Raises:
            ValueError: If another number of pixels was added than announced.
        """
        if self._count != self.pixels:
            raise ValueError(f"{self.pixels} pixels were announced, {self._count} were added")
        sigma = self._mean + DEVIATIONS * math.sqrt(self._squares / self._count)
        return {QUANTILE: float(self._largest.values()[-1]), SIGMA: sigma}


def above(scores: NDArray[np.generic], threshold: float) -> NDArray[np.bool_]:
    """Compare scores with a threshold in double precision, whatever their own is.

    An array stands for the threshold, since NumPy 1 would round a number to the precision of the scores.

    Args:
        scores: Scores of any shape.
        threshold: The threshold.

    Returns:
        True where a score is higher.
    """
    higher: NDArray[np.bool_] = np.greater(scores, np.full(1, threshold))
    return higher


def image_values(
    scores: NDArray[np.generic], labels: NDArray[np.bool_], thresholds: Mapping[tuple[int, str], float]
) -> dict[str, float]:
    """Compute what thresholds of image scores do to the test images of a category.

    Args:
        scores: (N,) scores of test images.
        labels: (N,) True for a defective image.
        thresholds: (percent, scope) -> threshold.

    Returns:
        Metric key -> value in [0, 1], NaN where there is no image of the kind: for each threshold the false-positive
        rate, the true-positive rate, F1, and how far the false-positive rate is from the wanted one.
    """
    values: dict[str, float] = {}
    for (percent, scope), threshold in thresholds.items():
        alarm, end = above(scores, threshold), f"{percent:02d}_{scope}"
        false = float(alarm[~labels].mean()) if not labels.all() else NAN
        values[f"fpr_{end}"] = false
        values[f"tpr_{end}"] = float(alarm[labels].mean()) if labels.any() else NAN
        values[f"f1_{end}"] = f1(*(int(np.count_nonzero(part)) for part in (alarm & labels, alarm, labels)))
        values[f"fpr_error_{end}"] = abs(false - percent / 100)
    return values


class PixelCounts:
    """What thresholds of pixels do to the test images of a category, which come in batches.

    Attributes:
        thresholds: (rule, scope) -> threshold.
    """

    def __init__(self, thresholds: Mapping[tuple[str, str], float]) -> None:
        """Begin without images.

        Args:
            thresholds: (rule, scope) -> threshold.
        """
        self.thresholds = thresholds
        # For each threshold: hits, detected and defective, of pixels and of images.
        self._pixels = {key: np.zeros(3, dtype=np.int64) for key in thresholds}
        self._images = {key: np.zeros(3, dtype=np.int64) for key in thresholds}
        self._has_masks = True

    def add(self, maps: NDArray[np.floating], masks: NDArray[np.bool_] | None, labels: NDArray[np.bool_]) -> None:
        """Count images.

        Args:
            maps: (N, H, W) floats.
            masks: (N, H, W) True on defects; None if the data set has no masks.
            labels: (N,) True for a defective image.
        """
        self._has_masks = masks is not None
        for key, threshold in self.thresholds.items():
            detected = above(maps, threshold)
            images = detected.any(axis=(1, 2))
            self._images[key] += [np.count_nonzero(part) for part in (images & labels, images, labels)]
            if masks is not None:
                self._pixels[key] += [np.count_nonzero(part) for part in (detected & masks, detected, masks)]

    def values(self) -> dict[str, float]:
        """Compute the metrics.

        Returns:
            Metric key -> value in [0, 1], NaN where it is not defined. For each threshold F1 of all pixels (if there are
            masks), and F1 of images, where an image is defective if any of its pixels is.
        """
        values: dict[str, float] = {}
        for (rule, scope), images in self._images.items():
            if self._has_masks:
                values[f"seg_f1_{rule}_{scope}"] = f1(*map(int, self._pixels[rule, scope]))
            values[f"class_f1_{rule}_{scope}"] = f1(*map(int, images))
        return values


def f1(hits: int, detected: int, defective: int) -> float:
    """Compute F1 from counts: 2 hits / (detected + defective), NaN if both are zero."""
    return float(2 * hits / (detected + defective)) if detected + defective else NAN
