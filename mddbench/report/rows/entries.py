"""The records of a report, where they come from, and the data that their runs kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from mddbench.errors import InputError, TrackingError
from mddbench.runs.evidence import EVIDENCE, Evidence, load_evidence
from mddbench.runs.panels import PANELS, Panel, load_panels
from mddbench.runs.records import Record, read_record, record_files

Value = TypeVar("Value")
OnSkip = Callable[[str], object] | None
"""Called with a line about each piece of data that cannot be used and is left out. None: the first one is an InputError."""


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


def loaded_once(
    load: Callable[[], tuple[Value, ...]], on_skip: OnSkip = None, run: str = ""
) -> Callable[[], tuple[Value, ...]]:
    """Return a function that loads the data of a run when they are first needed, and only once.

    If they cannot be used, `on_skip` gets a line that begins with `run`, and the run counts as one that kept nothing.
    """

    @cache
    def loaded() -> tuple[Value, ...]:
        try:
            return load()
        except (InputError, TrackingError) as fault:
            if on_skip is None:
                raise
            on_skip(f"{run}pictures left out: {fault}")
            return ()

    return loaded


def entries_from_folder(folder: Path, report: Path | None = None, on_skip: OnSkip = None) -> list[Entry]:
    """Return an entry for each record below a folder, with the data of its run that lie beside it.

    Args:
        folder: An export, or the output folder of a run.
        report: Folder of the report, from which the records are linked; None for no links.
        on_skip: Called for each record, and for a run's data, if they cannot be used.

    Raises:
        InputError: If a record cannot be used and `on_skip` is None.
    """
    entries = []
    for file in record_files(folder):
        try:
            record = read_record(file)
        except InputError as fault:
            if on_skip is None:
                raise
            on_skip(f"left out: {fault}")
            continue
        panels = loaded_once(partial(_if_there, load_panels, file.with_name(PANELS)), on_skip)
        evidence = loaded_once(partial(_if_there, load_evidence, file.with_name(EVIDENCE)), on_skip)
        link = relative_link(file, report) if report else ""
        entries.append(Entry(record, panels, file.relative_to(folder).as_posix(), evidence, link))
    return entries


def relative_link(file: Path, report: Path) -> str:
    """Return a link from a page in the report's folder to a file."""
    return quote(Path(os.path.relpath(file.resolve(), report.resolve())).as_posix())


def _if_there(load: Callable[[Path], tuple[Value, ...]], file: Path) -> tuple[Value, ...]:
    return load(file) if file.exists() else ()
