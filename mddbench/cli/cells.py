"""Commands for engines other than `run`: a plan in a file, and one part of it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mddbench.cli.chosen import ChosenCells, with_chosen_cells
from mddbench.cli.cluster import PlanFile, prepare_plan, requeued_at_signal
from mddbench.cli.ending import ReportedExit, reported_interruptions
from mddbench.cli.options import Quiet, TrackingUri, add_plugins
from mddbench.cli.running import device_of, set_up_process
from mddbench.errors import InputError
from mddbench.interruption import held

if TYPE_CHECKING:
    from mddbench.execution.frozen import FrozenPlan
    from mddbench.execution.worker import Worker

PLAN_EXAMPLES = "Example: mddbench plan --all --suite field --out grid > plan.json"
PREPARE_EXAMPLES = "Example: mddbench prepare plan.json"
CELL_EXAMPLES = 'Example: mddbench cell plan.json "$SLURM_ARRAY_TASK_ID"'
Index = Annotated[int | None, typer.Argument(min=0, help="Number of the part to run, from 0.", show_default=False)]


@with_chosen_cells
def plan(chosen: ChosenCells) -> None:
    """Check cells, prepare all that they need, and print them as a plan that `mddbench cell` runs part by part.

    Images are decoded and weights are fetched here, so that the parts need no network. Nothing is trained.
    """
    chosen.add_plugins()
    progress = set_up_process(chosen.quiet)
    frozen = chosen.frozen(chosen.cells(), progress)
    print(json.dumps(frozen.model_dump(mode="json"), indent=1))
    last = len(frozen.parts) - 1
    progress.say(
        f"{last + 1} parts with {len(frozen.cells())} cells: `mddbench cell PLAN 0` to `mddbench cell PLAN {last}`"
    )


def prepare(file: PlanFile, tracking_uri: TrackingUri = None, quiet: Quiet = False) -> None:
    """Make ready what the parts of a plan need: images, weights, and a tracking store that is up to date.

    `mddbench plan` and `mddbench submit` do so, too. Parts of a plan decode and download nothing.
    """
    from mddbench.execution.prepare import prepare_store

    progress = set_up_process(quiet)
    plan = prepare_plan(file, progress)
    progress.say(f"ready: {len(plan.cells())} cells, and the tracking store {prepare_store(plan, tracking_uri)}")


def cell(
    file: PlanFile,
    index: Index = None,
    device: Annotated[str | None, typer.Option(help="In place of the plan's device.", show_default=False)] = None,
    sharing: Annotated[
        int, typer.Option(min=1, help="Number of parts that run on this machine's device at the same time.")
    ] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads.", show_default="processors")] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Run finished cells again, each call from the start: not for a requeued job."),
    ] = False,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="Run the part although the code is not that of the plan.")
    ] = False,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="At SIGUSR2 put the job of Slurm back into the queue, while it advances.")
    ] = False,
    claims: Annotated[Path | None, typer.Option(hidden=True)] = None,
    quiet: Quiet = False,
) -> None:
    """Run one part of a plan: a cell, or cells that share a trained model.

    Finished cells are skipped and interrupted ones are resumed, so a part may be run any number of times. What it makes
    lies in the cells' folders. Nothing is decoded or downloaded. SIGUSR2 ends it, too.
    """  # noqa: DOC501 - the text is the command's help
    how = _How(device, sharing, threads, force, other_code, quiet or claims is not None)
    if claims is not None:
        _run_for_parent(_worker(file, None, how), claims)
    with (
        requeued_at_signal(file, index) if requeue and index is not None else nullcontext(),
        reported_interruptions(force, extra=("SIGUSR2",)),
    ):
        with held():  # a library that was half imported cannot be imported again
            worker = _worker(file, -1 if index is None else index, how)
        outcomes = worker.run(index or 0)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"mddbench: {outcome.cell.name} failed: {outcome.message}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _How:
    """The options of `mddbench cell` under their names."""

    device: str | None
    sharing: int
    threads: int | None
    force: bool
    other_code: bool
    quiet: bool


def _worker(file: Path, index: int | None, how: _How) -> Worker:
    """Read a plan and make ready to run its parts, of which `index` must be one. InputError if it is none."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from mddbench.execution.frozen import read_plan
    from mddbench.execution.worker import Worker, use_threads
    from mddbench.report.figures.heat_maps import draw_cell

    plan = read_plan(file)
    add_plugins([Path(folder) for folder in plan.plugins])
    _demand_part(file, plan, index, how.other_code)
    progress = set_up_process(how.quiet)
    use_threads(how.threads, how.sharing)
    options = plan.options.thawed(device_of(how.device or plan.device), how.sharing, how.force, prepared=True)
    return Worker(plan, options, progress, draw_cell)


def _demand_part(file: Path, plan: FrozenPlan, index: int | None, other_code: bool) -> None:
    """Raise InputError if the plan has no such part, or if it is one of other code."""
    from mddbench.runs.environment import source_digest

    if index is not None and not 0 <= index < len(plan.parts):
        found = "none" if index < 0 else index
        raise InputError(f"{file}: has the parts 0 to {len(plan.parts) - 1}, found {found}")
    if plan.source != source_digest() and not other_code:
        raise InputError(
            f"{file}: was made by other code (mddbench {plan.mddbench}, {plan.source}); make a new plan, or run the "
            "part all the same by --other-code"
        )


def _run_for_parent(worker: Worker, claims: Path) -> NoReturn:
    """Run what no other process has claimed, as one of several of `mddbench run --jobs`, which says what happens."""
    from mddbench.execution.claims import Claims
    from mddbench.execution.worker import end_with_parent
    from mddbench.interruption import Interruption, ignore_all_but_sigterm, interruptible

    ignore_all_but_sigterm()
    end_with_parent()
    try:
        with interruptible():
            worker.run_unclaimed(Claims(claims))
    except Interruption as interruption:
        raise ReportedExit(128 + interruption.number) from None
    raise ReportedExit(0)
