"""Counts of the pixels that score above, and at least as high as, each of many thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.keys import keys_of
from mddbench.metrics.threads import in_threads, use_kernels, workers

PIECE = 1 << 22
"""Number of float32 pixels that one thread counts at a time, which takes 6 bytes for each.

Of other types half as many pixels are counted at a time, since they are converted.
"""

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""For each threshold the number of pixels that score higher, and the number that score at least as high."""
Share = list[NDArray[np.floating]]
"""Pieces of the scores that one thread counts."""


def count_pixels(scores: Sequence[NDArray[np.floating]], thresholds: NDArray[np.floating]) -> Counts:
    """Count the pixels above and at each threshold.

    The counts are exact integers, so they depend neither on the processor nor on the number of threads.
    They are the same with the compiled kernels (for float16 and float32) and without them.

    Args:
        scores: Arrays (n,) without NaN.
        thresholds: (M,) float32 or float64, strictly increasing, M > 0.

    Returns:
        For each threshold the number of pixels that score higher, and the number that score at least as high:
        (M,) int64 each.
    """
    total = sum(len(values) for values in scores)
    if not total:
        return np.zeros(len(thresholds), dtype=np.int64), np.zeros(len(thresholds), dtype=np.int64)
    compiled = thresholds.dtype == np.float32 and use_kernels(total)
    narrow = all(values.dtype == np.float32 for values in scores)
    rounds = -(-total // ((PIECE if narrow else PIECE // 2) * workers()))
    size = -(-total // (rounds * workers()))  # as large as allowed, and the same number of pieces for each thread
    pieces = [values[start : start + size] for values in scores for start in range(0, len(values), size)]
    if not compiled:
        pieces = _joined(pieces, size)
    shares = [pieces[first :: workers()] for first in range(min(workers(), len(pieces)))]
    return (_by_table if compiled else _by_sorting)(shares, thresholds)


def _joined(pieces: list[NDArray[np.floating]], size: int) -> list[NDArray[np.floating]]:
    """Join small pieces to about `size`, so that few pieces are searched for all thresholds."""
    joined: list[NDArray[np.floating]] = []
    waiting: list[NDArray[np.floating]] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) * 2 > size:
            joined.append(np.concatenate(waiting) if len(waiting) > 1 else piece)
            waiting = []
    return joined + ([np.concatenate(waiting)] if waiting else [])


def _by_table(shares: list[Share], thresholds: NDArray[np.floating]) -> Counts:
    """Count with the compiled kernels."""
    from mddbench.metrics import kernels

    table = kernels.build_table(keys_of(thresholds.astype(np.float32, copy=False)))
    longest = max(len(piece) for share in shares for piece in share)

    def count_share(share: Share) -> NDArray[np.uint32]:
        counters = np.zeros((2, len(table.thresholds)), dtype=np.uint32)
        windows, keys = np.empty(longest, dtype=np.uint16), np.empty(longest, dtype=np.uint32)
        for piece in share:
            bits = piece.astype(np.float32, copy=False).view(np.uint32)
            kernels.rank(keys, kernels.gather(bits, table, windows, keys), table, counters[0], counters[1])
        return counters

    between, equal = np.zeros((2, len(table.thresholds)), dtype=np.int64)
    for counters in in_threads(count_share, shares):
        between += counters[0]
        equal += counters[1]
    above = (between + equal)[:0:-1].cumsum()[::-1]
    return above, above + equal[:-1]


def _by_sorting(shares: list[Share], thresholds: NDArray[np.floating]) -> Counts:
    """Count with NumPy alone."""

    def count_share(share: Share) -> NDArray[np.int64]:
        above, at_least = counts = np.zeros((2, len(thresholds)), dtype=np.int64)
        for piece in share:
            ordered = np.sort(piece.astype(thresholds.dtype, copy=False))
            above += len(ordered) - np.searchsorted(ordered, thresholds, side="right")
            at_least += len(ordered) - np.searchsorted(ordered, thresholds, side="left")
        return counts

    counts_of_shares = np.array(in_threads(count_share, shares))
    return counts_of_shares[:, 0].sum(axis=0), counts_of_shares[:, 1].sum(axis=0)
