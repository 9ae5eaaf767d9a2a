"""The host's memory allocator, told to keep what it got: training frees and asks for the same blocks at every step."""

from __future__ import annotations

import ctypes
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
