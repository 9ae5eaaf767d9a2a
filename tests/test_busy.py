"""Other work on the machine: when it is said, and how many threads a run uses."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from mddbench.cli.running import use_threads_or_warn
from mddbench.errors import InputError
from mddbench.machine import busy_processors
from mddbench.progress import SilentReporter


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(autouse=True)
def _threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def machine(monkeypatch: pytest.MonkeyPatch, running: float, processors: int) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (running, 0.0, 0.0))
    monkeypatch.setattr("mddbench.machine.processor_count", lambda: processors)


@pytest.mark.parametrize(
    ("running", "processors", "threads", "busy"),
    [
        (0.1, 2, 2, False),
        (0.9, 2, 2, False),
        (1.4, 2, 2, True),
        (9.0, 2, 1, False),  # a single thread waits for no other one
        (9.0, 16, 4, False),  # there is room beside it
        (15.0, 16, 4, True),
    ],
)
def test_other_work_is_said_where_threads_would_wait(
    running: float, processors: int, threads: int, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, running, processors)
    told = busy_processors(threads)
    assert (told is not None) is busy
    if told is not None:
        assert told == f"other work keeps about {running:.1f} of {processors} processors busy"


def test_the_number_of_threads_is_set_and_a_warning_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 7.0, 2)
    listener = Listener()
    use_threads_or_warn(2, 1, listener)
    assert torch.get_num_threads() == 2
    (line,) = listener.said
    assert line.startswith("warning: other work keeps about 7.0 of 2 processors busy")
    assert "--threads 1" in line
    listener.said.clear()
    use_threads_or_warn(1, 1, listener)
    assert (torch.get_num_threads(), listener.said) == (1, [])
    with pytest.raises(InputError, match="--threads 1: goes without --jobs"):
        use_threads_or_warn(1, 2, listener)
