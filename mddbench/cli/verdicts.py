"""The commands `mddbench verify` and `mddbench regress`: they compare metrics with published and with earlier ones."""

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
        bool, typer.Option("--categories", help="Compare each category, too, if the source has it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare measured means with the published ones of the same protocol; exit status 1 if one is off.

    A mean is reproduced if it is within the experiment's tolerance. It is within the spread if it is within two
    standard deviations over the seeds. Runs under another protocol than that of the experiment's file are left out and
    reported. If a source computes metrics by another convention, runs with kept maps are compared by it.
    """  # noqa: DOC501 - the text is the command's help
    from mddbench.cli.entries import records_of
    from mddbench.experiments.ablation import PREFIX
    from mddbench.experiments.catalogue import experiment_names, load_experiment
    from mddbench.verdicts.verify import verify as judge

    measured = records_of(records, tracking_uri, out)
    all_names = experiment_names()
    ran = {record.experiment for record in measured if not record.experiment.startswith(PREFIX)}
    chosen = [load_experiment(name) for name in names or all_names]
    if not names:
        chosen = [experiment for experiment in chosen if experiment.reported is not None or experiment.name in ran]
    judgements, left_out = judge(chosen, measured, categories, _rescored(chosen, measured, out))
    if as_json:
        content = {"judgements": [judgement.as_dict() for judgement in judgements], "left_out": left_out}
        print(json.dumps(content, indent=1))
    else:
        for experiment in chosen:
            own = [judgement for judgement in judgements if judgement.experiment == experiment.name]
            verdicts = {judgement.verdict for judgement in own}
            alike = len(verdicts) == 1 and verdicts & {"not run", "no published value"}
            print(f"{experiment.name}: {verdicts.pop()}" if alike else "\n".join(map(str, own)))
        for line in left_out:
            print(line, file=sys.stderr)
    off = [judgement for judgement in judgements if judgement.verdict == "off"]
    if off:
        print(f"mddbench: {len(off)} of {len(judgements)} metrics are off", file=sys.stderr)
        raise typer.Exit(1)


def _rescored(experiments: list[Experiment], records: list[Record], out: Path) -> Rescored:
    """Metrics by the conventions of the experiments' sources, from kept maps that the models of the records made."""
    conventions = {
        experiment.name: experiment.reported.convention
        for experiment in experiments
        if experiment.reported and experiment.reported.convention != "exact"
    }
    if not conventions or not any((out / "cells").glob("*/maps/index.json")):
        return {}
    from mddbench.execution.rescore import kept_cells, rescore
    from mddbench.progress import reporter
    from mddbench.runs.records import RECORD, read_record

    models = {record.identity: record.model_sha256 for record in records}
    rescored: dict[str, dict[str, Any]] = {}
    for folder in kept_cells(out):
        record = read_record(folder / RECORD)
        if record.experiment not in conventions or record.identity not in models:
            continue
        if models[record.identity] == record.model_sha256:
            convention = conventions[record.experiment]
            rescored[record.identity] = rescore(folder, (convention,), reporter(quiet=False)).values
        else:
            print(f"{folder}: its maps are of another model than the record's; left out", file=sys.stderr)
    return rescored


def regress(
    candidate: Annotated[Path, typer.Argument(help="Folder of new records: the output folder of a run, or an export.")],
    reference: Annotated[Path, typer.Argument(help="Folder of old records, such as results/.")],
    as_json: Json = False,
) -> None:
    """Compare metrics with earlier ones; exit status 1 if one is worse by more than seeds explain.

    Rows that only the reference has are reported and do not fail. docs/reports.md explains the tolerance.
    """  # noqa: DOC501 - the text is the command's help
    from mddbench.runs.records import read_records
    from mddbench.verdicts.regress import as_dict, compare, lines

    compared, lacking = compare(read_records(candidate), read_records(reference))
    if not compared:
        raise InputError(f"{candidate}: none of its rows is in {reference} ({', '.join(lacking[:3])}, ...)")
    if as_json:
        print(json.dumps({"rows": [as_dict(row) for row in compared], "not_run": lacking}, indent=1))
    else:
        print("\n".join(line for row in compared for line in lines(row)))
    if lacking:
        print(f"not in {candidate}: {len(lacking)} rows of {reference}", file=sys.stderr)
    failed = [row.name for row in compared if row.failed]
    if failed:
        print(
            f"mddbench: {len(failed)} of {len(compared)} rows are worse or not comparable: {', '.join(failed)}. If that is "
            f"wanted, say why in the change, replace the records in {reference} (`mddbench export`) and render their tables",
            file=sys.stderr,
        )
        raise typer.Exit(1)
