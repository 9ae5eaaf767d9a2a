"""The events of a cell: a file in its folder to which the process that runs it appends one line for each thing that happens.

A line is one JSON object, written by a single call at the end of the file. Each line begins with a line break, so one that a
full disk cut off spoils no later one. Whoever wants to know how a cell is doing reads this file. That needs no connection to
the process.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mddbench.errors import InputError, TrackingError
from mddbench.runs.bounds import LONGEST_TEXT, Natural
from mddbench.runs.facts import CellFacts
from mddbench.runs.records import EpochLog
from mddbench.settings import Strict, validated

EVENTS = "events.jsonl"
"""Name of the file in a cell's folder."""
Kind = Literal[
    "started", "said", "epoch", "look", "checkpoint", "evaluated", "finished", "skipped", "failed", "interrupted"
]
"""look: the model was evaluated on the test split in mid-training. checkpoint: a training stopped inside an epoch."""
ENDS: tuple[Kind, ...] = ("finished", "skipped", "failed", "interrupted")
"""With these a process leaves a cell."""


class Event(Strict):
    """Something that happened to a cell."""

    kind: Kind = Field(description="What happened.")
    time: str = Field(max_length=64, description="When, in ISO format, UTC.")
    host: str = Field("", max_length=LONGEST_TEXT, description="The machine.")
    process: Natural = Field(0, description="Number of the process.")
    job: str = Field("", max_length=LONGEST_TEXT, description="The job of a cluster, empty if there is none.")
    epoch: Natural = Field(0, description="Number of the epoch that ended or in which a checkpoint lies; else 0.")
    step: Natural = Field(0, description="Number of steps of that epoch that a checkpoint inside it holds.")
    log: EpochLog | None = Field(None, description="Measurements of the epoch that ended.")
    facts: dict[str, Any] | None = Field(None, description="What a tracking store gets when a cell starts.")
    message: str = Field("", max_length=LONGEST_TEXT, description="What was said, or why a cell ended.")

    @property
    def when(self) -> datetime:
        """The time in UTC; 1970 if it cannot be read."""
        try:
            time = datetime.fromisoformat(self.time)
        except ValueError:
            return datetime.fromtimestamp(0, timezone.utc)
        return time if time.tzinfo else time.replace(tzinfo=timezone.utc)

    @property
    def cell_facts(self) -> CellFacts | None:
        """The facts; None if there are none that can be used."""
        try:
            return CellFacts(**(self.facts or {}))
        except TypeError:
            return None


def append_event(folder: Path, kind: Kind, **content: Any) -> None:
    """Append an event to the file of a cell.

    Args:
        folder: Folder of the cell, which exists.
        kind: What happened.
        content: Further fields of `Event`.

    Raises:
        TrackingError: If the file cannot be written. A training goes on without it.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    event = Event(kind=kind, time=now, host=socket.gethostname(), process=os.getpid(), job=job_of_cluster(), **content)
    line = "\n" + json.dumps(event.model_dump(mode="json", exclude_defaults=True))
    try:
        handle = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as fault:
        raise TrackingError(f"{folder / EVENTS}: an event could not be written ({fault.strerror})") from None


def read_events(folder: Path) -> list[Event]:
    """Read the events of a cell, oldest first.

    Lines that cannot be read, such as one that a full disk cut off, are left out.

    Args:
        folder: Folder of the cell.

    Returns:
        The events; empty if there are none.
    """
    try:
        return parse_events((folder / EVENTS).read_bytes())
    except OSError:
        return []


def parse_events(content: bytes) -> list[Event]:
    """Read events from lines. Lines that cannot be read are left out.

    Args:
        content: The lines.

    Returns:
        The events.
    """
    events = []
    for line in content.decode(errors="replace").splitlines():
        try:
            events.append(validated(Event, json.loads(line), EVENTS))
        except (ValueError, RecursionError, InputError, TypeError):
            continue
    return events


def job_of_cluster() -> str:
    """Return the number of the job of a cluster that this process belongs to, such as '17_3' of Slurm; '' for none."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


class CellEvents:
    """Appends the events of one cell. If the file cannot be written, that is said once, and the training goes on.

    Attributes:
        folder: Folder of the cell, which may move.
        say: Called with a message for the user.
        failed: True after an event could not be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        """Prepare the events of the cell in a folder, which exists."""
        self.folder, self.say, self.failed = folder, say, False

    def append(self, kind: Kind, message: str = "", **content: Any) -> None:
        """Append an event.

        Args:
            kind: What happened.
            message: What was said, or why the cell ended.
            content: Further fields of `Event`.
        """
        try:
            append_event(self.folder, kind, message=message[:LONGEST_TEXT], **content)
        except TrackingError as fault:
            if not self.failed:
                self.say(f"{fault}; the training goes on")
            self.failed = True

    def start(self, facts: CellFacts) -> None:
        """Append that a process starts or resumes the cell."""
        self.append("started", facts=asdict(facts))

    def epoch(self, log: EpochLog) -> None:
        """Append the end of an epoch."""
        self.append("epoch", epoch=log.epoch, log=log)


def current_folder(folder: Path) -> Path:
    """Return the folder in which a cell is being run: that below `.new` while a finished one is run again.

    Args:
        folder: Folder of the cell.

    Returns:
        The folder that holds its latest events.
    """
    replacement = replacement_folder(folder)
    return replacement if (replacement / EVENTS).exists() else folder


def replacement_folder(folder: Path) -> Path:
    """Return the folder in which a finished cell is run again.

    Until the end, the old results stay in place.

    Args:
        folder: Folder of the cell.

    Returns:
        A folder of the same name below `cells/.new`.
    """
    return folder.parent / ".new" / folder.name


class EventReader:
    """Reads the events of a cell that are appended from now on.

    Attributes:
        folder: Folder of the cell. Its file is found below `.new`, too, and followed when it moves.
        read: Device and inode of a file -> number of bytes that were read.
    """

    def __init__(self, folder: Path) -> None:
        """Begin after the events that are there."""
        self.folder = folder
        self.read: dict[tuple[int, int], int] = {}
        self._new_bytes()

    def new(self) -> list[Event]:
        """Return the events that came since the last call, oldest first."""
        return parse_events(self._new_bytes())

    def _new_bytes(self) -> bytes:
        content = b""
        for folder in (self.folder, replacement_folder(self.folder)):
            try:
                with (folder / EVENTS).open("rb") as file:
                    status = os.fstat(file.fileno())
                    key = status.st_dev, status.st_ino
                    if status.st_size < self.read.get(key, 0):  # another file, to which the system gave the same number
                        self.read[key] = 0
                    file.seek(self.read.get(key, 0))
                    lines = _whole_lines(file.read())
            except OSError:
                continue
            self.read[key] = self.read.get(key, 0) + len(lines)
            content += lines
        return content


def _whole_lines(content: bytes) -> bytes:
    """Leave out the last line if it is not whole yet."""
    before, _, last = content.rpartition(b"\n")
    try:
        json.loads(last)
    except ValueError:
        return before
    return content
