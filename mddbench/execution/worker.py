"""The child process that runs cells.

The parent process sends it the cells. The child sends back all messages, and all that must be logged.
"""

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
from mddbench.runs.facts import CellFacts
from mddbench.runs.records import EpochLog, Record
from mddbench.runs.tracking import CellRun
from mddbench.seeding import use_deterministic_algorithms

Reply = Any
"""The answer of the parent process: a value, or an InputError or RuntimeError that is raised here."""


@dataclass(frozen=True)
class Work:
    """All that a child process must know before it gets its first cell.

    Attributes:
        options: Options of the run, with the device of this process.
        threads: Number of threads it may use.
        cells: All cells that it may get.
        plugins: Plug-in folders.
        draw: Draws the picture of a finished cell; None for no pictures.
    """

    options: RunOptions
    threads: int
    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    draw: Draw | None


def serve(connection: Connection, work: Work) -> None:
    """Run the cells that the parent process sends. If the parent process is gone, this process ends at once.

    It sends four kinds of messages:

    - ('say', text).
    - ('doing', text).
    - ('ask', number of a run or None for the store, name of a method, arguments). The answer is a Reply.
    - ('done', outcome).

    Args:
        connection: The connection to the parent process.
        work: What this process must know.
    """
    ignore_all_but_sigterm()
    torch.set_num_threads(work.threads)
    if work.options.device.type == "cuda":
        torch.cuda.set_device(work.options.device)
    use_deterministic_algorithms()
    keep_freed_memory()
    for folder in work.plugins:
        add_folder(folder)
    parent = _Parent(connection)
    runner = Runner(work.options, _LazyDatasets(work), _RemoteTracker(parent), _RemoteReporter(parent), work.draw)
    while True:
        cell = parent.receive()
        parent.send("done", runner.run_cell(cell))


class _LazyDatasets(Datasets):
    """Datasets that are opened when a cell first needs them."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __missing__(self, key: tuple[str, int]) -> Dataset:
        experiments = [
            experiment
            for experiment in distinct_experiments(list(self.work.cells))
            if (experiment.dataset, experiment.image_size) == key
        ]
        self.update(open_datasets(experiments, self.work.options, SilentReporter()))
        return self[key]


class _Parent:
    """The connection to the parent process.

    If the parent process is gone, sending and receiving end this process.
    Its cell could be neither reported nor logged. It resumes from its checkpoint when it is run again.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, *message: Any) -> None:
        """Send a message that needs no answer."""
        try:
            self.connection.send(message)
        except OSError:
            raise SystemExit(1) from None

    def receive(self) -> Any:
        """Wait for the next message."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise SystemExit(0) from None

    def ask(self, *question: Any) -> Any:
        """Send a question and return the answer, or raise the exception that the parent process sent as the answer."""
        self.send("ask", *question)
        reply: Reply = self.receive()
        if isinstance(reply, Exception):
            raise reply
        return reply


class _RemoteReporter:
    """Sends messages and progress to the parent process."""

    def __init__(self, parent: _Parent) -> None:
        self.parent = parent

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        yield _RemoteTask(self.parent, label, total)

    def say(self, message: str) -> None:
        self.parent.send("say", message)


class _RemoteTask:
    def __init__(self, parent: _Parent, label: str, total: int) -> None:
        self.parent, self.label, self.total, self.done, self.reported = parent, label, total, 0, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps, and report after each hundredth of the total."""
        self.done += steps
        if self.done == self.total or (self.done - self.reported) * 100 >= self.total:
            self.reported = self.done
            self.parent.send("doing", f"{self.label} {self.done}/{self.total} {note}".rstrip())


@dataclass(frozen=True)
class _Remote:
    """The tracking store of the parent process, or one of its runs.

    Attributes:
        parent: The connection to the parent process.
        number: Number of the run; None for the store.
    """

    parent: _Parent
    number: int | None = None

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method in the parent process."""
        return self.parent.ask(self.number, method, arguments)


class _RemoteTracker(_Remote):
    def start(self, facts: CellFacts, folder: Path | None) -> CellRun:
        return _RemoteRun(self.parent, self.ask("start", facts, folder))

    def has(self, identity: str, folder: Path) -> bool:
        return bool(self.ask("has", identity, folder))

    def add(self, identity: str, files: list[Path]) -> None:
        self.ask("add", identity, files)

    def close(self) -> None:
        """Do nothing, because the parent process closes the store."""


class _RemoteRun(_Remote):
    def epoch(self, log: EpochLog) -> None:
        self.ask("epoch", log)

    def finish(self, record: Record, files: list[Path]) -> None:
        self.ask("finish", record, files)

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        self.ask("stop", status, message)
