"""`mddbench report`, `export` and `import`: what becomes of finished runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mddbench.cli.options import OUT, Out, TrackingUri
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.records import Record
    from mddbench.report.build import Entry


def report(
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
    records: Annotated[
        Path | None, typer.Option(help="Read records from a folder (an export, or a run's output) instead of MLflow.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where the report goes.", show_default="<out>/report")] = None,
    ablation: Annotated[
        list[Path] | None, typer.Option(help="YAML file of an ablation of your own, to be drawn too; may be repeated.")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Rows under different protocols share a table, marked.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print which runs each row is made of, as CSV.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the tables there differ.")] = False,
) -> None:
    """Render tables, galleries, ablations and plots from finished runs."""
    from mddbench.ablation import all_ablations
    from mddbench.report.build import build_report, differences, entries_from_folder, write_report
    from mddbench.report.build import trace as trace_of

    folder = to or out / "report"
    entries = entries_from_folder(records) if records else entries_from_store(tracking_uri, out)
    if trace:
        print(trace_of(entries, allow_mixed), end="")
        return
    known = all_ablations(records or out, ablation or [], partial(print, file=sys.stderr))
    built = build_report(entries, known, allow_mixed)
    for line in built.refused:
        print(line, file=sys.stderr)
    if check:
        lines = differences(built, folder)
        for line in lines:
            print(line)
        if lines:
            print(
                f"mddbench: {folder} does not follow from the records; render it again without --check", file=sys.stderr
            )
            raise typer.Exit(1)
        return
    tables, pictures = write_report(built, folder)
    for text in built.main.values():
        print(text)
    for file in (*tables, *pictures):
        print(file, file=sys.stderr)


def export(
    to: Annotated[Path, typer.Argument(help="Folder for the records: <to>/<dataset>/<method>-seed<N>.json.")],
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the records of finished runs as JSON files, to be kept or committed."""
    from mddbench.records import write_record
    from mddbench.report.ablations import only_of_ablation
    from mddbench.store import existing_store

    written: set[Path] = set()
    for _, record in existing_store(tracking_uri, out).records():  # the newest takes the plain name, a variant never
        file = to / record.dataset / f"{record.method}-seed{record.seed}.json"
        if file in written or only_of_ablation(record):
            file = file.with_stem(f"{file.stem}-{record.protocol[:8]}")
        write_record(record, file)
        written.add(file)
        print(file)
    if not written:
        raise InputError("export: the store holds no finished run; `mddbench run --all` makes some")


def import_records(
    folder: Annotated[Path, typer.Argument(help="Folder with records, as `export` writes them or a run leaves them.")],
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Bring records made elsewhere into the store; those it already has are left as they are."""
    from mddbench.cells import facts_of
    from mddbench.records import read_records
    from mddbench.store import MlflowStore, tracking_place
    from mddbench.tracking import MlflowTracker

    records = {record.identity: record for record in read_records(folder)}
    tracker = MlflowTracker(MlflowStore(*tracking_place(tracking_uri, out)), "imported", f"import of {folder.name}")
    new = [record for record in records.values() if not tracker.has(record.identity)]
    for record in new:
        tracker.start(facts_of(record), None).finish(record, [])
        print(f"{record.method}/{record.dataset}/seed{record.seed}")
    tracker.close()
    print(f"{len(new)} imported, {len(records) - len(new)} already there", file=sys.stderr)


def records_of(folder: Path | None, tracking_uri: str | None, out: Path) -> list[Record]:
    """The records of a folder, or else of a store. Raises InputError if there is none."""
    from mddbench.records import read_records

    return read_records(folder) if folder else [entry.record for entry in entries_from_store(tracking_uri, out)]


def entries_from_store(tracking_uri: str | None, out: Path) -> list[Entry]:
    """Every finished cell in the store, with its panels. Raises InputError if there is none."""
    from mddbench.report.build import Entry
    from mddbench.store import existing_store

    store = existing_store(tracking_uri, out)
    entries = [Entry(record, partial(store.panels, run_id), run_id) for run_id, record in store.records()]
    if not entries:
        raise InputError(f"{store.uri}: no finished run there; `mddbench run --all` makes some")
    return entries
