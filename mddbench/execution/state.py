"""The state of the cells of a plan, read from their folders alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mddbench.execution.fit import CHECKPOINT
from mddbench.execution.frozen import FrozenCell, FrozenPlan
from mddbench.runs.events import Event, read_events
from mddbench.runs.leases import standing
from mddbench.runs.panels import PANELS, PICTURE
from mddbench.runs.records import RECORD

Word = Literal["finished", "running", "queued", "held", "failed", "interrupted", "lost", "waiting"]
WORDS: tuple[Word, ...] = ("finished", "running", "queued", "held", "failed", "interrupted", "lost", "waiting")
"""All states in the order of a summary.

lost: it had begun, and no process runs it any more. queued and held: so says the cluster's queue.
"""


@dataclass(frozen=True)
class CellState:
    """The state of a cell.

    Attributes:
        index: Number of its part in the plan, from 0.
        cell: The cell.
        state: Its state.
        epochs: Number of epochs that ended.
        last: Its last event; None if there is none.
        note: What a cluster says of it, '' if nothing.
    """

    index: int
    cell: FrozenCell
    state: Word
    epochs: int
    last: Event | None
    note: str = ""


def states(plan: FrozenPlan) -> list[CellState]:
    """Read the states of all cells of a plan.

    A record counts more than events: a cell that has one is finished.

    Args:
        plan: The plan.

    Returns:
        The states in the order of the plan.
    """
    return [_state(index, cell, plan.folder(cell)) for index, part in enumerate(plan.parts) for cell in part]


def _state(index: int, cell: FrozenCell, folder: Path) -> CellState:
    events = read_events(folder)
    last = events[-1] if events else None
    starts = [number for number, event in enumerate(events) if event.kind == "started"]
    epochs = max((event.epoch for event in events[starts[-1] if starts else 0 :]), default=0)
    return CellState(index, cell, _word(folder, last), epochs, last)


def _word(folder: Path, last: Event | None) -> Word:
    if (folder / RECORD).exists():
        return "finished"
    if in_work(folder):
        return "running"
    if last is None:
        return "waiting"
    if last.kind in ("failed", "interrupted"):
        return "failed" if last.kind == "failed" else "interrupted"
    return "lost"


def in_work(folder: Path) -> bool:
    """Check whether a living process runs a cell, on whatever machine.

    Args:
        folder: Folder of the cell.

    Returns:
        True if a process holds the cell's lease.
    """
    return standing(folder).state == "held"


def is_untidy(folder: Path) -> bool:
    """Check whether a killed process has left a finished cell with its checkpoint, or without its picture.

    Args:
        folder: Folder of the cell.

    Returns:
        True if the part of the cell should be run once more, which tidies it.
    """
    pictured = (folder / PICTURE).exists() or not (folder / PANELS).exists()
    return any(folder.glob(f"{Path(CHECKPOINT).stem}*.pt")) or not pictured
