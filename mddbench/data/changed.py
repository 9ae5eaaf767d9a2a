"""A split whose images are changed when they are used, so that no copy of all of them is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mddbench.data.changes import CHANGES, changed_image, changed_mask
from mddbench.data.dataset import Split
from mddbench.data.parallel import in_parallel
from mddbench.data.samples import Sample


class MadeRows:
    """Takes the place of an array whose rows are made from those of another array when they are used.

    Attributes:
        array: The other array.
        make: Makes a row of its number and of the row of the other array.
        shape: Shape of the made array.
        dtype: Type of the made array.
    """

    def __init__(self, array: NDArray[Any], make: Callable[[int, NDArray[Any]], NDArray[Any]]) -> None:
        """Prepare the rows.

        Args:
            array: (N, ...) the other array.
            make: Makes a row of its number and of the row of the other array. Shape and type stay.
        """
        self.array, self.make = array, make
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, chosen: slice) -> NDArray[Any]:
        numbers = range(*chosen.indices(len(self)))
        rows = np.asarray(self.array[chosen])
        made = in_parallel(lambda place: self.make(numbers[place], rows[place]), range(len(rows)))
        return np.stack([*made]) if len(rows) else rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def changed_split(split: Split, change: str, level: int) -> Split:
    """Change the images of a split.

    Args:
        split: The images of one category.
        change: Key of CHANGES.
        level: One of LEVELS.

    Returns:
        The same samples with changed images. Masks are moved where the images move.
    """
    names = [name_of(sample) for sample in split.samples]
    images = MadeRows(split.images, partial(_made, changed_image, change, level, names))
    if CHANGES[change].move is None:
        return Split(split.samples, cast(NDArray[np.uint8], images), split.masks)
    masks = MadeRows(split.masks, partial(_made, changed_mask, change, level, names))
    return Split(split.samples, cast(NDArray[np.uint8], images), cast(NDArray[np.bool_], masks))


def name_of(sample: Sample) -> str:
    """Return the name of an image on which drawn numbers depend: category, kind of defect and file, but no folder."""
    return f"{sample.category}/{sample.defect}/{sample.image.name}"


def _made(
    make: Callable[[Any, str, int, str], NDArray[Any]],
    change: str,
    level: int,
    names: list[str],
    number: int,
    row: NDArray[Any],
) -> NDArray[Any]:
    return make(row, change, level, names[number])
