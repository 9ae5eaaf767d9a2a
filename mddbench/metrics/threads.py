"""Threads for work that releases the interpreter's lock, and the choice of compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import TypeVar

from mddbench.machine import processor_count

MOST_WORKERS = 4
"""Largest number of threads. More would wait for memory, and each thread has its own counters."""
WORTH_COMPILING = 1 << 17
"""Smallest number of pixels for which the kernels are used.

Below it plain NumPy takes a few milliseconds, less than loading the kernels.
"""

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """Return the number of threads: the processors that this process may use, at most MOST_WORKERS."""
    return min(processor_count(), MOST_WORKERS)


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call a function on each item, in several threads.

    Args:
        work: Function of one item.
        items: Items to work on.

    Returns:
        The results in the order of the items.
    """
    if len(items) < 2 or workers() < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(work, items))


def use_kernels(pixels: int) -> bool:
    """Decide whether to use the compiled kernels. Without Numba the results are the same but take longer.

    Args:
        pixels: Number of pixels to count.

    Returns:
        True if Numba is installed and there are enough pixels.
    """
    return pixels >= WORTH_COMPILING and _kernels_load()


@lru_cache
def _kernels_load() -> bool:
    try:
        import_module("numba")
    except ImportError:
        return False
    return True
