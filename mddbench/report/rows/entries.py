"""A record with the data that its run kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mddbench.runs.evidence import Evidence
from mddbench.runs.panels import Panel
from mddbench.runs.records import Record
from mddbench.runs.shift import Shifts


@dataclass(frozen=True)
class Entry:
    """A record, how to load what its run kept, and where it comes from.

    Attributes:
        record: The record of the cell.
        panels: Loads the image tiles that the run kept; an empty tuple if there are none.
        run: Id of the run in the store, or the record's file below its folder.
        evidence: Loads the scores and curves that the run kept; an empty tuple if there are none.
        link: Where a reader of the report finds the run; empty if that is not known.
        shifts: Loads the results on changed images; an empty tuple if there are none.
    """

    record: Record
    panels: Callable[[], tuple[Panel, ...]]
    run: str = ""
    evidence: Callable[[], tuple[Evidence, ...]] = tuple
    link: str = ""
    shifts: Callable[[], tuple[Shifts, ...]] = tuple
