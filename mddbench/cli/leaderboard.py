"""The command `mddbench leaderboard`: one page from bundles of several submitters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mddbench.errors import InputError


def leaderboard(
    bundles: Annotated[list[Path], typer.Argument(help="Folders that `mddbench bundle` wrote.")],
    to: Annotated[Path, typer.Option(help="Folder for the page and its tables.")] = Path("leaderboard"),
) -> None:
    """Check bundles, and render the tables of all that are accepted, with a list of who submitted what.

    A bundle that is refused is left out and named, and the exit status is 1. Records of two bundles that contradict each
    other are an error: a table does not choose between two results.
    """  # noqa: DOC501 - the text is the command's help
    from mddbench.cli.entries import entries_from_folders
    from mddbench.progress import reporter
    from mddbench.report.build import PAGE, build_report
    from mddbench.report.manifest import Manifest
    from mddbench.report.write import write_report
    from mddbench.verdicts.bundle import RECORDS, bundle_faults, read_bundle
    from mddbench.verdicts.submissions import SUBMISSIONS, submissions

    if to.is_dir():
        Manifest(to).refuse_others()
    refused = {bundle: faults for bundle in bundles if (faults := bundle_faults(bundle))}
    for faults in refused.values():
        print("\n".join(faults), file=sys.stderr)
    accepted = [bundle for bundle in bundles if bundle not in refused]
    if not accepted:
        raise InputError(f"none of {len(bundles)} bundles is accepted; `mddbench bundle FOLDER --check` says why")
    entries = entries_from_folders([bundle / RECORDS for bundle in accepted], to)
    built = build_report(entries, ())
    built.texts[SUBMISSIONS] = submissions({bundle: read_bundle(bundle) for bundle in accepted})
    write_report(built, to, reporter(quiet=False))
    print(to / PAGE)
    if refused:
        print(f"mddbench: refused: {', '.join(map(str, refused))}", file=sys.stderr)
        raise typer.Exit(1)
