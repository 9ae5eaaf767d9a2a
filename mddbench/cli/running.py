"""What the commands that run cells have in common: the device, the tracking store, and the run itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mddbench.errors import InputError

if TYPE_CHECKING:
    import torch

    from mddbench.execution.cells import Cell
    from mddbench.execution.frozen import FrozenPlan
    from mddbench.execution.options import RunOptions
    from mddbench.execution.runner import Outcome
    from mddbench.progress import Reporter
    from mddbench.runs.tracking import MlflowTracker


@dataclass(frozen=True)
class Logging:
    """How the cells of a command are logged.

    Attributes:
        uri: URI of the store, '' for the default store, None for no store.
        suite: Name of the suite, which is part of the name of the MLflow experiment.
        are_trials: True if the cells are trials of a search, which are in no report.
        system_metrics: True to measure the machine, too.
    """

    uri: str | None
    suite: str
    are_trials: bool = False
    system_metrics: bool = False

    def __post_init__(self) -> None:
        """Check that the machine can be measured, if it is to be."""
        from mddbench.runs.system_metrics import demand_monitor

        if self.system_metrics:
            demand_monitor()


def store_uri(tracking: str, uri: str | None, out: Path) -> str | None:
    """Check the options of the tracking store. An impossible URI is an InputError, too.

    Args:
        tracking: 'mlflow' or 'none'.
        uri: URI of the store; None for the default store.
        out: Output folder.

    Returns:
        The URI of the store, '' for the default store, None for no store.

    Raises:
        InputError: If `tracking` is another word.
    """
    from mddbench.runs.addresses import store_address

    if tracking not in ("mlflow", "none"):
        raise InputError(f"--tracking {tracking}: expected mlflow or none")
    if tracking == "none":
        return None
    store_address(uri, out)
    return uri or ""


def set_up_process(quiet: bool) -> Reporter:
    """Make this process ready to train.

    Args:
        quiet: True to show no progress.

    Returns:
        What shows the progress.
    """
    from mddbench.machine import keep_freed_memory
    from mddbench.progress import reporter
    from mddbench.seeding import use_deterministic_algorithms

    use_deterministic_algorithms()
    keep_freed_memory()
    return reporter(quiet)


def use_threads_or_warn(threads: int | None, jobs: int, progress: Reporter) -> None:
    """Set the number of threads, and warn if several threads would wait for other work.

    Args:
        threads: The number; None for the usual one, one for each processor.
        jobs: Number of cells at once.
        progress: Shows the warning.

    Raises:
        InputError: If the number is given for several cells at once, which divide the processors among them.
    """
    import torch

    from mddbench.execution.worker import use_threads
    from mddbench.machine import busy_processors
    from mddbench.progress import WARNING

    if threads is not None and jobs > 1:
        raise InputError(f"--threads {threads}: goes without --jobs, whose cells divide the processors among them")
    use_threads(threads, 1)
    if busy := busy_processors(torch.get_num_threads()):
        progress.say(
            f"{WARNING}{busy}; several threads of a training then wait for one another, and it can take ten times as "
            "long; wait, or try --threads 1, which changes last bits of results"
        )


def device_of(name: str) -> torch.device:
    """Return the device for 'auto', 'cpu', 'cuda' or 'cuda:1'."""
    from mddbench.engine.device import choose_device

    return choose_device(name)


def run_cells(
    cells: list[Cell],
    options: RunOptions,
    jobs: int,
    logging: Logging,
    progress: Reporter,
    when_checked: Callable[[], object] = lambda: None,
) -> tuple[list[Outcome], list[str]]:
    """Check and run cells. An InputError is raised for more jobs than processors, before anything else happens.

    Args:
        cells: The cells.
        options: Options of the run.
        jobs: Number of cells at once.
        logging: How the cells are logged.
        progress: Shows the progress.
        when_checked: Called when the cells are found to be fit to run.

    Returns:
        The outcomes in the order of the cells, and a line for each finished cell that the store did not take.
    """
    from mddbench.execution.frozen import chains, freeze, write_plan
    from mddbench.execution.jobs import Jobs, shares
    from mddbench.execution.replacing import end_replacements
    from mddbench.execution.runner import Runner
    from mddbench.plugins import added_folders
    from mddbench.report.figures.heat_maps import draw_cell

    shares(options.device, jobs)
    divided = shares(options.device, min(jobs, len(chains(cells))))
    plan, datasets = freeze(cells, options, str(options.device), logging.suite, added_folders(), progress)
    plan = plan.model_copy(update={"trials": logging.are_trials})
    when_checked()
    if options.from_checkpoint is None:
        write_plan(plan, options.out)
    end_replacements(options.out, progress.say)
    with _logged(logging, plan, options.out, progress) as unlogged:
        if len(divided) > 1:
            outcomes = Jobs(plan, options.force, progress, divided).run(cells)
        else:
            outcomes = Runner(options, datasets, progress, draw_cell).run(cells)
    return outcomes, unlogged


@contextmanager
def _logged(logging: Logging, plan: FrozenPlan, out: Path, progress: Reporter) -> Iterator[list[str]]:
    """Log the cells that are run inside the `with` block, while they run.

    Args:
        logging: How the cells are logged.
        plan: The plan of the cells.
        out: Output folder.
        progress: Shows messages.

    Yields:
        A list that holds a line for each finished cell that the store did not take, when the block has ended.
    """
    from mddbench.interruption import closing
    from mddbench.runs.live import LiveLog, Logged

    unlogged: list[str] = []
    if logging.uri is None:
        yield unlogged
        return
    cells = [Logged(cell.name, cell.identity, out / cell.folder) for cell in plan.cells()]
    log = LiveLog(partial(_tracker, logging, out, progress), cells, progress.say)
    try:
        yield unlogged
        unlogged += log.finish(interrupted=False)
    except BaseException:
        with closing():
            log.finish(interrupted=True)
        raise


def _tracker(logging: Logging, out: Path, progress: Reporter) -> MlflowTracker:
    from mddbench.runs.addresses import store_address
    from mddbench.runs.store import CELL, TRIAL, MlflowStore
    from mddbench.runs.tracking import MlflowTracker

    address, artifacts = store_address(logging.uri or None, out)
    progress.say(f"opening the tracking store {address}")
    command, kind = ("tune", TRIAL) if logging.are_trials else ("run", CELL)
    name = f"{command} {datetime.now():%Y-%m-%d %H.%M.%S}"
    store = MlflowStore(address, artifacts)
    tracker = MlflowTracker(store, logging.suite, name, progress.say, kind, logging.system_metrics)
    tracker.end_abandoned()
    return tracker


def report_unlogged(unlogged: list[str], out: Path, again: str = " or the same command") -> None:
    """Print a line for each finished cell that the store did not take, and what to do.

    Args:
        unlogged: The lines.
        out: Output folder.
        again: What else than `collect` will log them.
    """
    from mddbench.execution.frozen import RUN_PLAN

    for line in unlogged:
        print(f"mddbench: {line}", file=sys.stderr)
    if unlogged:
        print(
            f"mddbench: {len(unlogged)} finished cells are not logged; their records are in {out}; "
            f"`mddbench collect {shlex.quote(str(out / RUN_PLAN))}`{again} will log them",
            file=sys.stderr,
        )
