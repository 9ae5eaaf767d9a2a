"""Runs several cells at once, each in its own child process with its share of the processors.

Only this process writes to the tracking store. It also reports what the child processes do.
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
    """The part of the machine that a child process may use.

    Attributes:
        device: Device of the process.
        sharing: Number of processes on that device.
        cores: Numbers of its processors, () where the system does not report them.
        threads: Number of threads it may use.
    """

    device: torch.device
    sharing: int
    cores: tuple[int, ...]
    threads: int


def shares(device: torch.device, jobs: int) -> list[Share]:
    """Divide the machine among child processes.

    Args:
        device: The device. 'cuda' without a number stands for all GPUs, which are assigned in turn.
        jobs: Number of child processes.

    Returns:
        The share of each child process.

    Raises:
        InputError: If there are fewer processors than child processes, or no child process.
    """
    cores, count = usable_processors(), processor_count()
    if not 1 <= jobs <= count:
        raise InputError(f"--jobs {jobs}: expected from 1 to {count}, the processors that may be used here")
    all_gpus = device.type == "cuda" and device.index is None
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] if all_gpus else [device]
    assigned = [devices[number % len(devices)] for number in range(jobs)]
    ends = [number * count // jobs for number in range(jobs + 1)]
    return [
        Share(own_device, assigned.count(own_device), cores[first:last], last - first)
        for own_device, first, last in zip(assigned, ends[:-1], ends[1:], strict=True)
    ]


def chains(cells: list[Cell]) -> list[list[Cell]]:
    """Group cells that share a trained model. A group runs in one process, one cell after another.

    Args:
        cells: The cells.

    Returns:
        The groups, in the order of their first cells.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(training_key(cell), []).append(cell)
    return list(groups.values())


class Jobs:
    """Runs checked cells in several child processes, with one set of options.

    Attributes:
        options: Options of the run.
        tracker: The tracking store.
        reporter: Shows the progress.
        draw: Draws the picture of a finished cell; None for no pictures.
        process_shares: Share of each child process.
    """

    def __init__(
        self, options: RunOptions, tracker: Tracker, reporter: Reporter, draw: Draw | None, process_shares: list[Share]
    ) -> None:
        """Prepare a run. No process is started yet.

        Args:
            options: Options of the run.
            tracker: The tracking store.
            reporter: Shows the progress.
            draw: Draws the picture of a finished cell, as for a Runner. Child processes must be able to import it.
            process_shares: Share of each child process.
        """
        self.options, self.tracker, self.reporter = options, tracker, reporter
        self.draw, self.process_shares = draw, process_shares

    def run(self, cells: list[Cell]) -> list[Outcome]:
        """Run all cells. A cell that fails, or whose process dies, does not stop the others.

        Args:
            cells: The checked cells.

        Returns:
            The outcomes, in the order of the cells.
        """
        waiting, outcomes = deque(map(deque, chains(cells))), {}
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()
        workers = [_Worker(self, share, cells) for share in self.process_shares]
        try:
            with self.reporter.task("cells", len(cells)) as task:
                while busy := _busy(workers, waiting):
                    for connection in wait(list(busy)):
                        outcome = busy[connection].handle_message()
                        if outcome is not None:
                            outcomes[id(outcome.cell)] = outcome
                        note = " · ".join(worker.activity for worker in workers if worker.activity)
                        task.advance(outcome is not None, note)
        finally:
            with closing():
                for worker in workers:
                    worker.process.terminate()
                for worker in workers:
                    worker.end("KILLED", "interrupted")
        return [outcomes[id(cell)] for cell in cells]


class _Worker:
    """A child process, as its parent sees it.

    Attributes:
        jobs: The run of all cells.
        share: The part of the machine that the process may use.
        cells: All cells of the run.
        cell: The cell that it runs now, None if it has none.
        chain: Cells that it must run after that, because they share the trained model.
        runs: Runs that its cell has started in the tracking store. A run that has ended is None.
        activity: Text about its progress, '' if it has no cell.
        connection: The connection to the process.
        process: The process.
    """

    def __init__(self, jobs: Jobs, share: Share, cells: list[Cell]) -> None:
        self.jobs, self.share, self.cells = jobs, share, cells
        self.cell: Cell | None = None
        self.chain: deque[Cell] = deque()
        self.runs: list[CellRun | None] = []
        self.activity = ""
        self.start()

    def start(self) -> None:
        """Start a new process with its share of the machine."""
        context = multiprocessing.get_context("spawn")  # CUDA and threads do not work after a fork
        self.connection, child_connection = context.Pipe()
        options, share = self.jobs.options, self.share
        feature_room = options.feature_room / share.sharing
        options = replace(options, device=share.device, feature_room=feature_room, sharing=share.sharing)
        work = Work(options, share.threads, tuple(self.cells), tuple(added_folders()), self.jobs.draw)
        self.process = context.Process(target=serve, args=(child_connection, work), daemon=True)
        with _on(share.cores), blocking_all_but_sigterm():
            self.process.start()
        child_connection.close()

    def give(self, waiting: deque[deque[Cell]]) -> None:
        """Send the next of the waiting cells to the process if it has none. A dead process is started anew."""
        if self.cell is None and (self.chain or waiting):
            if self.process.exitcode is not None:
                self.start()
            if not self.chain:
                self.chain = waiting.popleft()
            self.cell, self.runs = self.chain.popleft(), []
            self.jobs.reporter.say(self.cell.name)
            with suppress(OSError):  # then receiving from it fails, too
                self.connection.send(self.cell)

    def handle_message(self) -> Outcome | None:
        """Receive one message and act on it. Return the outcome of the cell if it has ended."""
        cell, reporter = self.cell, self.jobs.reporter
        assert cell is not None
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            message = f"its process died (exit status {self.process.exitcode}); was there enough memory?"
            self.end("FAILED", message)
            kind, content = "done", [Outcome(cell, "failed", None, message)]
        if kind == "done":
            self.cell, self.activity = None, ""
            outcome: Outcome = replace(content[0], cell=cell)  # the process returned a copy of the cell
            if outcome.status == "skipped":
                reporter.say(f"{cell.name}: skipped, {outcome.message}")
            return outcome
        if kind == "say":
            complete = content[0].startswith((cell.name, WARNING))
            reporter.say(content[0] if complete else f"{cell.name}: {content[0]}")
        elif kind == "doing":
            self.activity = f"{cell.name} {content[0]}"
        else:
            answer = self._answer(*content)
            with suppress(OSError):
                self.connection.send(answer)
        return None

    def end(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """Wait until the process has ended, and stop the runs that it left open in the tracking store."""
        self.process.join()
        for run in self.runs:
            try:
                if run is not None:
                    run.stop(status, message)
            except Exception as fault:  # noqa: BLE001 - stores raise many kinds, and the other cells must continue
                self.jobs.reporter.say(
                    f"the tracking store did not take that a run ended ({type(fault).__name__}: {fault})"
                )
        self.runs = []

    def _answer(self, number: int | None, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the tracking store, or of the run with a number. Return its result or its exception."""
        target: Any = self.jobs.tracker if number is None else self.runs[number]
        try:
            result = getattr(target, method)(*arguments)
        except (InputError, TrackingError) as fault:
            return fault
        except Exception as fault:  # noqa: BLE001 - stores raise many kinds, and some of them cannot be sent
            return RuntimeError(f"{type(fault).__name__}: {fault}")
        if method == "start":
            self.runs.append(result)
            return len(self.runs) - 1
        if number is not None and method in ("finish", "stop"):
            self.runs[number] = None
        return result


def _busy(workers: list[_Worker], waiting: deque[deque[Cell]]) -> dict[Any, _Worker]:
    """Give each worker its next cell. Return the workers that have one, by their connections."""
    for worker in workers:
        worker.give(waiting)
    return {worker.connection: worker for worker in workers if worker.cell is not None}


@contextmanager
def _on(cores: tuple[int, ...]) -> Iterator[None]:
    """Assign processors to each process that is started inside the `with` block.

    Every library in such a process then starts as many threads as it has processors.

    Args:
        cores: Numbers of the processors; () has no effect.

    Yields:
        Nothing. The process is started inside the block.
    """
    if not cores:
        yield
        return
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)
