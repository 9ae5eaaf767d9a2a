"""Several cells at once, each in a process of its own with its share of the processors. The tracking store has one writer: this
process, which also says what the others do.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, Literal

import torch

from mddbench.errors import InputError, TrackingError
from mddbench.execution.cells import Cell
from mddbench.execution.plan import RunOptions, training_key
from mddbench.execution.runner import Draw, Outcome
from mddbench.execution.worker import Work, serve
from mddbench.interruption import blocking_all_but_sigterm, closing
from mddbench.machine import processor_count, usable_processors
from mddbench.plugins import added_folders
from mddbench.progress import WARNING, Reporter
from mddbench.runs.tracking import CellRun, Tracker


@dataclass(frozen=True)
class Share:
    """What a process gets. device: its own or one of several processes, which `sharing` counts; cores: the numbers of its
    processors, () where the system cannot tell; threads: how many it may use.
    """

    device: torch.device
    sharing: int
    cores: tuple[int, ...]
    threads: int


def shares(device: torch.device, jobs: int) -> list[Share]:
    """The machine divided: 'cuda' stands for all GPUs, which are given out by turns. Raises InputError for more jobs than
    processors.
    """
    cores, count = usable_processors(), processor_count()
    if not 1 <= jobs <= count:
        raise InputError(f"--jobs {jobs}: expected from 1 to {count}, the processors that may be used here")
    whole = device.type == "cuda" and device.index is None
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] if whole else [device]
    given = [devices[number % len(devices)] for number in range(jobs)]
    ends = [number * count // jobs for number in range(jobs + 1)]
    return [
        Share(one, given.count(one), cores[first:last], last - first)
        for one, first, last in zip(given, ends[:-1], ends[1:], strict=True)
    ]


def chains(cells: list[Cell]) -> list[list[Cell]]:
    """The cells, those together that share a trained model."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(training_key(cell), []).append(cell)
    return list(found.values())


class Jobs:
    """Runs checked cells in several processes, with one set of options."""

    def __init__(
        self, options: RunOptions, tracker: Tracker, reporter: Reporter, draw: Draw | None, divided: list[Share]
    ) -> None:
        """divided: a share for each process. draw: as of a Runner; a function that another process can import."""
        self.options, self.tracker, self.reporter = options, tracker, reporter
        self.draw, self.divided = draw, divided

    def run(self, cells: list[Cell]) -> list[Outcome]:
        """Run all cells; a failed one, or one whose process dies, does not stop the others. In the order of the cells."""
        waiting, outcomes = deque(map(deque, chains(cells))), {}
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()
        workers = [_Worker(self, share, cells) for share in self.divided]
        try:
            with self.reporter.task("cells", len(cells)) as task:
                while busy := _busy(workers, waiting):
                    for line in wait(list(busy)):
                        ended = busy[line].hear()
                        if ended is not None:
                            outcomes[id(ended.cell)] = ended
                        task.advance(ended is not None, " · ".join(worker.doing for worker in workers if worker.doing))
        finally:
            with closing():
                for worker in workers:
                    worker.process.terminate()
                for worker in workers:
                    worker.end("KILLED", "interrupted")
        return [outcomes[id(cell)] for cell in cells]


class _Worker:
    """A process as seen from here. cell: what it runs now; chain: cells that it must run after that, as they share a training;
    runs: what its cell has started in the tracking store, None if it has ended; doing: what is shown of it.
    """

    def __init__(self, jobs: Jobs, share: Share, cells: list[Cell]) -> None:
        self.jobs, self.share, self.cells = jobs, share, cells
        self.cell: Cell | None = None
        self.chain: deque[Cell] = deque()
        self.runs: list[CellRun | None] = []
        self.doing = ""
        self.start()

    def start(self) -> None:
        """A new process, with its share of everything."""
        context = multiprocessing.get_context("spawn")  # CUDA and threads do not outlive a fork
        self.line, there = context.Pipe()
        options, share = self.jobs.options, self.share
        room = options.feature_room / share.sharing
        options = replace(options, device=share.device, feature_room=room, sharing=share.sharing)
        work = Work(options, share.threads, tuple(self.cells), tuple(added_folders()), self.jobs.draw)
        self.process = context.Process(target=serve, args=(there, work), daemon=True)
        with _on(share.cores), blocking_all_but_sigterm():
            self.process.start()
        there.close()

    def give(self, waiting: deque[deque[Cell]]) -> None:
        """The next cell, if it has none."""
        if self.cell is None and (self.chain or waiting):
            if self.process.exitcode is not None:
                self.start()
            if not self.chain:
                self.chain = waiting.popleft()
            self.cell, self.runs = self.chain.popleft(), []
            self.jobs.reporter.say(self.cell.name)
            with suppress(OSError):  # then nothing will be heard of it, either
                self.line.send(self.cell)

    def hear(self) -> Outcome | None:
        """Do what it asks for; the outcome of its cell if that has ended."""
        cell, reporter = self.cell, self.jobs.reporter
        assert cell is not None
        try:
            kind, *content = self.line.recv()
        except (EOFError, OSError):
            self.process.join()
            message = f"its process died (exit status {self.process.exitcode}); was there enough memory?"
            self.end("FAILED", message)
            kind, content = "done", [Outcome(cell, "failed", None, message)]
        if kind == "done":
            self.cell, self.doing = None, ""
            outcome: Outcome = replace(content[0], cell=cell)  # a copy came back
            if outcome.status == "skipped":
                reporter.say(f"{cell.name}: skipped, {outcome.message}")
            return outcome
        if kind == "say":
            whole = content[0].startswith((cell.name, WARNING))
            reporter.say(content[0] if whole else f"{cell.name}: {content[0]}")
        elif kind == "doing":
            self.doing = f"{cell.name} {content[0]}"
        else:
            answer = self._answer(*content)
            with suppress(OSError):
                self.line.send(answer)
        return None

    def end(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """Wait until it has ended; what it has left open in the tracking store ends with it."""
        self.process.join()
        for run in self.runs:
            try:
                if run is not None:
                    run.stop(status, message)
            except Exception as fault:  # of any store: what else goes on must not end with it
                self.jobs.reporter.say(
                    f"the tracking store did not take that a run ended ({type(fault).__name__}: {fault})"
                )
        self.runs = []

    def _answer(self, number: int | None, what: str, arguments: tuple[Any, ...]) -> Any:
        """What the tracking store, or the run with a number, says; or what it raised."""
        target: Any = self.jobs.tracker if number is None else self.runs[number]
        try:
            found = getattr(target, what)(*arguments)
        except (InputError, TrackingError) as fault:
            return fault
        except Exception as fault:  # of any store, and not all can be sent
            return RuntimeError(f"{type(fault).__name__}: {fault}")
        if what == "start":
            self.runs.append(found)
            return len(self.runs) - 1
        if number is not None and what in ("finish", "stop"):
            self.runs[number] = None
        return found


def _busy(workers: list[_Worker], waiting: deque[deque[Cell]]) -> dict[Any, _Worker]:
    """Give each worker its next cell; those that have one, by their connections."""
    for worker in workers:
        worker.give(waiting)
    return {worker.line: worker for worker in workers if worker.cell is not None}


@contextmanager
def _on(cores: tuple[int, ...]) -> Iterator[None]:
    """A process that is started inside has these processors, and every library in it starts as many threads."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
