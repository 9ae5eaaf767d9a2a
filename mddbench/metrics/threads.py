"""Threads for work that releases the interpreter's lock, and whether compiled kernels are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import TypeVar

from mddbench.machine import processor_count

MOST_WORKERS = 4
"""More threads would wait for memory, and each has counters of its own."""
WORTH_COMPILING = 1 << 17
"""Below so many pixels plain NumPy takes a few milliseconds, less than loading the kernels."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """Threads to use: the processors that this process may use, but few."""
    return min(processor_count(), MOST_WORKERS)


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of `work` on each item, in their order."""
    if len(items) < 2 or workers() < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(work, items))


def use_kernels(pixels: int) -> bool:
    """Whether compiled kernels are there and worth their while. Without Numba the same results take longer."""
    return pixels >= WORTH_COMPILING and _kernels_load()


@lru_cache
def _kernels_load() -> bool:
    try:
        import_module("numba")
    except ImportError:
        return False
    return True
