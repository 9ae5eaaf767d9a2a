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
    """Scores and labels of images, added batch by batch."""

    scores: list[NDArray[np.generic]] = field(default_factory=list)
    labels: list[NDArray[np.bool_]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(part) for part in self.labels)

    def add(self, scores: NDArray[np.generic], labels: NDArray[np.bool_]) -> None:
        """Add images. scores: (N,) without NaN; labels: (N,) True for defective."""
        self.scores.append(scores.copy())
        self.labels.append(labels.copy())

    def merge(self, other: ImageScores) -> None:
        """Add all images of another one."""
        self.scores += other.scores
        self.labels += other.labels

    def all(self) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """(scores, labels) of all images, in the order in which they were added."""
        if not self.labels:
            return np.empty(0), np.empty(0, dtype=np.bool_)
        return np.concatenate(self.scores), np.concatenate(self.labels)

    def values(self) -> dict[str, float]:
        """The image-level metrics, NaN where not defined."""
        steps = steps_of_items(*self.all())
        return dict(zip(IMAGE_LEVEL, (auroc(steps), average_precision(steps), f1_max(steps)), strict=True))

    def of_items(self, items: Sequence[str]) -> float:
        """AUROC of items that several images show: an item's score and label are the highest of its images'. In [0, 1], NaN
        where it is not defined.

        items: (N,) a name for each image in the order in which they were added; images of one name may lie anywhere.
        Raises ValueError if there are not as many. Source: Real-IAD's sample-level metric (Wang et al., CVPR 2024).
        """
        scores, labels = self.all()
        if len(items) != len(labels):
            raise ValueError(f"expected an item for each of {len(labels)} images, found {len(items)}")
        if not len(labels):
            return float("nan")
        names, places = np.unique(np.asarray(items), return_inverse=True)
        highest = np.full(len(names), -np.inf, dtype=scores.dtype)
        np.maximum.at(highest, places, scores)
        defective = np.zeros(len(names), dtype=np.bool_)
        np.logical_or.at(defective, places, labels)
        return auroc(steps_of_items(highest, defective))
