"""Some rows of an array, gathered when they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Rows:
    """Chosen rows of an array that may be memory-mapped and larger than the memory.

    It takes the place of an array of decoded images: a slice is a view again, an index or an array of indices gathers.

    Attributes:
        array: The whole array.
        indices: (n,) int64 indices of the rows.
        shape: Shape that the gathered rows would have.
        dtype: Type of the array.
    """

    def __init__(self, array: NDArray[Any], indices: NDArray[np.int64]) -> None:
        """Choose rows.

        Args:
            array: (N, ...) the whole array.
            indices: (n,) indices of the rows.
        """
        self.array, self.indices = array, indices
        self.shape, self.dtype = (len(indices), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Any) -> Any:
        return Rows(self.array, self.indices[chosen]) if isinstance(chosen, slice) else self.array[self.indices[chosen]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.array[self.indices], dtype=dtype)
