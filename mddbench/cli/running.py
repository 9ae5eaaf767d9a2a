"""What the commands that run cells have in common: the device, the tracking store, and the run itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mddbench.errors import InputError

if TYPE_CHECKING:
    import torch

    from mddbench.execution.cells import Cell
    from mddbench.execution.plan import Datasets, RunOptions
    from mddbench.execution.runner import Outcome
    from mddbench.progress import Reporter
    from mddbench.runs.tracking import Tracker


@dataclass(frozen=True)
class Logging:
    """How the cells of a command are logged.

    Attributes:
        uri: URI of the store, '' for the default store, None for no store.
        suite: Name of the suite, which is part of the name of the MLflow experiment.
        are_trials: True if the cells are trials of a search, which are in no report.
    """

    uri: str | None
    suite: str
    are_trials: bool = False


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
) -> tuple[list[Outcome], Datasets]:
    """Check and run cells. An InputError is raised for more jobs than processors, before anything else happens.

    Args:
        cells: The cells.
        options: Options of the run.
        jobs: Number of cells at once.
        logging: How the cells are logged.
        progress: Shows the progress.
        when_checked: Called when the cells are found to be fit to run.

    Returns:
        The outcomes in the order of the cells, and the opened datasets.
    """
    from mddbench.execution.jobs import Jobs, chains, shares
    from mddbench.execution.plan import check_cells
    from mddbench.execution.runner import Runner, end_replacements
    from mddbench.report.figures.heat_maps import draw_cell
    from mddbench.runs.tracking import finally_closed

    shares(options.device, jobs)
    divided = shares(options.device, min(jobs, len(chains(cells))))
    datasets = check_cells(cells, options, progress)
    when_checked()
    end_replacements(options.out, progress.say)
    tracker = _tracker(logging, options.out, progress)
    with finally_closed(tracker, progress.say):
        if len(divided) > 1:
            return Jobs(options, tracker, progress, draw_cell, divided).run(cells), datasets
        return Runner(options, datasets, tracker, progress, draw_cell).run(cells), datasets


def _tracker(logging: Logging, out: Path, progress: Reporter) -> Tracker:
    from mddbench.runs.addresses import store_address
    from mddbench.runs.store import CELL, TRIAL, MlflowStore
    from mddbench.runs.tracking import MlflowTracker, NoTracker

    if logging.uri is None:
        return NoTracker()
    address, artifacts = store_address(logging.uri or None, out)
    progress.say(f"opening the tracking store {address}")
    command, kind = ("tune", TRIAL) if logging.are_trials else ("run", CELL)
    name = f"{command} {datetime.now():%Y-%m-%d %H.%M.%S}"
    return MlflowTracker(MlflowStore(address, artifacts), logging.suite, name, progress.say, kind)
