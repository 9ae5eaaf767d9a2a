"""The command `mddbench checklist`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mddbench.cli.options import OUT, Out, TrackingUri


def checklist(
    records: Annotated[
        Path | None, typer.Option(help="Read records from a folder instead of MLflow.", show_default="the store")
    ] = None,
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Answer the items of a conference's checklist from records, as Markdown: settings, spread, compute, licences.

    Compute has the attempts that failed or were interrupted, too, if the output folder of the runs is at hand.
    """
    from mddbench.cli.entries import records_of
    from mddbench.verdicts.checklist import checklist as answers

    print(answers(records_of(records, tracking_uri, out), sorted((out / "cells").glob("*"))))
