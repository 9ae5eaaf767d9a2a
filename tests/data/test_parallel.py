"""Work in threads: results in order, in batches, and for items that come slowly not later than they must."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Queue

import pytest

from mddbench.data.parallel import in_batches, in_parallel
from mddbench.errors import InputError


@pytest.mark.parametrize("patience", [None, 5.0])
def test_batches_are_full_and_in_order(patience: float | None) -> None:
    found = list(in_batches(lambda item: 2 * item, range(7), 3, patience=patience))
    assert found == [[0, 2, 4], [6, 8, 10], [12]]
    assert list(in_batches(str, (), 3, patience=patience)) == []


def test_a_slow_item_is_not_waited_for() -> None:
    """The second item comes only after the first batch was seen."""
    lines: Queue[str | None] = Queue()
    lines.put("first")
    batches = in_batches(str.upper, iter(lines.get, None), 8, patience=0.05)
    assert next(batches) == ["FIRST"]
    lines.put("second")
    lines.put("third")
    lines.put(None)
    assert [text for batch in batches for text in batch] == ["SECOND", "THIRD"]


def test_a_steady_stream_is_not_gathered_for_long() -> None:
    """Each item comes well within the patience after the one before it."""

    def items() -> Iterator[int]:
        for item in range(12):
            time.sleep(0.05)
            yield item

    batches = list(in_batches(abs, items(), 12, patience=0.12))
    assert [item for batch in batches for item in batch] == list(range(12))
    assert len(batches) > 1


@pytest.mark.parametrize("patience", [None, 5.0])
def test_a_fault_of_the_items_comes_after_what_was_before_it(patience: float | None) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise InputError("no image in this folder")

    batches = in_batches(abs, items(), 1, most=1, patience=patience)
    if patience is not None:
        assert next(batches) == [1]
    with pytest.raises(InputError, match="no image in this folder"):
        list(batches)


@pytest.mark.parametrize("patience", [None, 5.0])
def test_a_fault_of_the_work_is_raised(patience: float | None) -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_batches(lambda item: 1 / item, (1, 0), 2, patience=patience))


def test_items_are_taken_only_as_far_ahead_as_results_may_wait() -> None:
    taken, lock = list[int](), threading.Lock()

    def items() -> Iterator[int]:
        for item in range(100):
            with lock:
                taken.append(item)
            yield item

    results = in_parallel(abs, items(), 4)
    assert next(results) == 0
    assert len(taken) <= 6
