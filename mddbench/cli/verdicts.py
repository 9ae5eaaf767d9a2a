"""`mddbench verify` and `regress`: measured metrics beside published ones, and beside those of before."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mddbench.cli.options import OUT, Json, Out, TrackingUri
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.experiments.schema import Experiment
    from mddbench.runs.records import Record
    from mddbench.verdicts.verify import Rescored


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Experiments.", show_default="all that name published numbers, and all that were run"),
    ] = None,
    out: Out = OUT,
    tracking_uri: TrackingUri = None,
    records: Annotated[Path | None, typer.Option(help="Read records from a folder instead of MLflow.")] = None,
    categories: Annotated[
        bool, typer.Option("--categories", help="Each category, too, where the source has it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare measured means with the published ones of the same protocol; exit status 1 if one is off.

    Reproduced is what is as near as the experiment's tolerance, within the spread what is as near as two standard deviations
    over the seeds. Runs under another protocol than the experiment's file are left out, and told. Where a source counts by
    another convention and the output folder keeps the runs' maps, they are compared by that convention.
    """
    from mddbench.cli.entries import records_of
    from mddbench.experiments.ablation import PREFIX
    from mddbench.experiments.catalogue import experiment_names, load_experiment
    from mddbench.verdicts.verify import verify as judge

    found = records_of(records, tracking_uri, out)
    known = experiment_names()
    ran = {
        record.experiment for record in found if record.experiment in known and not record.experiment.startswith(PREFIX)
    }
    chosen = [load_experiment(name) for name in names or known]
    if not names:
        chosen = [one for one in chosen if one.reported is not None or one.name in ran]
    judgements, left_out = judge(chosen, found, categories, _rescored(chosen, found, out))
    if as_json:
        print(json.dumps({"judgements": [each.as_dict() for each in judgements], "left_out": left_out}, indent=1))
    else:
        for experiment in chosen:
            own = [each for each in judgements if each.experiment == experiment.name]
            verdicts = {each.verdict for each in own}
            alike = len(verdicts) == 1 and verdicts & {"not run", "no published value"}
            print(f"{experiment.name}: {verdicts.pop()}" if alike else "\n".join(map(str, own)))
        for line in left_out:
            print(line, file=sys.stderr)
    off = [each for each in judgements if each.verdict == "off"]
    if off:
        print(f"mddbench: {len(off)} of {len(judgements)} metrics are off", file=sys.stderr)
        raise typer.Exit(1)


def _rescored(experiments: list[Experiment], records: list[Record], out: Path) -> Rescored:
    """What the kept maps below an output folder give by the conventions that the experiments' sources count by, of those of the
    records whose model the maps are of.
    """
    ways = {
        one.name: one.reported.convention for one in experiments if one.reported and one.reported.convention != "exact"
    }
    if not ways or not any((out / "cells").glob("*/maps/index.json")):
        return {}
    from mddbench.execution.rescore import kept_cells, rescore
    from mddbench.progress import reporter
    from mddbench.runs.records import RECORD, read_record

    models = {record.identity: record.model_sha256 for record in records}
    found: dict[str, dict[str, Any]] = {}
    for folder in kept_cells(out):
        record = read_record(folder / RECORD)
        if record.experiment not in ways or record.identity not in models:
            continue
        if models[record.identity] == record.model_sha256:
            found[record.identity] = rescore(folder, (ways[record.experiment],), reporter(quiet=False)).values
        else:
            print(f"{folder}: its maps are of another model than the record's; left out", file=sys.stderr)
    return found


def regress(
    candidate: Annotated[Path, typer.Argument(help="Folder of records: a run's output, or an export.")],
    reference: Annotated[Path, typer.Argument(help="The same, of what was: results/, say.")],
    as_json: Json = False,
) -> None:
    """Compare metrics with those of before; exit status 1 if one is worse by more than seeds explain.

    Rows that only the reference has are told and do not fail. How the tolerance is made: docs/reports.md.
    """
    from mddbench.runs.records import read_records
    from mddbench.verdicts.regress import as_dict, compare, lines

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
