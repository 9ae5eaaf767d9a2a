"""Reads arrays from files of unknown origin, and stores scores in half precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mddbench.errors import InputError

MOST_BYTES = 2**32
"""A file whose headers announce more bytes is refused before any memory is allocated."""
LARGEST = float(np.finfo(np.float16).max)
"""The largest finite number in half precision."""


@contextmanager
def refusing(file: Path, content: str, advice: str) -> Iterator[None]:
    """Turn every exception that a broken or hostile file causes into an InputError.

    Archives, decompressors and array headers raise a dozen kinds of exceptions, so there is no list of them here.

    Args:
        file: The file or folder, named in the message.
        content: What the file should contain, named in the message.
        advice: What the user should do, named in the message.

    Yields:
        Nothing. The file is read inside the `with` block.

    Raises:
        InputError: If the block raises any exception. An InputError from inside the block is not changed.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as fault:  # noqa: BLE001 - the libraries that read files raise a dozen kinds
        reason = " ".join(str(fault).split())[:160]
        why = f"{type(fault).__name__}: {reason}" if reason else type(fault).__name__
        raise InputError(f"{file}: cannot be read as {content} ({why}); {advice}") from None


def read_npz(file: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read arrays from an .npz file. No pickled objects are loaded.

    It raises KeyError if an array of `names` is missing. For a broken file it raises what NumPy or zipfile raises.

    Args:
        file: The .npz file.
        names: The arrays that must be in the file.
        optional: The arrays that are read only if they are in the file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: If the headers of the arrays announce more than MOST_BYTES together.
    """
    with file.open("rb") as stream, ZipFile(stream) as archive:
        members = set(archive.namelist())
        wanted = [*names, *(name for name in optional if f"{name}.npy" in members)]
        announced = 0
        for name in wanted:
            with archive.open(f"{name}.npy") as member:
                announced += _announced_bytes(member)
        if announced > MOST_BYTES:
            raise ValueError(f"its arrays would take {announced / 2**30:.0f} GiB")
        arrays = {}
        for name in wanted:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = npy.read_array(member, allow_pickle=False)
        return arrays


def mapped(file: Path) -> NDArray[Any]:
    """Map the array of an .npy file into memory, read-only.

    Args:
        file: The .npy file.

    Returns:
        The memory-mapped array.

    Raises:
        ValueError: If the file is shorter than its header says.
    """
    with file.open("rb") as stream:
        announced = _announced_bytes(stream)
    if announced > file.stat().st_size:
        raise ValueError(f"{file.name} is shorter than its header says")
    return npy.open_memmap(file, mode="r")


def demand(name: str, array: NDArray[Any], kinds: str, shape: tuple[int | None, ...]) -> None:
    """Check the dtype and the shape of an array.

    Args:
        name: The array's name, for the message.
        array: The array.
        kinds: The allowed kinds of dtype, one letter each as in `numpy.dtype.kind`.
        shape: The expected shape. None stands for any length.

    Raises:
        ValueError: If the array has another kind of dtype or another shape.
    """
    fits = array.ndim == len(shape) and all(
        expected in (None, length) for length, expected in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind not in kinds or not fits:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")


def finest_scale(reach: float, share: float) -> float:
    """Choose the power of two by which numbers are multiplied before they are stored in half precision.

    Args:
        reach: The largest absolute value of the numbers, above 0.
        share: The share of the range of half precision that may be used, in (0, 1].

    Returns:
        The largest power of two for which `reach` times it is at most `share` times LARGEST, up to rounding.
    """
    return 2.0 ** math.floor(math.log2(LARGEST * share) - math.log2(reach))


def to_half(values: NDArray[np.float32], offset: float, scale: float) -> NDArray[np.float16]:
    """Convert values to half precision as (values - offset) * scale.

    Args:
        values: float32 of any shape. Infinite values remain infinite.
        offset: The number to subtract.
        scale: The factor, as from `finest_scale`.

    Returns:
        float16 of the same shape.
    """
    return ((values.astype(np.float64) - offset) * scale).astype(np.float16)


def from_half(values: NDArray[np.float16], offset: float, scale: float) -> NDArray[np.float32]:
    """Convert values back from half precision, as the inverse of `to_half` except for rounding differences.

    Args:
        values: float16 of any shape, from `to_half`.
        offset: The offset that `to_half` was given.
        scale: The scale that `to_half` was given.

    Returns:
        float32 of the same shape.
    """
    with np.errstate(over="ignore"):  # rounding may push the largest float32 number to infinity
        return (values.astype(np.float64) / scale + offset).astype(np.float32)


def _announced_bytes(stream: IO[bytes]) -> int:
    """The bytes of an array in memory, as the header of its .npy file announces them."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of its array format is not known here")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return math.prod(shape) * dtype.itemsize
