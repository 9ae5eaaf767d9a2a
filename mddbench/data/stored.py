"""Array files that are written one entry after another and opened only while they hold what was written."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.arrays import mapped
from mddbench.data.fingerprint import SETTLED_NS, Stamp, stamp_of
from mddbench.data.oddities import Oddities
from mddbench.metrics.threads import in_threads

RUN = 2**23
"""Bytes that a thread reads at once when it checks a file."""


class DamagedError(ValueError):
    """A file that does not hold what was written. The message is one line: which file, and what is wrong with it."""


@dataclass(frozen=True)
class Seal:
    """What is remembered of a written array file.

    sha256: over the SHA-256 of each entry (along the first axis), in hex; checked: size and times of the file when it last
    was found to agree, None if it never was or had just changed.
    """

    sha256: str
    checked: Stamp | None = None


@dataclass(frozen=True)
class ArrayFile:
    """An array file and the dtype and shape that its array must have."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def open(self, seal: Seal) -> tuple[NDArray[Any], Seal]:
        """The array, memory-mapped, and its seal after this look at it. All of the file is read, unless it has the size and
        times at which it was found to agree before. Raises DamagedError, and OSError if there is no such file.
        """
        stamp = stamp_of(self.path)
        try:
            array = mapped(self.path)
        except Exception as fault:  # a broken header raises a dozen kinds
            raise self._damaged(f"no array that can be read, {' '.join(str(fault).split())[:160]}") from None
        if (array.dtype, array.shape) != (self.dtype, self.shape) or not array.flags.c_contiguous:
            found = f"{array.dtype} of shape {array.shape}"
            raise self._damaged(f"{found}, expected {self.dtype} of shape {self.shape}")
        if seal.checked == stamp:
            return array, seal
        now = time.time_ns()
        try:
            digest = self._digest(array)
        except OSError as fault:  # a part of the disk that cannot be read, say
            raise self._damaged(f"cannot be read, {fault.strerror}") from None
        if digest != seal.sha256:
            raise self._damaged("its checksum is another one")
        return array, Seal(seal.sha256, stamp if max(stamp[1:]) < now - SETTLED_NS else None)

    def _damaged(self, why: str) -> DamagedError:
        return DamagedError(f"{self.path}: not as it was written ({why})")

    def _digest(self, array: NDArray[Any]) -> str:
        """Of the mapped array's entries. They are read: the pages of a map would count as the process's memory."""
        start = self.path.stat().st_size - array.nbytes
        count, entry = self.shape[0], array.nbytes // max(self.shape[0], 1)
        many = max(RUN // max(entry, 1), 1)

        def of_some(first: int) -> bytes:
            last = min(first + many, count)
            with self.path.open("rb") as file:
                file.seek(start + first * entry)
                content = memoryview(file.read((last - first) * entry))
            return b"".join(
                hashlib.sha256(content[place : place + entry]).digest() for place in range(0, len(content), entry)
            )

        return hashlib.sha256(b"".join(in_threads(of_some, range(0, count, many)))).hexdigest()


@dataclass
class Writer:
    """Writes an array file one entry after another. Not by memory map: a disk that is full kills the writer of one.

    file: the array's own name and kind; place: where it is written until it is whole.
    """

    file: ArrayFile
    place: Path
    digest: Any = field(default_factory=hashlib.sha256)

    def __enter__(self) -> Writer:
        self.stream = self.place.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self.file.dtype),
            "fortran_order": False,
            "shape": self.file.shape,
        }
        np.lib.format.write_array_header_1_0(self.stream, header)
        self.end = self.stream.tell() + int(np.prod(self.file.shape)) * self.file.dtype.itemsize
        return self

    def __exit__(self, *failure: object) -> None:
        with self.stream:
            if failure == (None, None, None):
                self.stream.truncate(self.end)
                self.stream.flush()
                os.fsync(self.stream.fileno())

    def append(self, values: NDArray[Any]) -> None:
        """Add one entry; zeros take no room on the disk."""
        content = np.ascontiguousarray(values).data
        self.digest.update(hashlib.sha256(content).digest())
        if values.any():
            self.stream.write(content)
        else:
            self.stream.seek(values.nbytes, os.SEEK_CUR)

    def keep(self) -> Seal:
        """Put the whole file in its place."""
        os.replace(self.place, self.file.path)
        return Seal(self.digest.hexdigest())


def read_seals(path: Path, files: Mapping[str, ArrayFile]) -> tuple[dict[str, Seal], Oddities]:
    """The seals of some array files, by name, and what was odd about the images in them. Raises DamagedError unless the file
    holds just theirs.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seals = {name: Seal(str(sha256), _stamp(checked)) for name, (sha256, checked) in content["seals"].items()}
        oddities = Oddities.read(content["oddities"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        seals = {}
    if seals.keys() != files.keys():
        raise DamagedError(f"{next(iter(files.values())).path}: no checksum to compare it with in {path.name}")
    return seals, oddities


def write_seals(seals: Mapping[str, Seal], oddities: Oddities, path: Path) -> None:
    """Keep seals and oddities in a file. Raises OSError if it cannot be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    numbers = {name: [seal.sha256, seal.checked] for name, seal in seals.items()}
    content = {"seals": numbers, "oddities": oddities.found}
    try:
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _stamp(numbers: Any) -> Stamp | None:
    if numbers is None:
        return None
    size, modified, changed = map(int, numbers)
    return size, modified, changed
