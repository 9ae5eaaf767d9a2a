"""The command `mddbench run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mddbench.cli.chosen import ChosenCells, keep_own_ablations, with_chosen_cells, write_plan_of
from mddbench.cli.cluster import ClusterFile, submit_plan
from mddbench.cli.ending import reported_interruptions
from mddbench.cli.logfile import logged
from mddbench.cli.options import CELLS, DATA, MACHINE, OUTPUT, Json, Tracking, TrackingUri, command_line
from mddbench.cli.planned import show_plan
from mddbench.cli.running import (
    Logging,
    device_of,
    report_unlogged,
    run_cells,
    set_up_process,
    store_uri,
    use_threads_or_warn,
)
from mddbench.cli.terminal import print_tables
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.execution.cells import Cell
    from mddbench.execution.options import RunOptions
    from mddbench.execution.runner import Outcome
    from mddbench.progress import Reporter
    from mddbench.report.build import Report

EXAMPLES = "Examples: mddbench run --all · mddbench run folder/rd4ad --data-root photos --seeds 0,1,2"
WithReport = Annotated[
    bool,
    typer.Option(
        help="Render the report of all runs in the store at the end.",
        rich_help_panel=OUTPUT,
    ),
]
JobCount = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of cells at once, which share the processors. Their records hold no times.",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of threads of a training.", show_default="one for each processor", rich_help_panel=MACHINE
    ),
]
On = Annotated[
    str,
    typer.Option(
        help="here, or slurm: make the plan and submit it; `collect` logs what has finished.",
        rich_help_panel=MACHINE,
    ),
]
SystemMetrics = Annotated[
    bool,
    typer.Option(
        "--system-metrics",
        help="Log processor, memory, disk and GPUs of this machine to MLflow, too.",
        rich_help_panel=OUTPUT,
    ),
]
FromCheckpoint = Annotated[
    Path | None,
    typer.Option(
        help="File of weights that the method's authors trained (RD4AD, UniAD). Nothing is trained.",
        rich_help_panel=DATA,
    ),
]


@with_chosen_cells
def run(
    chosen: ChosenCells,
    tracking: Tracking = "mlflow",
    tracking_uri: TrackingUri = None,
    system_metrics: SystemMetrics = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the plan and its estimated cost.",
            rich_help_panel=CELLS,
        ),
    ] = False,
    jobs: JobCount = 1,
    threads: Threads = None,
    on: On = "here",
    cluster: ClusterFile = None,
    from_checkpoint: FromCheckpoint = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Run finished cells again.",
            rich_help_panel=CELLS,
        ),
    ] = False,
    report: WithReport = True,
    as_json: Json = False,
) -> None:
    """Train, evaluate, log to MLflow and render the report.

    Finished cells are skipped, and interrupted ones are resumed. A failed cell does not stop the others.
    """  # noqa: DOC501 - the text is the command's help
    chosen.add_plugins()
    uri = store_uri(tracking, tracking_uri, chosen.out)
    logging = Logging(uri, chosen.suite_name, system_metrics=system_metrics)
    cells, progress = chosen.cells(), set_up_process(chosen.quiet)
    if on == "slurm":
        if force or from_checkpoint is not None or dry_run or jobs > 1 or threads is not None:
            raise InputError("--on slurm: goes without --force, --from-checkpoint, --dry-run, --jobs and --threads")
        submit_plan(write_plan_of(chosen, cells, progress), cluster, {}, uri)
        return
    if on != "here" or cluster is not None:
        raise InputError(f"--on {on}: expected here or slurm; --cluster FILE goes with --on slurm")
    use_threads_or_warn(threads, jobs, progress)
    options = chosen.options(device_of(chosen.device), force, from_checkpoint)
    if dry_run:
        show_plan(cells, options, progress, as_json)
        return
    _run(chosen.names, cells, options, jobs, logging, logged(progress, options.out), report, as_json)


def _run(
    names: list[str] | None,
    cells: list[Cell],
    options: RunOptions,
    jobs: int,
    logging: Logging,
    progress: Reporter,
    report: bool,
    as_json: bool,
) -> None:
    """Run all cells, keep the user's own ablations, and conclude. A report that could not be written is an error at once."""
    keep = partial(keep_own_ablations, names, options.out)
    with reported_interruptions(options.force):
        if report:
            _check_report_folder(options.out / "report")
        outcomes, unlogged = run_cells(cells, options, jobs, logging, progress, keep)
        uri = None if unlogged else logging.uri  # else the report comes from the records in the output folder
        render = partial(_render, outcomes, options, uri, progress) if report else _no_report
        _conclude(outcomes, render, as_json, unlogged, options.out)


def _no_report() -> None:
    """Stand for rendering where no report is wanted."""


def _check_report_folder(folder: Path) -> None:
    """Raise InputError before hours of training if the report cannot be written at their end."""
    from mddbench.report.manifest import Manifest

    if folder.is_dir():
        Manifest(folder).refuse_others()


def _conclude(
    outcomes: list[Outcome], render: Callable[[], Report | None], as_json: bool, unlogged: list[str], out: Path
) -> None:
    """Render the report, print its tables or the outcome of each cell, and name the failed cells (exit status 1)."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    report: Report | None = None
    try:
        report = render()
    finally:  # outcomes are printed even if the report fails
        if as_json:
            print(json.dumps([_as_dict(outcome) for outcome in outcomes], indent=1))
        elif report is not None:
            print_tables(report)
        for outcome in failed:
            print(f"mddbench: {outcome.cell.name} failed: {outcome.message}", file=sys.stderr)
        if failed:
            print(f"mddbench: {len(failed)} of {len(outcomes)} cells failed", file=sys.stderr)
        report_unlogged(unlogged, out)
    if failed or unlogged:
        raise typer.Exit(1)


def _render(outcomes: list[Outcome], options: RunOptions, uri: str | None, progress: Reporter) -> Report | None:
    """Write the report of all runs in the store, and return it; write nothing if all cells failed."""
    from mddbench.cli.entries import entries_from_folders, entries_from_store
    from mddbench.experiments.ablation import all_ablations
    from mddbench.report.build import PAGE, build_report
    from mddbench.report.write import write_report
    from mddbench.runs.addresses import store_address

    if all(outcome.status == "failed" for outcome in outcomes):
        return None
    folder = options.out / "report"
    if uri is None:
        entries = entries_from_folders([options.out], folder, progress.say)
    else:
        entries = entries_from_store(uri or None, options.out, folder, progress.say)
    report = build_report(entries, all_ablations(options.out, (), progress.say))
    for line in report.refused:
        progress.say(line)
    write_report(report, folder, progress, command=command_line())
    main = [file for file in report.texts if file.name == "main.md" or file.match("ablation-*.md")]
    progress.say("\n".join(f"Table      {folder / file}" for file in main))
    progress.say(f"Pictures   below {folder}, each as PNG and PDF")
    progress.say(f"Page       {folder / PAGE}: all tables, plots and heat maps in one file")
    if uri is not None:
        address, _ = store_address(uri or None, options.out)
        progress.say(f"MLflow     {address}")
        if not address.startswith("http"):  # the address of a server is that of its page
            installed = Path(sys.argv[0]).with_name("mlflow")
            command = installed if installed.exists() and installed.parent != Path() else "mlflow"
            progress.say(f"           open its page with: {command} ui --backend-store-uri {shlex.quote(address)}")
    progress.say(f"Everything {options.out}")
    return report


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    from mddbench.runs.records import RECORD

    record = outcome.folder / RECORD if outcome.folder else None
    return {
        "cell": outcome.cell.name,
        "experiment": outcome.cell.experiment.name,
        "seed": outcome.cell.seed,
        "status": outcome.status,
        "message": outcome.message,
        "record": str(record) if record and record.exists() else None,
    }
