"""Prepares what the parts of a plan need where there is a network: decoded images, weights, and a store that is up to date."""

from __future__ import annotations

from pathlib import Path

import torch

from mddbench.execution.arranged import arranged
from mddbench.execution.cells import Cell, Prepared
from mddbench.execution.frozen import FrozenPlan
from mddbench.execution.models import build_detector
from mddbench.execution.plan import distinct_experiments, open_datasets
from mddbench.execution.runner import ChangedError
from mddbench.progress import Reporter
from mddbench.runs.addresses import store_address
from mddbench.runs.store import MlflowStore


def prepare(plan: FrozenPlan, reporter: Reporter) -> None:
    """Decode the images of a plan, fetch its weights, and compare the identities of its cells with the planned ones.

    Each model is built once, on the CPU. What is there already is not made again. An InputError is raised if data or
    weights cannot be used.

    Args:
        plan: The plan.
        reporter: Shows the progress.

    Raises:
        ChangedError: If a cell is not the one that was planned.
    """
    options = plan.options.thawed(torch.device("cpu"))
    cells = [Cell(cell.experiment, cell.seed) for cell in plan.cells()]
    datasets = open_datasets(distinct_experiments(cells), options, reporter)
    planned = {cell.identity for cell in plan.cells()}
    for experiment in distinct_experiments(cells):
        reporter.say(f"preparing {experiment.name}")
        dataset = datasets[experiment.dataset, experiment.image_size]
        own = [cell for cell in cells if cell.experiment == experiment]
        detector = build_detector(experiment, arranged(dataset, experiment, own[0].seed), options, own[0].seed)
        for cell in own:
            prepared = Prepared.of(cell, detector, arranged(dataset, experiment, cell.seed))
            if prepared.identity not in planned:
                raise ChangedError(prepared)


def prepare_store(plan: FrozenPlan, uri: str | None) -> str:
    """Open the tracking store of a plan, which makes or migrates its database.

    An InputError is raised if it cannot be opened.

    Args:
        plan: The plan.
        uri: URI of the store; None for the default one.

    Returns:
        Its address.
    """
    return MlflowStore(*store_address(uri, Path(plan.options.out))).uri
