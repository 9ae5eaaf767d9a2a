"""Reads the finished runs for commands, from a store or from folders of records."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from mddbench.errors import InputError, TrackingError

if TYPE_CHECKING:
    from mddbench.experiments.ablation import Ablation
    from mddbench.report.rows.entries import Entry
    from mddbench.runs.records import Record
    from mddbench.runs.store import MlflowStore


Value = TypeVar("Value")
OnSkip = Callable[[str], object] | None
"""Called with a line about each piece of data that cannot be used and is left out. None: the first one is an error."""


def entries_from_folder(folder: Path, report: Path | None = None, on_skip: OnSkip = None) -> list[Entry]:
    """Read the records below a folder, with the data that lie beside them.

    Args:
        folder: An export, or the output folder of a run.
        report: Folder of the report, from which the records are linked; None for no links.
        on_skip: Called for each record, and for the data of a run, if they cannot be used.

    Returns:
        An entry for each record.

    Raises:
        InputError: If a record cannot be used and `on_skip` is None.
    """
    from mddbench.report.rows.entries import Entry
    from mddbench.runs.evidence import EVIDENCE, load_evidence
    from mddbench.runs.panels import PANELS, load_panels
    from mddbench.runs.records import read_record, record_files
    from mddbench.runs.shift import SHIFT, load_shifts

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
        shifts = loaded_once(partial(_if_there, load_shifts, file.with_name(SHIFT)), on_skip)
        link = relative_link(file, report) if report else ""
        entries.append(Entry(record, panels, file.relative_to(folder).as_posix(), evidence, link, shifts))
    return entries


def entries_from_folders(folders: list[Path], report: Path, on_skip: OnSkip = None) -> list[Entry]:
    """Read the records below several folders. The result does not depend on the order of the folders.

    Args:
        folders: Exports, or output folders of runs.
        report: Folder of the report, from which the records are linked.
        on_skip: Called for each record, and for the data of a run, if they cannot be used.

    Returns:
        An entry for each cell.

    Raises:
        InputError: If two records contradict each other, or if no record is left. If `on_skip` is None, also for the
            first record that cannot be used.
    """
    from mddbench.runs.merge import FoundRecord, in_fixed_order, merge

    pairs = ((folder, entry) for folder in folders for entry in entries_from_folder(folder, report, on_skip))
    entries = {str(folder / entry.run): entry for folder, entry in pairs}
    if not entries:
        raise InputError(f"{folders[0]}: no record there can be used; run the cells again, or give another folder")
    merged = merge(
        in_fixed_order([FoundRecord(entry.record, file, _kept_beside(file)) for file, entry in entries.items()])
    )
    if merged.conflicts:
        more = f" ({len(merged.conflicts) - 1} more conflicts)" if len(merged.conflicts) > 1 else ""
        raise InputError(f"{merged.conflicts[0]}{more}; leave one out: a table does not choose between two results")
    return [entries[record.source] for record in merged.kept]


def entries_from_store(tracking_uri: str | None, out: Path, report: Path, on_skip: OnSkip = None) -> list[Entry]:
    """Read every finished cell of a store, with the data that its run kept.

    Args:
        tracking_uri: The store; None for the default one.
        out: Output folder.
        report: Folder of the report, from which the runs are linked.
        on_skip: Called for each record, and for the data of a run, if they cannot be used.

    Returns:
        An entry for each cell.

    Raises:
        InputError: If the store holds no finished run. If `on_skip` is None, also for the first record that cannot be
            used.
    """
    from mddbench.report.rows.entries import Entry
    from mddbench.runs.store import existing_store

    store = existing_store(tracking_uri, out)
    entries = [
        Entry(
            record,
            loaded_once(partial(store.panels, run_id), on_skip, f"run {run_id}: "),
            run_id,
            loaded_once(partial(store.evidence, run_id), on_skip, f"run {run_id}: "),
            _link(store, run_id, report),
            loaded_once(partial(store.shifts, run_id), on_skip, f"run {run_id}: "),
        )
        for run_id, record in store.records(report_unusable=on_skip)
    ]
    if not entries:
        raise InputError(f"{store.uri}: no finished run there; `mddbench run --all` makes some")
    return entries


def loaded_once(
    load: Callable[[], tuple[Value, ...]], on_skip: OnSkip = None, run: str = ""
) -> Callable[[], tuple[Value, ...]]:
    """Return a function that loads the data of a run when they are first needed, and only once.

    Args:
        load: Loads the data.
        on_skip: Called if the data cannot be used. The run then counts as one that kept nothing.
        run: Start of the line for `on_skip`: the name of the run.

    Returns:
        The function. It raises InputError or TrackingError if the data cannot be used and `on_skip` is None.
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


def ablations_of(folders: list[Path], files: list[Path]) -> list[Ablation]:
    """Load the ablations of the package, of output folders and of files.

    Args:
        folders: Output folders.
        files: YAML files of ablations.

    Returns:
        The ablations.

    Raises:
        InputError: If two folders have different ablations of one name.
    """
    from mddbench.experiments.ablation import all_ablations

    by_name: dict[str, Ablation] = {}
    for folder in folders:
        for ablation in all_ablations(folder, files, partial(print, file=sys.stderr)):
            if by_name.setdefault(ablation.name, ablation) != ablation:
                raise InputError(
                    f"{folder}: its ablation '{ablation.name}' is not the one of the folders before; rename one"
                )
    return list(by_name.values())


def records_of(folder: Path | None, tracking_uri: str | None, out: Path) -> list[Record]:
    """Read the records of a folder, or else of a store. It is an InputError if there are none.

    Args:
        folder: Folder of records; None for the store.
        tracking_uri: The store; None for the default one.
        out: Output folder.

    Returns:
        The records.
    """
    from mddbench.runs.records import read_records

    return read_records(folder) if folder else [entry.record for entry in entries_from_store(tracking_uri, out, out)]


def relative_link(file: Path, report: Path) -> str:
    """Compute a link from the page of a report to a file.

    Args:
        file: The file.
        report: Folder of the report.

    Returns:
        The relative path of the file, with escapes as in a URL.
    """
    return quote(Path(os.path.relpath(file.resolve(), report.resolve())).as_posix())


def _kept_beside(record: str) -> frozenset[str]:
    """The names of the files for a report that lie beside a record."""
    from mddbench.runs.evidence import EVIDENCE
    from mddbench.runs.panels import PANELS
    from mddbench.runs.shift import SHIFT

    return frozenset(name for name in (PANELS, EVIDENCE, SHIFT) if Path(record).with_name(name).exists())


def _if_there(load: Callable[[Path], tuple[Value, ...]], file: Path) -> tuple[Value, ...]:
    return load(file) if file.exists() else ()


def _link(store: MlflowStore, run_id: str, report: Path) -> str:
    """The page of a run on a server, or else the file of its record."""
    page = store.page(run_id)
    file = None if page else store.record_file(run_id)
    return relative_link(file, report) if file else page
