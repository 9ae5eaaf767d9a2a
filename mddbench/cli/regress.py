"""`mddbench regress`: fails if metrics are worse than they were."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mddbench.cli.options import Json
from mddbench.errors import InputError


def regress(
    candidate: Annotated[Path, typer.Argument(help="Folder of records: a run's output, or an export.")],
    reference: Annotated[Path, typer.Argument(help="The same, of what was: results/, say.")],
    as_json: Json = False,
) -> None:
    """Compare metrics with those of before; exit status 1 if one is worse by more than seeds explain.

    Rows that only the reference has are told and do not fail. How the tolerance is made: docs/protocol.md.
    """
    from mddbench.records import read_records
    from mddbench.report.regress import as_dict, compare, lines

    compared, lacking = compare(read_records(candidate), read_records(reference))
    if not compared:
        raise InputError(f"{candidate}: none of its rows is in {reference} ({', '.join(lacking[:3])}, ...)")
    if as_json:
        print(json.dumps({"rows": [as_dict(each) for each in compared], "not_run": lacking}, indent=1))
    else:
        print("\n".join(line for each in compared for line in lines(each)))
    if lacking:
        print(f"not in {candidate}: {len(lacking)} rows of {reference}", file=sys.stderr)
    failed = [each.name for each in compared if each.failed]
    if failed:
        print(
            f"mddbench: {len(failed)} of {len(compared)} rows are worse or not comparable: {', '.join(failed)}. If that is "
            f"wanted, say why in the change, replace the records in {reference} (`mddbench export`) and render their tables",
            file=sys.stderr,
        )
        raise typer.Exit(1)
