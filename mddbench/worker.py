"""The process that runs cells for another one, which gives them to it and is told all that is to be said or logged."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from mddbench.allocator import keep_freed_memory
from mddbench.cells import Cell
from mddbench.plan import RunOptions, distinct_experiments, open_datasets
from mddbench.plugins import add_folder
from mddbench.progress import SilentReporter, Task
from mddbench.records import EpochLog, Record
from mddbench.runner import Draw, Runner
from mddbench.seeding import use_deterministic_algorithms
from mddbench.tracking import CellFacts, CellRun

GONE = (EOFError, ConnectionError)
"""What a connection raises whose other end is gone."""


@dataclass(frozen=True)
class Work:
    """All that a process must know before it gets its first cell. cells: all that it may get; threads: how many it may use."""

    options: RunOptions
    threads: int
    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    draw: Draw | None


def serve(line: Connection, work: Work) -> None:
    """Run the cells that come, until the other end is gone.

    Sent: ('say', text), ('doing', text), ('ask', number of a run or None for the store, what, arguments), which is answered
    by a value or an exception, and ('done', outcome).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end hears it, and ends this process
    torch.set_num_threads(work.threads)
    use_deterministic_algorithms()
    keep_freed_memory()
    for folder in work.plugins:
        add_folder(folder)
    datasets = open_datasets(distinct_experiments(list(work.cells)), work.options, SilentReporter())
    runner = Runner(work.options, datasets, _FarTracker(line), _FarReporter(line), work.draw)
    with suppress(*GONE):
        while True:
            line.send(("done", runner.one(line.recv())))


class _FarReporter:
    """Tells the other end what is going on."""

    def __init__(self, line: Connection) -> None:
        self.line = line

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        yield _FarTask(self.line, label, total)

    def say(self, message: str) -> None:
        self.line.send(("say", message))


class _FarTask:
    def __init__(self, line: Connection, label: str, total: int) -> None:
        self.line, self.label, self.total, self.done, self.told = line, label, total, 0, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Tell every hundredth."""
        self.done += steps
        if self.done == self.total or (self.done - self.told) * 100 >= self.total:
            self.told = self.done
            self.line.send(("doing", f"{self.label} {self.done}/{self.total} {note}".rstrip()))


@dataclass(frozen=True)
class _Far:
    """The tracking store, or a run in it, at the other end. number: the run's."""

    line: Connection
    number: int | None = None

    def ask(self, what: str, *arguments: Any) -> Any:
        """What it says. Raises what it raised."""
        self.line.send(("ask", self.number, what, arguments))
        answer = self.line.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


class _FarTracker(_Far):
    def start(self, facts: CellFacts, place: Path | None) -> CellRun:
        return _FarRun(self.line, self.ask("start", facts, place))

    def has(self, identity: str) -> bool:
        return bool(self.ask("has", identity))

    def add(self, identity: str, files: list[Path]) -> None:
        self.ask("add", identity, files)

    def close(self) -> None:
        """The other end's affair."""


class _FarRun(_Far):
    def epoch(self, log: EpochLog) -> None:
        self.ask("epoch", log)

    def finish(self, record: Record, files: list[Path]) -> None:
        self.ask("finish", record, files)

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        self.ask("stop", status, message)
