"""Where a report's records come from, and what their runs kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mddbench.evidence import Evidence, load_evidence
from mddbench.panels import Panel, load_panels
from mddbench.records import Record, read_record, record_files


@dataclass(frozen=True)
class Entry:
    """A record, how to get what its run kept (nothing, if it kept nothing), and where it comes from.

    run: its run's id in the store, or its file; link: where a reader finds the run, '' if that is not known.
    """

    record: Record
    panels: Callable[[], tuple[Panel, ...]]
    run: str = ""
    evidence: Callable[[], tuple[Evidence, ...]] = tuple
    link: str = ""


def entries_from_folder(folder: Path) -> list[Entry]:
    """Entries from the records below a folder: an export, or a run's output folder with what its cells kept."""
    return [
        Entry(
            read_record(file),
            partial(_panels, file),
            str(file),
            partial(_evidence, file),
            file.resolve().as_uri(),
        )
        for file in record_files(folder)
    ]


def _panels(record: Path) -> tuple[Panel, ...]:
    file = record.with_name("panels.npz")
    return load_panels(file) if file.exists() else ()


def _evidence(record: Path) -> tuple[Evidence, ...]:
    file = record.with_name("scores.npz")
    return load_evidence(file) if file.exists() else ()
