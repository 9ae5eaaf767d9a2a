"""Image scores of one category, and the image-level metrics."""

from __future__ import annotations

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
