"""Runs several cells at once, each in its own child process with its share of the processors.

A child process is `mddbench cell` on the plan of the run. It takes the next part that none has claimed. This process reads
what the children write into the folders of the cells, reports it, and starts a new child in place of one that died.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mddbench.errors import InputError, TrackingError
from mddbench.execution.cells import Cell
from mddbench.execution.claims import Claims
from mddbench.execution.frozen import FrozenPlan, chains
from mddbench.execution.runner import Outcome
from mddbench.interruption import blocking_all_but_sigterm, closing
from mddbench.machine import processor_count, usable_processors
from mddbench.progress import WARNING, Reporter, Task
from mddbench.runs.events import ENDS, Event, EventReader, append_event, current_folder, read_events
from mddbench.runs.records import RECORD

INTERVAL = 0.1
"""Seconds between two looks at the folders."""
PROGRAM = "import sys; sys.path = [folder for folder in sys.path if folder]; from mddbench.cli.main import main; main()"
"""The command line, without the current folder among the places of code: a checkout there may be another version."""


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


class Jobs:
    """Runs the cells of a plan in several child processes.

    Attributes:
        plan: The plan.
        force: True to run finished cells again.
        reporter: Shows the progress.
        process_shares: Share of each child process.
        cells: Identity of a cell -> the cell.
        outcomes: Identity of a cell -> how it ended.
        activities: Identity of a cell -> what it does now.
    """

    def __init__(self, plan: FrozenPlan, force: bool, reporter: Reporter, process_shares: list[Share]) -> None:
        """Prepare a run. No process is started yet.

        Args:
            plan: The plan.
            force: True to run finished cells again.
            reporter: Shows the progress.
            process_shares: Share of each child process.
        """
        self.plan, self.force, self.reporter, self.process_shares = plan, force, reporter, process_shares
        self.outcomes: dict[str, Outcome] = {}
        self.activities: dict[str, str] = {}
        self.cells: dict[str, Cell] = {}
        self.readers = {cell.identity: EventReader(plan.folder(cell)) for cell in plan.cells()}

    def run(self, cells: list[Cell]) -> list[Outcome]:
        """Run all cells. A cell that fails, or whose process dies, does not stop the others.

        Args:
            cells: The cells of the plan.

        Returns:
            The outcomes, in the order of the cells.
        """
        in_order = [cell for chain in chains(cells) for cell in chain]
        self.cells = {planned.identity: cell for planned, cell in zip(self.plan.cells(), in_order, strict=True)}
        if any(share.device.type == "cuda" for share in self.process_shares):
            torch.cuda.empty_cache()
        with TemporaryDirectory(prefix="mddbench-jobs-") as name:
            self.claims, self.file = Claims(Path(name) / "claims"), Path(name) / "plan.json"
            self.claims.folder.mkdir()
            self.file.write_text(self.plan.model_dump_json(), encoding="utf-8")
            children = [self._start(share) for share in self.process_shares]
            try:
                with self.reporter.task("cells", len(cells)) as task:
                    while len(self.outcomes) < len(cells):
                        time.sleep(INTERVAL)
                        self._look(task)
                        self._replace_dead(children)
            finally:
                with closing():
                    for child in children:
                        child.terminate()
                    for child in children:
                        child.wait()
        by_cell = {id(outcome.cell): outcome for outcome in self.outcomes.values()}
        return [by_cell[id(cell)] for cell in cells]

    def _start(self, share: Share) -> subprocess.Popen[bytes]:
        """Start a child process with its share of the machine."""
        command = [sys.executable, "-c", PROGRAM, "cell", str(self.file), "--claims", str(self.claims.folder)]
        command += ["--device", str(share.device), "--sharing", str(share.sharing), "--threads", str(share.threads)]
        command += ["--force"] if self.force else []
        with _on(share.cores), blocking_all_but_sigterm():
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603

    def _look(self, task: Task) -> None:
        """Report what has happened to cells since the last look."""
        for index, part in enumerate(self.plan.parts):
            unended = [cell.identity for cell in part if cell.identity not in self.outcomes]
            if not unended or not self.claims.has(index):
                continue
            ended = self.claims.ended(index)
            for identity in unended:
                for event in self.readers[identity].new():
                    self._report(identity, event)
            for number, content in (ended or {}).items():
                self._end(part[number].identity, *content)
                task.advance(1)
        activities = [f"{self.cells[identity].name} {doing}" for identity, doing in self.activities.items()]
        task.advance(0, " · ".join(activities))

    def _report(self, identity: str, event: Event) -> None:
        cell = self.cells[identity]
        if event.kind == "started":
            self.reporter.say(cell.name)
            self.activities[identity] = ""
        elif event.kind == "said":
            complete = event.message.startswith((cell.name, WARNING))
            self.reporter.say(event.message if complete else f"{cell.name}: {event.message}")
        elif event.kind == "epoch":
            self.activities[identity] = f"epoch {event.epoch}/{cell.experiment.epochs}"
        elif event.kind == "evaluated":
            self.activities[identity] = "evaluated"

    def _end(self, identity: str, status: Any, folder: str | None, message: str) -> None:
        self.activities.pop(identity, None)
        cell = self.cells[identity]
        self.outcomes[identity] = Outcome(cell, status, Path(folder) if folder else None, message)
        if status == "skipped":
            self.reporter.say(f"{cell.name}: skipped, {message}")

    def _replace_dead(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Note which cell a dead process was running, and start a new process for the cells that are left."""
        for number, (share, child) in enumerate(zip(self.process_shares, list(children), strict=True)):
            lost = [] if child.poll() is None else self.claims.of(child.pid)
            for index in lost:
                self._lose(index, child)
            if lost:
                children[number] = self._start(share)
        if all(child.poll() is not None for child in children):  # after all of them, since one may have been replaced
            self._give_up(children[0].returncode)

    def _lose(self, index: int, child: subprocess.Popen[bytes]) -> None:
        """Fail the cell that a dead process was running. The other cells of its part are run by another one."""
        part = self.plan.parts[index]
        for cell in part:
            folder = current_folder(self.plan.folder(cell))
            own = [event for event in read_events(folder) if event.process == child.pid]
            if cell.identity in self.outcomes:
                continue
            if not own and (folder / RECORD).exists() and not self.force:
                self._end(cell.identity, "skipped", str(folder), "finished before; --force runs it again")
                continue
            if own and (own[-1].kind in ENDS or ((folder / RECORD).exists() and self.force)):
                status = "finished" if (folder / RECORD).exists() else "failed"
                self._end(cell.identity, status, str(folder), own[-1].message)
                continue
            if own and (folder / RECORD).exists():
                break  # another process finds it finished, and draws and removes what this one has not
            message = f"its process died (exit status {abs(child.returncode)}); was there enough memory?"
            self._end(cell.identity, "failed", str(folder), message)
            if own:
                with suppress(TrackingError):
                    append_event(folder, "failed", message=message)
            break
        ended = [number for number, cell in enumerate(part) if cell.identity in self.outcomes]
        if len(ended) < len(part):
            self.claims.begin_again(index, ended)

    def _give_up(self, status: int) -> None:
        """Fail the cells that are left, because no process can be started for them."""
        for index, part in enumerate(self.plan.parts):
            for cell in part if self.claims.ended(index) is None else ():
                if cell.identity not in self.outcomes:
                    self._end(cell.identity, "failed", None, f"no process could run it (exit status {abs(status)})")


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
