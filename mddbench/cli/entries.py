"""Where commands get finished runs from: a store, or folders of records."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.experiments.ablation import Ablation
    from mddbench.report.rows.entries import Entry
    from mddbench.runs.records import Record
    from mddbench.runs.store import MlflowStore


Passing = Callable[[str], object] | None
"""Told of what cannot be used and is left out; None if that is an error."""


def entries_from_folders(folders: list[Path], report: Path, passing: Passing = None) -> list[Entry]:
    """An entry for each cell in some folders, whatever their order. report: the folder from which their files are linked.

    Raises InputError if two records contradict each other, if no record is left, or for the first bad one if `passing` is None.
    """
    from mddbench.report.rows.entries import entries_from_folder
    from mddbench.runs.merge import Found, in_fixed_order, merge

    found_in = ((folder, entry) for folder in folders for entry in entries_from_folder(folder, report, passing))
    entries = {str(folder / entry.run): entry for folder, entry in found_in}
    if not entries:
        raise InputError(f"{folders[0]}: no record there can be used; run the cells again, or give another folder")
    found = [Found(entry.record, place, _kept_beside(place)) for place, entry in entries.items()]
    merged = merge(in_fixed_order(found))
    if merged.conflicts:
        more = f" ({len(merged.conflicts) - 1} more conflicts)" if len(merged.conflicts) > 1 else ""
        raise InputError(f"{merged.conflicts[0]}{more}; leave one out: a table does not choose between two results")
    return [entries[one.place] for one in merged.kept]


def _kept_beside(place: str) -> frozenset[str]:
    """What of a report's needs lies beside a record."""
    from mddbench.runs.evidence import EVIDENCE
    from mddbench.runs.panels import PANELS

    return frozenset(name for name in (PANELS, EVIDENCE) if Path(place).with_name(name).exists())


def ablations_of(folders: list[Path], files: list[Path]) -> list[Ablation]:
    """Ablations of the package, of output folders and of files. Raises InputError if two folders' own share a name."""
    from mddbench.experiments.ablation import all_ablations

    known: dict[str, Ablation] = {}
    for folder in folders:
        for one in all_ablations(folder, files, partial(print, file=sys.stderr)):
            if known.setdefault(one.name, one) != one:
                raise InputError(
                    f"{folder}: its ablation '{one.name}' is not the one of the folders before; rename one"
                )
    return list(known.values())


def records_of(folder: Path | None, tracking_uri: str | None, out: Path) -> list[Record]:
    """The records of a folder, or else of a store. Raises InputError if there is none."""
    from mddbench.runs.records import read_records

    return read_records(folder) if folder else [entry.record for entry in entries_from_store(tracking_uri, out, out)]


def entries_from_store(tracking_uri: str | None, out: Path, report: Path, passing: Passing = None) -> list[Entry]:
    """Every finished cell in the store, with what it kept. report: the folder from which runs are linked.

    Raises InputError if there is none, or for the first bad record if `passing` is None.
    """
    from mddbench.report.rows.entries import Entry, loaded_once
    from mddbench.runs.store import existing_store

    store = existing_store(tracking_uri, out)
    entries = [
        Entry(
            record,
            loaded_once(partial(store.panels, run_id), passing, f"run {run_id}: "),
            run_id,
            loaded_once(partial(store.evidence, run_id), passing, f"run {run_id}: "),
            _link(store, run_id, report),
        )
        for run_id, record in store.records(passing=passing)
    ]
    if not entries:
        raise InputError(f"{store.uri}: no finished run there; `mddbench run --all` makes some")
    return entries


def _link(store: MlflowStore, run_id: str, report: Path) -> str:
    """A run's page on a server, or else its record's file."""
    from mddbench.report.rows.entries import relative_link

    page = store.page(run_id)
    file = None if page else store.record_file(run_id)
    return relative_link(file, report) if file else page
