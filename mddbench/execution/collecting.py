"""Collects the finished cells of a plan: what their folders hold goes into the tracking store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mddbench.errors import InputError
from mddbench.execution.frozen import FrozenPlan
from mddbench.execution.state import in_work
from mddbench.runs.facts import facts_of
from mddbench.runs.records import RECORD, read_record
from mddbench.runs.store import kept_files
from mddbench.runs.tracking import MlflowTracker, log_finished


@dataclass
class Collected:
    """What became of the cells of a plan.

    Attributes:
        logged: Number of cells that were logged.
        present: Number of cells that the store had.
        unfinished: Number of cells without a record, or that are being run.
        bad: A line for each record that cannot be used.
    """

    logged: int = 0
    present: int = 0
    unfinished: int = 0
    bad: list[str] = field(default_factory=list)


def collect_plan(plan: FrozenPlan, tracker: MlflowTracker, say: Callable[[str], object]) -> Collected:
    """Log the finished cells of a plan that the store does not have.

    A TrackingError is raised if the store fails. What was logged before stays.

    Args:
        plan: The plan.
        tracker: The store.
        say: Called with the name of each cell that was logged.

    Returns:
        What became of the cells.
    """
    result = Collected()
    for planned in plan.cells():
        folder = plan.folder(planned)
        if not (folder / RECORD).exists() or in_work(folder):
            result.unfinished += 1
        elif tracker.has(planned.identity, folder):
            result.present += 1
        else:
            try:
                record = read_record(folder / RECORD)
            except InputError as fault:
                result.bad.append(str(fault))
                continue
            if record.identity != planned.identity:
                result.bad.append(f"{folder / RECORD}: is the record of {record.identity}, expected {planned.identity}")
                continue
            log_finished(tracker, facts_of(record), record, kept_files(folder), folder)
            result.logged += 1
            say(planned.name)
    return result
