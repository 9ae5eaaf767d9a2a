"""Some rows of arrays, gathered when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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


class Joined:
    """Chosen rows of several arrays of one shape, gathered when they are used. Otherwise as `Rows`.

    Attributes:
        arrays: The whole arrays.
        sources: (n,) int64 number of the array of each row.
        indices: (n,) int64 index of each row in its array.
        shape: Shape that the gathered rows would have.
        dtype: Type of the arrays.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], sources: NDArray[np.int64], indices: NDArray[np.int64]) -> None:
        """Choose rows.

        Args:
            arrays: The whole arrays, alike in all but their length.
            sources: (n,) number of the array of each row.
            indices: (n,) index of each row in its array.
        """
        self.arrays, self.sources, self.indices = tuple(arrays), sources, indices
        self.shape, self.dtype = (len(indices), *arrays[0].shape[1:]), arrays[0].dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Any) -> Any:
        sources, indices = self.sources[chosen], self.indices[chosen]
        if isinstance(chosen, slice):
            return Joined(self.arrays, sources, indices)
        if np.ndim(indices) == 0:
            return self.arrays[int(sources)][int(indices)]
        return self._gathered(sources, indices)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._gathered(self.sources, self.indices), dtype=dtype)

    def as_array(self) -> NDArray[Any]:
        """Return itself under the type of an array, whose place it takes."""
        return cast(NDArray[Any], self)

    def _gathered(self, sources: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        for number, array in enumerate(self.arrays):
            if (own := sources == number).any():
                rows[own] = array[indices[own]]
        return rows
