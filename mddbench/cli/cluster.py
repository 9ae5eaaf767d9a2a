"""Commands for a plan that runs elsewhere: submit it to Slurm, see how it is doing, cancel it, and log what has finished."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mddbench.cli.ending import ReportedExit, reported_interruptions
from mddbench.cli.options import Json, TrackingUri, add_plugins
from mddbench.errors import InputError, TrackingError

if TYPE_CHECKING:
    from mddbench.execution.frozen import FrozenPlan
    from mddbench.execution.state import CellState
    from mddbench.progress import Reporter

SUBMIT_EXAMPLES = "Example: mddbench submit plan.json --cluster site.yaml --time 04:00:00"
PlanFile = Annotated[Path, typer.Argument(help="File of `mddbench plan`, or OUT/cells/plan.json.", show_default=False)]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="YAML file with `cluster:`, see docs/cluster.md.", show_default=False)
]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs of a task.", show_default="1")]
Cpus = Annotated[int | None, typer.Option(min=1, help="Processors of a task.", show_default="4")]
Memory = Annotated[str | None, typer.Option(help="Memory of a task, such as 32G.", show_default=False)]
Time = Annotated[str | None, typer.Option(help="Time limit of a task's turn, such as 04:00:00.", show_default=False)]
Partition = Annotated[str | None, typer.Option(help="Partition.", show_default=False)]
Account = Annotated[str | None, typer.Option(help="Account.", show_default=False)]
Constraint = Annotated[str | None, typer.Option(help="Features that the nodes must have.", show_default=False)]
Raw = Annotated[list[str] | None, typer.Option("--sbatch", help="A further option of sbatch; may be repeated.")]


def submit(
    file: PlanFile,
    cluster: ClusterFile = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    memory: Memory = None,
    time: Time = None,
    partition: Partition = None,
    account: Account = None,
    constraint: Constraint = None,
    sbatch: Raw = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Submit a plan to Slurm, as one array job of the parts that are not finished, running or in the queue.

    Before, what the parts need is made ready as by `mddbench prepare`. A tracking store that fails costs a line.
    """
    from mddbench.cli.running import set_up_process

    prepare_plan(file, set_up_process(quiet=True))
    changes = {
        "gpus": gpus,
        "cpus": cpus,
        "memory": memory,
        "time": time,
        "partition": partition,
        "account": account,
        "constraint": constraint,
        "options": tuple(sbatch or ()),
    }
    submit_plan(file, cluster, changes, tracking_uri or "")


def prepare_plan(file: Path, progress: Reporter) -> FrozenPlan:
    """Make ready what the parts of a plan need, except the tracking store.

    Args:
        file: File of the plan.
        progress: Shows the progress.

    Returns:
        The plan.
    """
    from mddbench.execution.frozen import read_plan
    from mddbench.execution.prepare import prepare

    plan = read_plan(file)
    add_plugins([Path(folder) for folder in plan.plugins])
    prepare(plan, progress)
    return plan


def submit_plan(file: Path, cluster: Path | None, changes: dict[str, Any], uri: str | None) -> None:
    """Submit a plan to Slurm, and say what was submitted. A tracking store that cannot be opened costs a line.

    Args:
        file: File of the plan.
        cluster: YAML file with what each task gets; None for the defaults.
        changes: Setting of a task -> value; None to leave it.
        uri: URI of the tracking store, which is made or migrated; '' for the default one, None for no store.
    """
    from mddbench.execution.frozen import read_plan
    from mddbench.execution.prepare import prepare_store
    from mddbench.execution.slurm import read_cluster
    from mddbench.execution.slurm import submit as submit_to_slurm

    plan = read_plan(file)
    try:
        if uri is not None:
            prepare_store(plan, uri or None)
    except (InputError, TrackingError, OSError) as fault:
        print(f"mddbench: {fault}; the parts are run all the same", file=sys.stderr)
    number, indices = submit_to_slurm(plan, file, read_cluster(cluster, changes))
    print(number)
    if not number:
        print("nothing to do: all parts are finished, running or in the queue", file=sys.stderr)
        return
    print(f"{len(indices)} parts submitted; `mddbench status {file}` says how they are doing", file=sys.stderr)


def cancel(file: PlanFile) -> None:
    """Cancel the jobs of a plan. What they have done is kept, and `mddbench submit` goes on."""
    from mddbench.execution.frozen import read_plan
    from mddbench.execution.slurm import cancel as cancel_jobs

    for task in cancel_jobs(read_plan(file)):
        print(task)


def status(file: PlanFile, as_json: Json = False) -> None:
    """Say how the cells of a plan are doing: from their folders, and from Slurm's queue where it was submitted there.

    lost means that a cell had begun and that no process runs it any more: run its part again.
    """
    from mddbench.execution.frozen import read_plan
    from mddbench.execution.queued import with_queue
    from mddbench.execution.state import WORDS, states

    plan = read_plan(file)
    found = with_queue(plan, states(plan))
    if as_json:
        print(json.dumps([_as_dict(each) for each in found], indent=1))
        return
    counts = Counter(each.state for each in found)
    for each in found:
        if each.state != "finished":
            print(_line(each))
    print(", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word]))


def collect(file: PlanFile, tracking_uri: TrackingUri = None) -> None:
    """Log the finished cells of a plan to MLflow. Cells that the store has are left as they are."""
    from mddbench.execution.collecting import collect_plan
    from mddbench.execution.frozen import read_plan
    from mddbench.runs.addresses import store_address
    from mddbench.runs.store import CELL, TRIAL, MlflowStore
    from mddbench.runs.tracking import MlflowTracker

    plan = read_plan(file)
    store = MlflowStore(*store_address(tracking_uri, Path(plan.options.out)))
    kind = TRIAL if plan.trials else CELL
    tracker = MlflowTracker(store, plan.suite, f"collect of {file.name}", kind=kind)
    with reported_interruptions(force=False):
        tracker.end_abandoned()
        collected = collect_plan(plan, tracker, print)
    print(
        f"{collected.logged} logged, {collected.present} already there, {collected.unfinished} not finished",
        file=sys.stderr,
    )
    for line in collected.bad:
        print(f"mddbench: {line}", file=sys.stderr)
    if collected.bad:
        raise typer.Exit(1)


@contextmanager
def requeued_at_signal(file: Path, index: int) -> Iterator[None]:
    """Put the job of Slurm back into the queue if SIGUSR2 ends the `with` block, as long as the part advances.

    Args:
        file: File of the plan.
        index: Number of the part.

    Yields:
        Nothing. The part is run inside the block.

    Raises:
        ReportedExit: Whenever the block ends with one. The exit status is 1 if the part is given up.
    """
    try:
        yield
    except ReportedExit as end:
        if end.code == 128 + signal.SIGUSR2:
            from mddbench.execution.frozen import read_plan
            from mddbench.execution.slurm import put_back

            reason = put_back(read_plan(file), index)
            print(f"mddbench: {reason or 'put back into the queue'}", file=sys.stderr, flush=True)
            if reason:
                raise ReportedExit(1) from None
        raise


def _line(state: CellState) -> str:
    last = state.last
    details = [f"epoch {state.epochs} of {state.cell.experiment.epochs}"] if state.epochs else []
    if last is not None:
        ago = (datetime.now(timezone.utc) - last.when).total_seconds()
        details += [f"{last.kind} {ago:.0f} s ago on {last.host}"]
        details += [f"job {last.job}"] if last.job else []
        details += [last.message] if last.message else []
    details += [state.note] if state.note else []
    return f"{state.index:>5}  {state.state:<11}  {state.cell.name}" + (f"  ({'; '.join(details)})" if details else "")


def _as_dict(state: CellState) -> dict[str, object]:
    return {
        "part": state.index,
        "cell": state.cell.name,
        "identity": state.cell.identity,
        "folder": state.cell.folder,
        "state": state.state,
        "epochs": state.epochs,
        "note": state.note,
        "last": None
        if state.last is None
        else state.last.model_dump(mode="json", exclude_defaults=True, exclude={"facts"}),
    }
