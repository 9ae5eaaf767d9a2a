"""The machine that runs a process: its usable processors, and the memory that its allocator keeps."""

from __future__ import annotations

import ctypes
import os
import platform

# Source: mallopt(3) of the GNU C library.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
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
    return [mallopt(option, value) for option, value in options] == [1, 1, 1]


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
