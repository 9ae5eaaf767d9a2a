"""The process that runs cells for another one, which gives them to it and is told all that is to be said or logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from mddbench.data.dataset import Dataset
from mddbench.execution.cells import Cell
from mddbench.execution.plan import Datasets, RunOptions, distinct_experiments, open_datasets
from mddbench.execution.runner import Draw, Runner
from mddbench.interruption import ignore_all_but_sigterm
from mddbench.machine import keep_freed_memory
from mddbench.plugins import add_folder
from mddbench.progress import SilentReporter, Task
from mddbench.runs.records import EpochLog, Record
from mddbench.runs.tracking import CellFacts, CellRun
from mddbench.seeding import use_deterministic_algorithms

Reply = Any
"""What the other end answers: a value, or an InputError or RuntimeError to be raised here."""


@dataclass(frozen=True)
class Work:
    """All that a process must know before it gets its first cell. cells: all that it may get; threads: how many it may use."""

    options: RunOptions
    threads: int
    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    draw: Draw | None


def serve(connection: Connection, work: Work) -> None:
    """Run the cells that come, until the other end is gone, which ends this process wherever it is.

    Sent: ('say', text), ('doing', text), ('ask', number of a run or None for the store, what, arguments), which is answered
    by a Reply, and ('done', outcome).
    """
    ignore_all_but_sigterm()
    torch.set_num_threads(work.threads)
    if work.options.device.type == "cuda":
        torch.cuda.set_device(work.options.device)
    use_deterministic_algorithms()
    keep_freed_memory()
    for folder in work.plugins:
        add_folder(folder)
    line = _Line(connection)
    runner = Runner(work.options, _Opened(work), _FarTracker(line), _FarReporter(line), work.draw)
    while True:
        cell = line.hear()
        line.tell("done", runner.one(cell))


class _Opened(Datasets):
    """Datasets, opened when a cell first needs them."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __missing__(self, key: tuple[str, int]) -> Dataset:
        wanting = [
            each for each in distinct_experiments(list(self.work.cells)) if (each.dataset, each.image_size) == key
        ]
        self.update(open_datasets(wanting, self.work.options, SilentReporter()))
        return self[key]


class _Line:
    """The connection to the other end. What is sent and heard here ends the process if nobody is there: a cell can neither be
    reported nor logged then, and goes on from its checkpoint when it is run again.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def tell(self, *words: Any) -> None:
        """Say something that needs no answer."""
        try:
            self.connection.send(words)
        except OSError:
            raise SystemExit(1) from None

    def hear(self) -> Any:
        """What comes next."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise SystemExit(0) from None

    def ask(self, *words: Any) -> Any:
        """What is answered. Raises what the other end raised."""
        self.tell("ask", *words)
        reply: Reply = self.hear()
        if isinstance(reply, Exception):
            raise reply
        return reply


class _FarReporter:
    """Tells the other end what is going on."""

    def __init__(self, line: _Line) -> None:
        self.line = line

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        yield _FarTask(self.line, label, total)

    def say(self, message: str) -> None:
        self.line.tell("say", message)


class _FarTask:
    def __init__(self, line: _Line, label: str, total: int) -> None:
        self.line, self.label, self.total, self.done, self.told = line, label, total, 0, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Tell every hundredth."""
        self.done += steps
        if self.done == self.total or (self.done - self.told) * 100 >= self.total:
            self.told = self.done
            self.line.tell("doing", f"{self.label} {self.done}/{self.total} {note}".rstrip())


@dataclass(frozen=True)
class _Far:
    """The tracking store, or a run in it, at the other end. number: the run's."""

    line: _Line
    number: int | None = None

    def ask(self, what: str, *arguments: Any) -> Any:
        return self.line.ask(self.number, what, arguments)


class _FarTracker(_Far):
    def start(self, facts: CellFacts, place: Path | None) -> CellRun:
        return _FarRun(self.line, self.ask("start", facts, place))

    def has(self, identity: str, place: Path) -> bool:
        return bool(self.ask("has", identity, place))

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
