"""`mddbench rescore`: metrics of finished runs computed again from kept maps."""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated

import typer

from mddbench.cli.options import OUT, Json, Out, Quiet
from mddbench.errors import InputError


def rescore(
    names: Annotated[
        list[str] | None, typer.Argument(help="Experiments.", show_default="all that kept their maps")
    ] = None,
    out: Out = OUT,
    convention: Annotated[
        list[str] | None, typer.Option(help="own, ader or rd4ad; may be repeated.", show_default="all")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute metrics again from maps that `run --keep-maps` kept: nothing is trained, no image is needed.

    own: as the record, on maps in half precision; ader, rd4ad: as other code counts (docs/metrics.md). They go beside the
    maps, into rescored.json; `verify` compares with them where a published number is of another convention. Maps whose own
    metrics are not the record's are refused.
    """
    from mddbench.execution.rescore import CONVENTION_NAMES, OWN, as_dict, as_rows, kept_cells
    from mddbench.execution.rescore import rescore as compute
    from mddbench.metrics.names import COLUMNS, LABELS
    from mddbench.progress import reporter
    from mddbench.runs.records import RECORD, read_record

    speaker = reporter(quiet)
    cells = [folder for folder in kept_cells(out) if not names or read_record(folder / RECORD).experiment in names]
    if not cells:
        raise InputError(
            f"{out}: no finished cell{' of those named' if names else ''} kept its maps; `mddbench run NAME --keep-maps`"
        )
    chosen = [compute(folder, convention or CONVENTION_NAMES, speaker) for folder in cells]
    if as_json:
        print(json.dumps([as_dict(one) for one in chosen], indent=1))
        return
    for one in chosen:
        print(f"{one.record.experiment} seed {one.record.seed}: means in percent")
        print(f"  {'':<8}{''.join(f'{LABELS[key]:>9}' for key in COLUMNS)}")
        for way, row in as_rows(one):
            print(f"  {way:<8}{''.join(f'{_percent(row[key]):>9}' for key in COLUMNS)}")
        if OWN in one.values:
            key, off = one.difference()
            told = f"{100 * off:+.4f} in {LABELS[key]}, where it is largest" if off else "nothing"
            print(f"  own minus record: {told}", file=sys.stderr)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"
