"""Image-level metrics of all categories together: one list of images, one scale of scores, one threshold.

The seven metrics are computed for each category alone, so each category may have a scale of its own.
These metrics show what is lost if all categories share one scale.

Source: CADA (arXiv 2404.00724) evaluates all categories as one list. The split of AUROC and the gap are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.steps import average_precision, f1_curve, f1_max, steps_of_items

Images = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""(N,) scores without NaN, higher is more anomalous, and (N,) labels, True for a defective image, of one category."""
KEYS = ("auroc_pooled", "auroc_within", "auroc_across", "ap_pooled", "f1max_pooled", "f1_one", "f1_gap")
"""The metrics of `pooled_values`."""


@dataclass(frozen=True)
class PairCounts:
    """Pairs of a defective image and a normal one, by the categories of the two, for C categories.

    Attributes:
        doubled: (C, C) int64 twice the number of pairs in the right order, a tie counting one half.
            Rows are categories of the defective image, columns of the normal one.
        defective: (C,) int64 number of defective images.
        normal: (C,) int64 number of normal images.
    """

    doubled: NDArray[np.int64]
    defective: NDArray[np.int64]
    normal: NDArray[np.int64]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """(C, C) number of pairs."""
        return self.defective[:, None] * self.normal[None, :]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(C, C) AUROC of a category's defective images against a category's normal images, NaN without a pair."""
        pairs = self.pairs
        return np.where(pairs > 0, self.doubled / (2.0 * np.maximum(pairs, 1)), np.nan)

    @property
    def pooled(self) -> float:
        """AUROC of all images as one list, in [0, 1], NaN without a pair."""
        return self._auroc(np.ones(self.doubled.shape, dtype=np.bool_))

    @property
    def within(self) -> float:
        """AUROC over the pairs of one category, in [0, 1], NaN without such a pair."""
        return self._auroc(np.eye(len(self.doubled), dtype=np.bool_))

    @property
    def across(self) -> float:
        """AUROC over the pairs of two categories, in [0, 1], NaN without such a pair."""
        return self._auroc(~np.eye(len(self.doubled), dtype=np.bool_))

    def _auroc(self, chosen: NDArray[np.bool_]) -> float:
        pairs = int(self.pairs[chosen].sum())
        return int(self.doubled[chosen].sum()) / (2 * pairs) if pairs else float("nan")


@dataclass(frozen=True)
class OneThreshold:
    """F1 of C categories at one threshold for all. It is chosen on the test labels: a diagnosis, no operating point.

    Attributes:
        threshold: The largest threshold with the best F1 of all images as one list; NaN unless both kinds exist.
        shared: (C,) F1 at this threshold, in [0, 1].
        own: (C,) best F1 of the category, in [0, 1].

    A category has NaN in both unless it has both kinds of image.
    """

    threshold: float
    shared: NDArray[np.float64]
    own: NDArray[np.float64]

    @property
    def f1(self) -> float:
        """Mean over categories of F1 at the one threshold, NaN if no category has it."""
        return _mean(self.shared)

    @property
    def gap(self) -> float:
        """Mean over categories of the best F1 minus that at the one threshold. It is never negative."""
        return _mean(self.own - self.shared)


def count_pairs(categories: Sequence[Images]) -> PairCounts:
    """Count the pairs in the right order for each two categories. The counts are exact integers.

    Args:
        categories: Scores and labels of each category.

    Returns:
        The counts.
    """
    defective = [scores[labels] for scores, labels in categories]
    counts = np.array([len(scores) for scores in defective], dtype=np.int64)
    ends, searched = np.append(0, np.cumsum(counts)), np.concatenate(defective)
    columns = []
    for scores, labels in categories:
        normal = np.sort(scores[~labels])
        # An image beats the normal ones below it (left) and half of those that tie with it (right minus left).
        beaten = np.searchsorted(normal, searched, side="left") + np.searchsorted(normal, searched, side="right")
        columns.append(np.diff(np.append(0, np.cumsum(beaten))[ends]))
    normals = np.array([np.count_nonzero(~labels) for _, labels in categories], dtype=np.int64)
    return PairCounts(np.stack(columns, axis=1).astype(np.int64), counts, normals)


def one_threshold(categories: Sequence[Images]) -> OneThreshold:
    """Choose one threshold for all categories by pooled F1, and compute each category's F1 there.

    An image counts as defective if its score is at least the threshold.

    Args:
        categories: Scores and labels of each category.

    Returns:
        The threshold and the values.
    """
    scores, labels = joined(categories)
    steps = steps_of_items(scores, labels)
    if not steps.defined:
        nothing = np.full(len(categories), np.nan)
        return OneThreshold(float("nan"), nothing, nothing)
    threshold = np.unique(scores[labels])[::-1][np.argmax(f1_curve(steps))]
    own = np.array([f1_max(steps_of_items(*images)) for images in categories])
    category = np.repeat(np.arange(len(categories)), [len(labels) for _, labels in categories])
    chosen = (labels, scores >= threshold, labels & (scores >= threshold))
    defective, found, hits = (np.bincount(category[images], minlength=len(categories)) for images in chosen)
    shared = 2 * hits / np.maximum(defective + found, 1)
    return OneThreshold(float(threshold), np.where(np.isnan(own), np.nan, shared), own)


def joined(categories: Sequence[Images]) -> Images:
    """Return the images of all categories as one list, category by category."""
    return np.concatenate([scores for scores, _ in categories]), np.concatenate([labels for _, labels in categories])


def pooled_values(categories: Sequence[Images]) -> dict[str, float]:
    """Compute all metrics of this module that are one number.

    Args:
        categories: Scores and labels of each category.

    Returns:
        Key of KEYS -> value in [0, 1], NaN where it is not defined.
    """
    counts, steps, chosen = count_pairs(categories), steps_of_items(*joined(categories)), one_threshold(categories)
    areas = (counts.pooled, counts.within, counts.across, average_precision(steps), f1_max(steps))
    return dict(zip(KEYS, (*areas, chosen.f1, chosen.gap), strict=True))


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are defined, NaN if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
