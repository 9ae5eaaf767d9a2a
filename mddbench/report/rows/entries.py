"""Where a report's records come from, and what their runs kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

from mddbench.errors import InputError, TrackingError
from mddbench.runs.evidence import EVIDENCE, Evidence, load_evidence
from mddbench.runs.panels import PANELS, Panel, load_panels
from mddbench.runs.records import Record, read_record, record_files

Value = TypeVar("Value")


@dataclass(frozen=True)
class Entry:
    """A record, how to load what its run kept, and where it comes from.

    Attributes:
        record: The record of the cell.
        panels: Loads the image tiles that the run kept; an empty tuple if there are none.
        run: Id of the run in the store, or the record's file below its folder.
        evidence: Loads the scores and curves that the run kept; an empty tuple if there are none.
        link: Where a reader of the report finds the run; empty if that is not known.
    """

    record: Record
    panels: Callable[[], tuple[Panel, ...]]
    run: str = ""
    evidence: Callable[[], tuple[Evidence, ...]] = tuple
    link: str = ""


class Kept(Generic[Value]):
    """What a run kept, loaded when it is first needed.

    Attributes:
        passing: Called with a line if the data cannot be used; the run then counts as one that kept nothing. Without it,
            loading raises InputError.
        run: Start of that line: the name of the run.
    """

    def __init__(
        self, load: Callable[[], tuple[Value, ...]], passing: Callable[[str], object] | None = None, run: str = ""
    ) -> None:
        self.load: Callable[[], tuple[Value, ...]] = cache(load)
        self.passing, self.run = passing, run

    def __call__(self) -> tuple[Value, ...]:
        try:
            return self.load()
        except (InputError, TrackingError) as fault:
            if self.passing is None:
                raise
            self.passing(f"{self.run}pictures left out: {fault}")
            self.load = tuple
            return ()


def entries_from_folder(
    folder: Path, report: Path | None = None, passing: Callable[[str], object] | None = None
) -> list[Entry]:
    """Entries from the records below a folder: an export, or a run's output folder with what its cells kept.

    report: the folder from which the records are linked; passing: told of each record, and of what a run kept, that cannot be
    used, which is then left out. Raises InputError for one if nobody is told.
    """
    entries = []
    for file in record_files(folder):
        try:
            record = read_record(file)
        except InputError as fault:
            if passing is None:
                raise
            passing(f"left out: {fault}")
            continue
        panels, evidence = Kept(partial(_panels, file), passing), Kept(partial(_evidence, file), passing)
        link = relative_link(file, report) if report else ""
        entries.append(Entry(record, panels, file.relative_to(folder).as_posix(), evidence, link))
    return entries


def relative_link(file: Path, report: Path) -> str:
    """A link from a page in the report's folder to a file."""
    return quote(Path(os.path.relpath(file.resolve(), report.resolve())).as_posix())


def _panels(record: Path) -> tuple[Panel, ...]:
    file = record.with_name(PANELS)
    return load_panels(file) if file.exists() else ()


def _evidence(record: Path) -> tuple[Evidence, ...]:
    file = record.with_name(EVIDENCE)
    return load_evidence(file) if file.exists() else ()
