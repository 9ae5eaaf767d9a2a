"""The command `mddbench rescore`: it computes metrics of finished runs again, from the maps that they kept."""

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
    """Compute metrics again from the maps that `run --keep-maps` kept, without training and without images.

    own: as in the record, but on maps in half precision. ader, rd4ad: as other code computes them (docs/metrics.md).
    The values are stored beside the maps in rescored.json. `verify` uses them if a published number has another
    convention. Maps are refused if their own metrics differ from the record.
    """  # noqa: DOC501 - the text is the command's help
    from mddbench.execution.rescore import CONVENTION_NAMES, OWN, as_dict, as_rows, kept_cells
    from mddbench.execution.rescore import rescore as compute
    from mddbench.metrics.names import COLUMNS, LABELS
    from mddbench.progress import reporter
    from mddbench.runs.records import RECORD, read_record

    progress = reporter(quiet)
    cells = [folder for folder in kept_cells(out) if not names or read_record(folder / RECORD).experiment in names]
    if not cells:
        raise InputError(
            f"{out}: no finished cell{' of those named' if names else ''} kept its maps; `mddbench run NAME --keep-maps`"
        )
    results = [compute(folder, convention or CONVENTION_NAMES, progress) for folder in cells]
    if as_json:
        print(json.dumps([as_dict(result) for result in results], indent=1))
        return
    for result in results:
        print(f"{result.record.experiment} seed {result.record.seed}: means in percent")
        print(f"  {'':<8}{''.join(f'{LABELS[key]:>9}' for key in COLUMNS)}")
        for name, metrics in as_rows(result):
            print(f"  {name:<8}{''.join(f'{_percent(metrics[key]):>9}' for key in COLUMNS)}")
        if OWN in result.values:
            key, largest = result.difference()
            words = f"{100 * largest:+.4f} in {LABELS[key]}, where it is largest" if largest else "nothing"
            print(f"  own minus record: {words}", file=sys.stderr)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"
