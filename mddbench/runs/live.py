"""Logs cells to a tracking store while they run, from the events in their folders, in a thread of its own.

A training never waits for the store. What a slow, full, locked, dead or hung store does not take while a cell runs is logged
when the cell has finished, when all have, or by a later command.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mddbench.errors import InputError, TrackingError
from mddbench.runs.events import Event, EventReader, current_folder
from mddbench.runs.facts import facts_of
from mddbench.runs.records import RECORD, read_record
from mddbench.runs.store import kept_files
from mddbench.runs.tracking import CellRun, MlflowTracker

INTERVAL = 0.2
"""Seconds between two looks at the folders."""
TELLING = 5.0
"""Seconds without an answer after which the user is told what is waited for."""
PATIENCE = {True: 30.0, False: 180.0}
"""Seconds without an answer of a server, or of a local database, after which it is given up at the end of a run."""
ENDING = 10.0
"""The same after an interruption."""
MOST_FAULTS = 3
"""After this many cells that the store did not take, the others are not tried."""


@dataclass
class Logged:
    """A cell that is logged.

    Attributes:
        name: Name of the cell.
        identity: Its identity.
        folder: Its folder.
        reader: Reads its events.
        run: Its run in the store while it is open.
        begun: True if this command has begun or finished it, so that an older run of the store is not its own.
        done: True if the store has its finished run.
        fault: Why the store did not take it, '' if it did.
        files_wanted: True if files were added to a cell that had finished before.
    """

    name: str
    identity: str
    folder: Path
    reader: EventReader = field(init=False)
    run: CellRun | None = None
    begun: bool = False
    done: bool = False
    fault: str = ""
    files_wanted: bool = False

    def __post_init__(self) -> None:
        """Begin after the events that are there."""
        self.reader = EventReader(self.folder)


class LiveLog:
    """The thread that logs cells.

    Attributes:
        cells: The cells.
        say: Called with a message for the user.
        fault: Why the store could not be opened, '' if it could.
        given_up: True if the store hangs.
    """

    def __init__(
        self, open_tracker: Callable[[], MlflowTracker], cells: Sequence[Logged], say: Callable[[str], object]
    ) -> None:
        """Start to log.

        Args:
            open_tracker: Opens the store. It is called in the thread.
            cells: The cells.
            say: Called with a message for the user.
        """
        self.cells, self.say, self.open_tracker = list(cells), say, open_tracker
        self.tracker: MlflowTracker | None = None
        self.fault, self.given_up = "", False
        self.last_answer = time.monotonic()
        self.stopping, self.completing = threading.Event(), True
        self.thread = threading.Thread(target=self._run, daemon=True, name="tracking")
        self.thread.start()

    def finish(self, interrupted: bool) -> list[str]:
        """Wait until all is logged that the store takes.

        An Interruption ends the waiting.

        Args:
            interrupted: True if the cells were interrupted, so that nothing more than their end is logged.

        Returns:
            A line for each cell that has a record and was not logged.
        """
        self.completing = not interrupted
        self.last_answer = time.monotonic()
        self.stopping.set()
        told = False
        while self.thread.is_alive():
            self.thread.join(0.1)
            waited = time.monotonic() - max(self.last_answer, self.tracker.store.answered if self.tracker else 0.0)
            if waited > TELLING and not told:
                self.say(f"waiting for the tracking store {self._address()}, which has not answered for {waited:.0f} s")
                told = True
            if waited > (ENDING if interrupted else self._patience()):
                self.given_up, self.fault = True, f"the tracking store {self._address()} does not answer"
                self.say(f"{self.fault}; given up after {waited:.0f} s")
                break
        missing = [cell for cell in self.cells if not cell.done and (cell.folder / RECORD).exists()]
        return [
            f"{cell.name} is not logged: {cell.fault or self.fault}" for cell in missing if cell.fault or self.fault
        ]

    def _address(self) -> str:
        return self.tracker.store.uri if self.tracker else "that is being opened"

    def _patience(self) -> float:
        return PATIENCE[self.tracker is not None and self.tracker.store.uri.startswith("http")]

    def _run(self) -> None:
        """Log until all cells have ended. This is the thread: what it raises would be lost."""
        try:
            self._log()
        except Exception as fault:  # noqa: BLE001 - a store may raise anything
            self.fault = (
                str(fault) if isinstance(fault, InputError | TrackingError) else f"{type(fault).__name__}: {fault}"
            )
            self.say(f"{self.fault}; the cells are run all the same")

    def _log(self) -> None:
        self.tracker = self.open_tracker()
        while not self.stopping.wait(INTERVAL):
            self._read_all()
        self._read_all()
        faults: list[str] = []
        for cell in self.cells if self.completing else []:
            if len(faults) >= MOST_FAULTS:
                cell.fault = cell.fault or faults[-1]
            elif not self._complete(cell):
                faults.append(cell.fault)
        for cell in self.cells:
            if cell.run is not None:
                self._stop(cell, "KILLED", "its process ended without a word")

    def _read_all(self) -> None:
        for cell in self.cells:
            for event in cell.reader.new():
                if not cell.fault or event.kind in ("started", "finished"):
                    self._handle(cell, event)

    def _handle(self, cell: Logged, event: Event) -> None:
        """Log one event. After a failure nothing is logged until the cell has finished."""
        assert self.tracker is not None
        try:
            if event.kind == "started" and (facts := event.cell_facts):
                cell.begun, cell.fault = True, ""
                cell.run = self.tracker.start(facts, current_folder(cell.folder))
            elif event.kind == "epoch" and event.log is not None and cell.run is not None:
                cell.run.epoch(event.log)
            elif event.kind == "finished":
                self._complete(cell)
            elif event.kind == "evaluated" and not cell.begun:
                cell.files_wanted = True
            elif event.kind in ("failed", "interrupted"):
                self._stop(cell, "FAILED" if event.kind == "failed" else "KILLED", event.message or "interrupted")
        except (TrackingError, InputError, OSError) as fault:
            cell.fault = str(fault)
            self.say(f"{cell.name}: {fault}; the training goes on, and its results are logged at the end")

    def _complete(self, cell: Logged) -> bool:
        """Log the record of a cell unless the store has it. Return False if the store did not take it."""
        assert self.tracker is not None
        if cell.done or not (cell.folder / RECORD).exists():
            return True
        try:
            if cell.begun or not self.tracker.has(cell.identity, cell.folder):
                record = read_record(cell.folder / RECORD)
                cell.run = cell.run or self.tracker.start(facts_of(record), cell.folder)
                cell.run.finish(record, kept_files(cell.folder))
            elif cell.files_wanted:
                self.tracker.add(cell.identity, kept_files(cell.folder))
        except (TrackingError, InputError, OSError) as fault:
            cell.fault = str(fault)
            if self.stopping.is_set():
                self._stop(cell, "FAILED", str(fault))
            return False
        cell.run, cell.done, cell.fault = None, True, ""
        return True

    def _stop(self, cell: Logged, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End the run of a cell that did not finish."""
        run, cell.run = cell.run, None
        try:
            if run is not None:
                run.stop(status, message)
        except TrackingError as fault:
            self.say(f"the run of {cell.name} in the tracking store could not be closed: {fault}")
