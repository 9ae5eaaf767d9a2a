"""A process that runs parts of a plan: one that it is told, or all that no other process of `mddbench run --jobs` has claimed.

It gets the plan as a file. What it does is seen in the folders of the cells.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import torch

from mddbench.data.dataset import Dataset
from mddbench.errors import UnpreparedError
from mddbench.execution.cells import Cell
from mddbench.execution.claims import Claims
from mddbench.execution.frozen import FrozenPlan
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import Datasets, distinct_experiments, open_datasets
from mddbench.execution.runner import Draw, Outcome, Runner
from mddbench.progress import Reporter

PARENT_DEATH_SIGNAL = 1
"""Source: prctl(2), PR_SET_PDEATHSIG."""


class Worker:
    """Runs parts of a plan.

    Attributes:
        plan: The plan.
        reporter: Shows the progress.
        runner: Runs the cells.
    """

    def __init__(self, plan: FrozenPlan, options: RunOptions, reporter: Reporter, draw: Draw | None) -> None:
        """Prepare to run parts.

        Args:
            plan: The plan.
            options: Its options, with the device of this process.
            reporter: Shows the progress.
            draw: Draws the picture of a finished cell; None for no pictures.
        """
        self.plan, self.reporter = plan, reporter
        identities = frozenset(cell.identity for cell in plan.cells())
        self.runner = Runner(options, _LazyDatasets(plan, options, reporter), reporter, draw, identities)

    def run(self, index: int) -> list[Outcome]:
        """Run a part. A failed cell does not stop the others.

        Args:
            index: Number of the part.

        Returns:
            The outcomes of its cells.
        """
        return self.runner.run([Cell(cell.experiment, cell.seed) for cell in self.plan.parts[index]])

    def run_unclaimed(self, claims: Claims) -> None:
        """Run one part after another that no other process has claimed.

        Args:
            claims: The claims.
        """
        parent = os.getppid()
        for index, part in enumerate(self.plan.parts):
            if os.getppid() != parent:
                return
            if claims.claim(index):
                left = {number: cell for number, cell in enumerate(part) if number not in claims.without(index)}
                claims.end(index, {number: self._outcome(Cell(c.experiment, c.seed)) for number, c in left.items()})

    def _outcome(self, cell: Cell) -> Outcome:
        try:
            return self.runner.run_cell(cell)
        except UnpreparedError as fault:
            return Outcome(cell, "failed", None, str(fault))


class _LazyDatasets(Datasets):
    """The datasets of a plan, each opened when a cell first needs it."""

    def __init__(self, plan: FrozenPlan, options: RunOptions, reporter: Reporter) -> None:
        super().__init__()
        self.plan, self.options, self.reporter = plan, options, reporter

    def __missing__(self, key: tuple[str, int]) -> Dataset:
        cells = [Cell(cell.experiment, cell.seed) for cell in self.plan.cells()]
        experiments = [each for each in distinct_experiments(cells) if (each.dataset, each.image_size) == key]
        self.update(open_datasets(experiments, self.options, self.reporter))
        return self[key]


def end_with_parent() -> None:
    """Let the system send SIGTERM to this process when its parent ends, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def use_threads(threads: int | None, sharing: int) -> None:
    """Set the number of threads of this process.

    Args:
        threads: The number; None for the usual one. It is smaller if a job of Slurm was given fewer processors.
        sharing: Number of parts that run on this machine at the same time and share its processors.
    """
    given, usual = os.environ.get("SLURM_CPUS_PER_TASK", ""), torch.get_num_threads()
    fewer = min(usual, int(given)) if given.isdecimal() and int(given) else usual
    wanted = threads or max(1, fewer // sharing)
    if wanted != usual:
        torch.set_num_threads(wanted)
