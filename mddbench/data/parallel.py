"""Work in threads whose results come in order, such as decoding, which releases the interpreter's lock."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Queue
from threading import Thread
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


def in_batches(
    work: Callable[[Work], Result], items: Iterable[Work], size: int, most: int = AHEAD, patience: float | None = None
) -> Iterator[list[Result]]:
    """Return the results of some work on all items, in order, in batches.

    Args:
        work: The work on one item.
        items: The items.
        size: The number of results of a batch. The last batch may have fewer.
        most: The largest number of results that may wait.
        patience: The longest that the first item of a batch waits for others, in seconds. This is for items that come
            slowly. None to wait until a batch is full, so that batches do not depend on time.

    Yields:
        The results of each batch, at least one.
    """
    if patience is not None:
        yield from _patient_batches(work, items, min(size, max(most, 1)), patience)
        return
    results = in_parallel(work, items, most)
    while batch := list(itertools.islice(results, size)):
        yield batch


def _patient_batches(
    work: Callable[[Work], Result], items: Iterable[Work], size: int, patience: float
) -> Iterator[list[Result]]:
    arrivals: Queue[Future[Result] | None] = Queue(size)
    with ThreadPoolExecutor(processor_count()) as pool:
        Thread(target=_feed, args=(lambda item: pool.submit(work, item), items, arrivals), daemon=True).start()
        is_open = True
        while is_open:
            batch: list[Future[Result]] = []
            deadline = 0.0
            while len(batch) < size and is_open:
                try:
                    left = max(0.0, deadline - time.monotonic()) if batch else None
                    arrival = arrivals.get(timeout=left)
                except Empty:
                    break
                if arrival is None:
                    is_open = False
                else:
                    deadline = deadline if batch else time.monotonic() + patience
                    batch.append(arrival)
            if batch:
                yield [future.result() for future in batch]


def _feed(
    submit: Callable[[Work], Future[Result]], items: Iterable[Work], arrivals: Queue[Future[Result] | None]
) -> None:
    """Put the futures of all items into a queue as the items come, then None. What an iterator raises is the last future."""
    try:
        for item in items:
            arrivals.put(submit(item))
    except Exception as fault:  # noqa: BLE001 - the thread that takes the results raises it again
        failed: Future[Result] = Future()
        failed.set_exception(fault)
        arrivals.put(failed)
    arrivals.put(None)
