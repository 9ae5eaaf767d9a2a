"""Array files that are written entry by entry, and opened only while they hold what was written."""

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
"""The number of bytes that a thread reads at once when it checks a file."""


class DamagedError(ValueError):
    """A file does not hold what was written.

    The message is one line. It says which file it is, and what is wrong with it.
    """


@dataclass(frozen=True)
class Seal:
    """The checksum of a written array file.

    Attributes:
        sha256: The SHA-256 over the SHA-256 of each entry (along the first axis), in hex.
        checked: The size and times of the file when its content last agreed with the checksum.
            None if it was never compared, or if it had just changed.
    """

    sha256: str
    checked: Stamp | None = None


@dataclass(frozen=True)
class ArrayFile:
    """An array file.

    Attributes:
        path: The .npy file.
        dtype: The dtype that the array must have.
        shape: The shape that the array must have.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def open(self, seal: Seal) -> tuple[NDArray[Any], Seal]:
        """Open the file and compare it with its seal.

        The file is read completely, unless it has the size and times at which it agreed before.
        OSError is raised if there is no such file.

        Args:
            seal: The seal of the file.

        Returns:
            The memory-mapped array, and the seal after this comparison.

        Raises:
            DamagedError: If the file holds another array, or no array that can be read.
        """
        stamp = stamp_of(self.path)
        try:
            array = mapped(self.path)
        except Exception as fault:  # noqa: BLE001 - a broken header raises a dozen kinds
            raise DamagedError(
                self._damage(f"no array that can be read, {' '.join(str(fault).split())[:160]}")
            ) from None
        if (array.dtype, array.shape) != (self.dtype, self.shape) or not array.flags.c_contiguous:
            actual = f"{array.dtype} of shape {array.shape}"
            raise DamagedError(self._damage(f"{actual}, expected {self.dtype} of shape {self.shape}"))
        if seal.checked == stamp:
            return array, seal
        now = time.time_ns()
        try:
            digest = self._digest(array)
        except OSError as fault:  # for example a part of the disk that cannot be read
            raise DamagedError(self._damage(f"cannot be read, {fault.strerror}")) from None
        if digest != seal.sha256:
            raise DamagedError(self._damage("its checksum is another one"))
        return array, Seal(seal.sha256, stamp if max(stamp[1:]) < now - SETTLED_NS else None)

    def _damage(self, reason: str) -> str:
        return f"{self.path}: not as it was written ({reason})"

    def _digest(self, array: NDArray[Any]) -> str:
        """The checksum of the entries. They are read, because mapped pages would count as memory of the process."""
        start = self.path.stat().st_size - array.nbytes
        count, entry_bytes = self.shape[0], array.nbytes // max(self.shape[0], 1)
        entries_per_run = max(RUN // max(entry_bytes, 1), 1)

        def digests_of_run(first: int) -> bytes:
            last = min(first + entries_per_run, count)
            with self.path.open("rb") as file:
                file.seek(start + first * entry_bytes)
                content = memoryview(file.read((last - first) * entry_bytes))
            return b"".join(
                hashlib.sha256(content[offset : offset + entry_bytes]).digest()
                for offset in range(0, len(content), entry_bytes)
            )

        return hashlib.sha256(b"".join(in_threads(digests_of_run, range(0, count, entries_per_run)))).hexdigest()


@dataclass
class Writer:
    """Writes an array file entry by entry.

    It does not use a memory map, because a full disk kills a process that writes to one.

    Attributes:
        file: The array file.
        partial: The temporary file to which the array is written until it is complete.
        digest: The SHA-256 over the SHA-256 of each entry so far.
    """

    file: ArrayFile
    partial: Path
    digest: Any = field(default_factory=hashlib.sha256)

    def __enter__(self) -> Writer:
        self.stream = self.partial.open("wb")
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
        """Write one entry. An entry of zeros takes no room on the disk.

        Args:
            values: The entry, with the dtype of the file.
        """
        content = np.ascontiguousarray(values).data
        self.digest.update(hashlib.sha256(content).digest())
        if values.any():
            self.stream.write(content)
        else:
            self.stream.seek(values.nbytes, os.SEEK_CUR)

    def finish(self) -> Seal:
        """Rename the complete file to its final name, and return its seal."""
        os.replace(self.partial, self.file.path)
        return Seal(self.digest.hexdigest())


def read_seals(path: Path, files: Mapping[str, ArrayFile]) -> tuple[dict[str, Seal], Oddities]:
    """Read the seals of some array files.

    Args:
        path: The file with the seals.
        files: The array files by name.

    Returns:
        The seals by name, and the oddities of the image files in the arrays.

    Raises:
        DamagedError: If the file does not hold the seals of exactly these array files.
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
    """Write seals and oddities to a file. OSError is raised if it cannot be written.

    Args:
        seals: The seals by name.
        oddities: The oddities of the image files in the arrays.
        path: The file.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    checksums = {name: [seal.sha256, seal.checked] for name, seal in seals.items()}
    content = {"seals": checksums, "oddities": oddities.by_kind}
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
