"""Unsigned integers in the order of floating-point numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAST_ALL_KEYS = 0xFFFFFFFF
"""Larger than the key of any float32 that is not NaN."""
SIGN = np.uint32(0x80000000)


def keys_of(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Convert scores to integers that compare as the scores do; -0.0 and 0.0 have the same key.

    Args:
        scores: Array of any shape, without NaN.

    Returns:
        Keys of the same shape.
    """
    bits = (scores + np.float32(0.0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
    keys: NDArray[np.uint32] = np.where(bits >> np.uint32(31), ~bits, bits | SIGN)
    return keys


def scores_of(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Convert keys back to scores."""
    return np.where(keys >> np.uint32(31), keys ^ SIGN, ~keys).view(np.float32)


def wide_keys_of(scores: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Convert float64 scores to keys, as `keys_of` does for float32."""
    bits = (scores + 0.0).view(np.uint64)
    keys: NDArray[np.uint64] = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))
    return keys
