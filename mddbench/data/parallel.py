"""Work in threads whose results come in order, such as decoding, which releases the interpreter's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mddbench.machine import processor_count

AHEAD = 256
"""The largest number of results that wait."""
Work = TypeVar("Work")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Work], Result], items: Iterable[Work], most: int = AHEAD) -> Iterator[Result]:
    """Return the results of some work on all items, in order, computed by one thread per processor.

    Args:
        work: The work on one item.
        items: The items. They are taken only as far ahead as results may wait.
        most: The largest number of results that may wait. There may always be one for each thread.

    Yields:
        The result of each item.
    """
    ahead = min(AHEAD, max(most, processor_count()))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(processor_count()) as pool:
        for item in items:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
