"""The machine under a process: how many processors it may use, and what its memory allocator keeps."""

from __future__ import annotations

import ctypes
import os
import platform

# Source: mallopt(3) of the GNU C library.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
PAD = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc reuse large blocks; whether it could be told. Changes no number, only time: without it every tensor above
    32 MiB is unmapped when freed, and its successor faults in page by page.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, PAD))
    return [mallopt(option, value) for option, value in wanted] == [1, 1, 1]


def give_back_freed_memory() -> None:
    """Let glibc return what it kept to the system, so that a peak counted from now on is not that of what ran before."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def usable_processors() -> tuple[int, ...]:
    """Their numbers; () where the system cannot tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def processor_count() -> int:
    """How many they are; all of the machine's where the system cannot tell."""
    return len(usable_processors()) or os.cpu_count() or 1
