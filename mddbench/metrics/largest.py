"""The largest of many scores, without sorting or keeping the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.device import on_host

CHUNK = 1 << 18
"""Number of scores that are compared at a time."""


class Largest:
    """The largest scores of several arrays or tensors, which come in any order.

    Most scores are compared once with the smallest of the largest so far, and dropped.

    Attributes:
        count: Number of scores to keep.
    """

    def __init__(self, count: int) -> None:
        """Begin without scores.

        Args:
            count: Number of scores to keep, at least 1.
        """
        self.count = count
        self._kept: list[NDArray[np.floating]] = []
        self._size = 0
        self._least: float | None = None

    def add(self, scores: Any) -> None:
        """Look at scores.

        Args:
            scores: (n,) floats without NaN, an array or a tensor on any device.
        """
        for start in range(0, len(scores), CHUNK):
            piece = scores[start : start + CHUNK]
            passing = on_host(piece if self._least is None else piece[piece > self._least])
            self._kept.append(passing.copy() if self._least is None else passing)
            self._size += len(passing)
            if self._size >= max(2 * self.count, CHUNK):
                self._drop()

    def values(self) -> NDArray[np.floating]:
        """Return the largest scores, highest first: at most `count` of them."""
        if not self._kept:
            return np.empty(0)
        self._drop()
        return np.sort(self._kept[0])[::-1]

    def _drop(self) -> None:
        """Drop all scores but the largest ones."""
        scores = np.concatenate(self._kept)
        if len(scores) > self.count:
            scores = np.partition(scores, len(scores) - self.count)[-self.count :]
        if len(scores) == self.count:
            self._least = float(scores.min())
        self._kept, self._size = [scores], len(scores)
