"""Image scores of one category, and the image-level metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import IMAGE_LEVEL
from mddbench.metrics.steps import auroc, average_precision, f1_max, steps_of_items


@dataclass
class ImageScores:
    """Scores and labels of images, added batch by batch.

    Attributes:
        scores: For each batch, (images,) scores.
        labels: For each batch, (images,) bool, True for a defective image.
    """

    scores: list[NDArray[np.generic]] = field(default_factory=list)
    labels: list[NDArray[np.bool_]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(labels) for labels in self.labels)

    def add(self, scores: NDArray[np.generic], labels: NDArray[np.bool_]) -> None:
        """Add images.

        Args:
            scores: (N,) real numbers without NaN, higher is more anomalous.
            labels: (N,) bool, True for a defective image.
        """
        self.scores.append(scores.copy())
        self.labels.append(labels.copy())

    def merge(self, other: ImageScores) -> None:
        """Add all images of another object."""
        self.scores += other.scores
        self.labels += other.labels

    def all(self) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Return (N,) scores and (N,) labels of all images, in the order in which they were added."""
        if not self.labels:
            return np.empty(0), np.empty(0, dtype=np.bool_)
        return np.concatenate(self.scores), np.concatenate(self.labels)

    def values(self) -> dict[str, float]:
        """Compute the image-level metrics.

        Returns:
            Metric key -> value in [0, 1], NaN where a metric is not defined.
        """
        steps = steps_of_items(*self.all())
        return dict(zip(IMAGE_LEVEL, (auroc(steps), average_precision(steps), f1_max(steps)), strict=True))

    def item_auroc(self, items: Sequence[str]) -> float:
        """Compute the AUROC of items that are each shown in several images.

        The score of an item is the highest score of its images. Its label is the highest label of its images.

        Args:
            items: (N,) name of the item that each image shows, in the order in which the images were added.
                The images of one item need not follow each other.

        Returns:
            AUROC in [0, 1], NaN where it is not defined.

        Raises:
            ValueError: If there are not as many names as images.

        Source: Real-IAD's sample-level metric (Wang et al., CVPR 2024).
        """
        scores, labels = self.all()
        if len(items) != len(labels):
            raise ValueError(f"expected an item for each of {len(labels)} images, found {len(items)}")
        if not len(labels):
            return float("nan")
        names, item_of_image = np.unique(np.asarray(items), return_inverse=True)
        highest = np.full(len(names), -np.inf, dtype=scores.dtype)
        np.maximum.at(highest, item_of_image, scores)
        defective = np.zeros(len(names), dtype=np.bool_)
        np.logical_or.at(defective, item_of_image, labels)
        return auroc(steps_of_items(highest, defective))
