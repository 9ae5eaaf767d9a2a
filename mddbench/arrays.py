"""Arrays in files that may come from anywhere, and scores in half precision."""

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
"""A file whose headers promise more is refused before anything is allocated."""
LARGEST = float(np.finfo(np.float16).max)


@contextmanager
def refusing(file: Path, what: str, advice: str) -> Iterator[None]:
    """Turns whatever reading a broken or hostile file raises into an InputError: the file, `what` it is not, why, `advice`.

    Not a list of exceptions: archives, decompressors and array headers raise a dozen kinds.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as fault:
        reason = " ".join(str(fault).split())[:160]
        why = f"{type(fault).__name__}: {reason}" if reason else type(fault).__name__
        raise InputError(f"{file}: cannot be read as {what} ({why}); {advice}") from None


def read_npz(file: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The named arrays of an .npz, of the optional ones those that are there; no pickle is loaded.

    Raises ValueError if they promise more than MOST_BYTES, KeyError if one is missing, and what a broken file raises.
    """
    with file.open("rb") as stream, ZipFile(stream) as archive:
        there = set(archive.namelist())
        wanted = [*names, *(name for name in optional if f"{name}.npy" in there)]
        promised = 0
        for name in wanted:
            with archive.open(f"{name}.npy") as member:
                promised += _promised_bytes(member)
        if promised > MOST_BYTES:
            raise ValueError(f"its arrays would take {promised / 2**30:.0f} GiB")
        arrays = {}
        for name in wanted:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = npy.read_array(member, allow_pickle=False)
        return arrays


def mapped(file: Path) -> NDArray[Any]:
    """The array of an .npy, read where it lies. Raises ValueError if the file is shorter than its header says."""
    with file.open("rb") as stream:
        promised = _promised_bytes(stream)
    if promised > file.stat().st_size:
        raise ValueError(f"{file.name} is shorter than its header says")
    return npy.open_memmap(file, mode="r")


def demand(name: str, array: NDArray[Any], kinds: str, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless an array's dtype is of one of the kinds, and its shape as given, None for any length."""
    fits = array.ndim == len(shape) and all(want in (None, have) for have, want in zip(array.shape, shape, strict=True))
    if array.dtype.kind not in kinds or not fits:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")


def finest_scale(reach: float, share: float) -> float:
    """The power of two that brings `reach`, a number above 0, just below this share of what half precision can hold."""
    return 2.0 ** math.floor(math.log2(LARGEST * share) - math.log2(reach))


def to_half(values: NDArray[np.float32], offset: float, scale: float) -> NDArray[np.float16]:
    """(values - offset) * scale; what is infinite stays so."""
    return ((values.astype(np.float64) - offset) * scale).astype(np.float16)


def from_half(values: NDArray[np.float16], offset: float, scale: float) -> NDArray[np.float32]:
    """What `to_half` was given, as near as half precision keeps it."""
    with np.errstate(over="ignore"):  # the largest single number may be rounded up
        return (values.astype(np.float64) / scale + offset).astype(np.float32)


def _promised_bytes(stream: IO[bytes]) -> int:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of its array format is not known here")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return math.prod(shape) * dtype.itemsize
