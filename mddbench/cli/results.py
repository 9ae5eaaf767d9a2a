"""`mddbench report`, `export` and `import`: what becomes of finished runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mddbench.cli.entries import ablations_of, entries_from_folders, entries_from_store
from mddbench.cli.options import OUT, Out, TrackingUri
from mddbench.errors import InputError
from mddbench.interruption import interruptible

if TYPE_CHECKING:
    from mddbench.report.build import Report
    from mddbench.runs.merge import FoundRecord
    from mddbench.runs.store import MlflowStore


def report(
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            help="Read records from a folder (an export, or a run's output) instead of MLflow; may be repeated."
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where the report goes.", show_default="<out>/report")] = None,
    ablation: Annotated[
        list[Path] | None, typer.Option(help="YAML file of an ablation of your own, to be drawn too; may be repeated.")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Rows under different protocols share a table, marked.")
    ] = False,
    rank_published: Annotated[
        bool, typer.Option("--rank-published", help="The best of a column may be a published number.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print which runs each row is made of, as CSV.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the tables there differ.")] = False,
    tables_only: Annotated[bool, typer.Option("--tables", help="Write tables only: no pictures and no page.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write into a folder that holds other files, or changed ones.")
    ] = False,
    fill: Annotated[
        Path | None, typer.Option(help="Text file whose marked tables (<!-- table: mini -->) are filled, or checked.")
    ] = None,
) -> None:
    """Render tables, galleries, ablations and plots from finished runs, and a page that holds all of them in one file."""
    from mddbench.report.build import build_report
    from mddbench.report.build import trace as trace_of
    from mddbench.report.fill import fill_in

    folder = to or out / "report"
    tell = partial(print, file=sys.stderr)
    stored = partial(entries_from_store, tracking_uri, out, folder, tell)
    entries = entries_from_folders(records, folder, tell) if records else stored()
    built = build_report(entries, ablations_of(records or [out], ablation or []), allow_mixed, rank_published)
    if trace:
        print(trace_of(built), end="")
        return
    for line in built.refused:
        print(line, file=sys.stderr)
    if check:
        _check(built, folder, fill)
        return
    if fill:
        fill_in(fill, built.main)
    files = _written(built, folder, tables_only, replace)
    for text in built.main.values():
        print(text)
    for file in files:
        print(file, file=sys.stderr)


def _written(built: Report, folder: Path, tables_only: bool, replace: bool) -> list[Path]:
    """Write a report, or its tables only; the files of it."""
    from mddbench.progress import reporter
    from mddbench.report.build import PAGE
    from mddbench.report.write import write_report, write_texts

    if tables_only:
        return write_texts(built, folder, replace)
    tables, pictures = write_report(built, folder, reporter(quiet=False), replace)
    return [*tables, *pictures, folder / PAGE]


def _check(built: Report, folder: Path, fill: Path | None) -> None:
    """Print how stored tables differ from those of the report; exit status 1 if they do."""
    from mddbench.report.build import differences
    from mddbench.report.fill import fill_differences

    lines = differences(built, folder) + (fill_differences(fill, built.main) if fill else [])
    for line in lines:
        print(line)
    if lines:
        print(f"mddbench: {folder} does not follow from the records; render it again without --check", file=sys.stderr)
        raise typer.Exit(1)


def export(
    to: Annotated[Path, typer.Argument(help="Folder for the records: <to>/<dataset>/<method>-seed<N>.json.")],
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the records of finished runs as JSON files, to be kept or committed."""
    from mddbench.report.rows.studies import only_of_ablation
    from mddbench.runs.records import read_record, write_record
    from mddbench.runs.store import existing_store

    written: set[Path] = set()
    bad: list[str] = []
    for _, record in existing_store(tracking_uri, out).records(report_unusable=bad.append):
        # the newest takes the plain name; a variant, or weights that others trained, never
        file = to / record.dataset / f"{record.method}-seed{record.seed}.json"
        if file in written or only_of_ablation(record) or record.card.trained_elsewhere:
            file = file.with_stem(f"{file.stem}-{record.protocol[:8]}")
        if file.exists():
            read_record(file)  # anything else there is somebody's, and the error says so
        write_record(record, file)
        written.add(file)
        print(file)
    _tell_bad(bad)
    if not written:
        raise InputError("export: the store holds no finished run; `mddbench run --all` makes some")


def import_records(
    folders: Annotated[list[Path], typer.Argument(help="Folders with records: exports, or runs' output folders.")],
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Of records in conflict keep the last, not the first.")
    ] = False,
) -> None:
    """Bring records made elsewhere into the store, with the panels that lie beside them.

    Those it already has are left as they are. Records of one cell with different metrics or weights are conflicts: each is
    told, what is in the store or in the first folder is kept, and the exit status is 1.
    """
    from mddbench.locks import lock_for
    from mddbench.runs.merge import merge_into
    from mddbench.runs.store import MlflowStore, sqlite_file, tracking_place
    from mddbench.runs.tracking import MlflowTracker, facts_of, finally_closed, log_finished

    bad: list[str] = []
    incoming = [one for folder in folders for one in _found(folder, bad)]
    store = MlflowStore(*tracking_place(tracking_uri, out))
    cells = dict.fromkeys(one.record.identity for one in incoming)
    file = sqlite_file(store.uri)
    with lock_for("import", store.uri if file is None else str(file.resolve())):
        merged = merge_into([one for cell in cells for one in _stored(store, cell)], incoming, replace)
        tracker = MlflowTracker(store, "imported", f"import of {', '.join(folder.name for folder in folders)}")
        with finally_closed(tracker, say=partial(print, file=sys.stderr)), interruptible():
            for one in merged.kept:
                files = [Path(one.place).with_name(name) for name in sorted(one.files)]
                log_finished(tracker, facts_of(one.record), one.record, files)
                print(f"{one.record.method}/{one.record.dataset}/seed{one.record.seed}")
    for conflict in merged.conflicts:
        print(f"conflict: {conflict}; kept {conflict.kept.place}", file=sys.stderr)
    print(f"{len(merged.kept)} imported, {len(cells) - len(merged.kept)} already there", file=sys.stderr)
    _tell_bad(bad)
    if merged.conflicts and not replace:
        print(
            f"mddbench: {len(merged.conflicts)} in conflict; --replace keeps the last, not the first", file=sys.stderr
        )
        raise typer.Exit(1)


def _tell_bad(lines: list[str]) -> None:
    """Name the records that cannot be used; exit status 1 if there are any."""
    for line in lines:
        print(f"mddbench: {line}", file=sys.stderr)
    if lines:
        raise typer.Exit(1)


def _found(folder: Path, bad: list[str]) -> list[FoundRecord]:
    """The records of a folder; with a cell's record the files that a store keeps beside it. Those that cannot be used are named
    in `bad`.
    """
    from mddbench.runs.merge import FoundRecord
    from mddbench.runs.records import RECORD, read_record, record_files
    from mddbench.runs.store import kept_files

    found = []
    for file in record_files(folder):
        beside = kept_files(file.parent) if file.name == RECORD else []
        try:
            found.append(FoundRecord(read_record(file), str(file), frozenset(each.name for each in beside)))
        except InputError as fault:
            bad.append(f"left out: {fault}")
    return found


def _stored(store: MlflowStore, cell: str) -> list[FoundRecord]:
    """What a store has of a cell: nothing, or its newest run's record."""
    from mddbench.runs.merge import FoundRecord
    from mddbench.runs.records import RECORD

    found = store.records(identity=cell)
    return [FoundRecord(record, f"run {run} of {store.uri}", store.files(run) - {RECORD}) for run, record in found]
