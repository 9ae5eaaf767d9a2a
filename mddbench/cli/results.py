"""The commands `mddbench report`, `export` and `import`, for finished runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mddbench.cli.entries import ablations_of, entries_from_folders, entries_from_store
from mddbench.cli.options import OUT, Out, TrackingUri, command_line
from mddbench.cli.terminal import print_tables
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
    to: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="<out>/report")] = None,
    ablation: Annotated[
        list[Path] | None, typer.Option(help="YAML file of your own ablation to draw, too; may be repeated.")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Let rows under different protocols share a table, with marks.")
    ] = False,
    rank_published: Annotated[
        bool, typer.Option("--rank-published", help="Let a published number be the best of a column.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print the runs of each row as CSV.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the tables in the folder differ.")
    ] = False,
    tables_only: Annotated[bool, typer.Option("--tables", help="Write tables only: no pictures and no page.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write into a folder that holds other files, or changed ones.")
    ] = False,
    fill: Annotated[
        Path | None, typer.Option(help="Text file with marked tables (<!-- table: mini -->) to fill, or to check.")
    ] = None,
) -> None:
    """Render tables and figures from finished runs, and one page that holds all of them."""
    from mddbench.report.build import build_report
    from mddbench.report.build import trace as trace_of
    from mddbench.report.fill import fill_in

    folder = to or out / "report"
    warn = partial(print, file=sys.stderr)
    read = partial(entries_from_folders, records) if records else partial(entries_from_store, tracking_uri, out)
    entries = read(folder, warn)
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
        fill_in(fill, built.marked)
    files = _written(built, folder, tables_only, replace)
    print_tables(built)
    for file in files:
        print(file, file=sys.stderr)


def _written(built: Report, folder: Path, tables_only: bool, replace: bool) -> list[Path]:
    """Write a report, or only its tables, and return its files."""
    from mddbench.progress import reporter
    from mddbench.report.build import PAGE
    from mddbench.report.write import write_report, write_texts

    if tables_only:
        return write_texts(built, folder, replace)
    tables, pictures = write_report(built, folder, reporter(quiet=False), replace, command_line())
    return [*tables, *pictures, folder / PAGE]


def _check(built: Report, folder: Path, fill: Path | None) -> None:
    """Print the differences between stored tables and those of the report. The exit status is 1 if there are any."""
    from mddbench.report.build import differences
    from mddbench.report.fill import fill_differences

    lines = differences(built, folder) + (fill_differences(fill, built.marked) if fill else [])
    for line in lines:
        print(line)
    if lines:
        print(f"mddbench: {folder} does not follow from the records; render it again without --check", file=sys.stderr)
        raise typer.Exit(1)


def export(
    to: Annotated[Path, typer.Argument(help="Folder for the records: TO/DATASET/METHOD-seedN.json.")],
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the records of finished runs as JSON files, to keep or to commit them."""
    from mddbench.report.rows.studies import only_of_ablation
    from mddbench.runs.records import read_record, write_record
    from mddbench.runs.store import existing_store

    written: set[Path] = set()
    bad: list[str] = []
    for _, record in existing_store(tracking_uri, out).records(report_unusable=bad.append):
        # The newest record has the plain name. Variants and runs of weights from a file never have it.
        file = to / record.dataset / f"{record.method}-seed{record.seed}.json"
        if file in written or only_of_ablation(record) or record.card.trained_elsewhere:
            file = file.with_stem(f"{file.stem}-{record.protocol[:8]}")
        if file.exists():
            read_record(file)  # raises InputError, so that a file of another kind is not overwritten
        write_record(record, file)
        written.add(file)
        print(file)
    _report_bad(bad)
    if not written:
        raise InputError("export: the store holds no finished run; `mddbench run --all` makes some")


def import_records(
    folders: Annotated[list[Path], typer.Argument(help="Folders of records: exports, or output folders of runs.")],
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Keep the last of conflicting records, not the first.")
    ] = False,
) -> None:
    """Add records from elsewhere to the store, with the panels that lie beside them.

    Records that the store already has stay unchanged. Records of one cell with different metrics or weights are
    conflicts. Each one is reported, the record in the store or in the first folder is kept, and the exit status is 1.
    """  # noqa: DOC501 - the text is the command's help
    from mddbench.locks import lock_for
    from mddbench.runs.addresses import sqlite_file, store_address
    from mddbench.runs.facts import facts_of
    from mddbench.runs.merge import merge_into
    from mddbench.runs.store import MlflowStore
    from mddbench.runs.tracking import MlflowTracker, log_finished

    bad: list[str] = []
    incoming = [item for folder in folders for item in _records_in(folder, bad)]
    store = MlflowStore(*store_address(tracking_uri, out))
    cells = dict.fromkeys(item.record.identity for item in incoming)
    file = sqlite_file(store.uri)
    with lock_for("import", store.uri if file is None else str(file.resolve())):
        merged = merge_into([item for cell in cells for item in _stored(store, cell)], incoming, replace)
        tracker = MlflowTracker(store, "imported", f"import of {', '.join(folder.name for folder in folders)}")
        with interruptible():
            for item in merged.kept:
                files = [Path(item.source).with_name(name) for name in sorted(item.files)]
                log_finished(tracker, facts_of(item.record), item.record, files)
                print(f"{item.record.method}/{item.record.dataset}/seed{item.record.seed}")
    for conflict in merged.conflicts:
        print(f"conflict: {conflict}; kept {conflict.kept.source}", file=sys.stderr)
    print(f"{len(merged.kept)} imported, {len(cells) - len(merged.kept)} already there", file=sys.stderr)
    _report_bad(bad)
    if merged.conflicts and not replace:
        print(
            f"mddbench: {len(merged.conflicts)} in conflict; --replace keeps the last, not the first", file=sys.stderr
        )
        raise typer.Exit(1)


def _report_bad(lines: list[str]) -> None:
    """Print the lines about records that cannot be used. The exit status is 1 if there are any."""
    for line in lines:
        print(f"mddbench: {line}", file=sys.stderr)
    if lines:
        raise typer.Exit(1)


def _records_in(folder: Path, bad: list[str]) -> list[FoundRecord]:
    """The records of a folder, with their files for a store. `bad` gets a line for each record that cannot be used."""
    from mddbench.runs.merge import FoundRecord
    from mddbench.runs.records import RECORD, read_record, record_files
    from mddbench.runs.store import kept_files

    records = []
    for file in record_files(folder):
        beside = kept_files(file.parent) if file.name == RECORD else []
        try:
            records.append(FoundRecord(read_record(file), str(file), frozenset(path.name for path in beside)))
        except InputError as fault:
            bad.append(f"left out: {fault}")
    return records


def _stored(store: MlflowStore, cell: str) -> list[FoundRecord]:
    """The record of the newest run of a cell in a store, if there is one."""
    from mddbench.runs.merge import FoundRecord
    from mddbench.runs.store import KEPT

    records = store.records(identity=cell)
    return [FoundRecord(record, f"run {run} of {store.uri}", store.files(run) & {*KEPT}) for run, record in records]
