"""The machine that runs a process: its usable processors, and the memory that its allocator keeps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Source: mallopt(3) of the GNU C library.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
MOST_MAPPED, LARGE, GROWN = 65536, 2**20, 2**25
"""glibc's default number of mapped blocks; what is large here; the threshold to which glibc's own can grow."""
BUSY = 0.5
"""Share of a process's own threads that other work may take before it is said."""
PAD = 256 * 2**20
"""Bytes that glibc requests in addition whenever it asks the system for more memory."""


def keep_freed_memory() -> bool:
    """Let glibc keep and reuse large memory blocks.

    This changes no result, only the time. Without it, every tensor above 32 MiB is unmapped when it is freed.
    The next such tensor then causes a page fault for each of its pages.

    Returns:
        True if glibc accepted the options. False if it refused one, or if the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, PAD))
    _kept.append(True)
    return [mallopt(option, value) for option, value in options] == [1, 1, 1]


_kept: list[bool] = []
"""Not empty if `keep_freed_memory` was called."""


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Inside the block, large memory blocks go back to the system as soon as they are freed.

    This is for code of others in which large tensors come and go with small ones between them that stay. Each small one
    may take a bit of the place of a large one, and the next large one then finds no place but a new one.

    Yields:
        Nothing.
    """
    mallopt = ctypes.CDLL(None).mallopt if platform.libc_ver()[0] == "glibc" else lambda *_: 0
    mallopt(MMAP_MAX, MOST_MAPPED)
    mallopt(MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        mallopt(MMAP_MAX, 0 if _kept else MOST_MAPPED)
        mallopt(MMAP_THRESHOLD, GROWN)


def give_back_freed_memory() -> None:
    """Let glibc return its unused memory to the system.

    A peak that is measured from now on then does not include the memory of earlier work.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def usable_processors() -> tuple[int, ...]:
    """Return the numbers of the processors that this process may use, or () where the system does not report them."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def processor_count() -> int:
    """Count the usable processors, or all of the machine's where the system does not report the usable ones."""
    return len(usable_processors()) or os.cpu_count() or 1


def busy_processors(threads: int) -> str | None:
    """Say whether other work keeps the processors busy. Several threads of a computation then wait for one another.

    Args:
        threads: Number of threads that this process is going to use.

    Returns:
        The number of running processes and of processors, in words; None if that is no trouble or is not reported.
    """
    if threads < 2 or not hasattr(os, "getloadavg"):
        return None
    running, processors = os.getloadavg()[0], processor_count()
    if running <= processors - threads + BUSY * threads:
        return None
    return f"other work keeps about {running:.1f} of {processors} processors busy"
