"""The command `mddbench bundle`: the records of a submission in one folder, and the check of such a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mddbench.cli.options import OUT, Out, TrackingUri


def bundle(
    folder: Annotated[Path, typer.Argument(help="The folder of the bundle.")],
    records: Annotated[
        list[Path] | None, typer.Option(help="Folder of records; may be repeated.", show_default="the store")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check a bundle of any origin instead of writing one.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who submits it, for the list of a leaderboard.")] = "",
    url: Annotated[str, typer.Option(help="Where more of it can be read.")] = "",
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Gather records, the packages that made them, tables and hashes in one folder, to submit or to archive them.

    --check accepts or refuses such a folder: files that were changed, records that are not valid or contradict each
    other, results on images that settings were chosen on. Records alone are judged: tables and packages are for
    readers. A bundle is checked when it is written, too.
    """  # noqa: DOC501 - the text is the command's help
    from mddbench.verdicts.bundle import bundle_faults, write_bundle

    if not check:
        from mddbench.cli.entries import entries_from_folders, entries_from_store
        from mddbench.report.build import build_report

        entries = entries_from_folders(records, folder) if records else entries_from_store(tracking_uri, out, folder)
        files = write_bundle([entry.record for entry in entries], build_report(entries, ()), folder, by, url)
        print(f"{len(files)} files", file=sys.stderr)
        print(folder)
    faults = bundle_faults(folder)
    for line in faults:
        print(line, file=sys.stderr)
    if faults:
        print(f"mddbench: {folder}: refused for {len(faults)} reasons", file=sys.stderr)
        raise typer.Exit(1)
    if check:
        print(f"{folder}: accepted")
