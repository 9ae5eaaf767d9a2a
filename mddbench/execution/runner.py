"""Runs cells one after another.

Finished cells are skipped, interrupted cells are resumed, and after a failure the next cell is run. Whoever wants to know
how a cell is doing reads the events in its folder: `runs/events.py`.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from mddbench.engine.cost import start_memory
from mddbench.engine.evaluate import Evaluation
from mddbench.errors import CellError, InputError, UnpreparedError
from mddbench.execution.arranged import arranged
from mddbench.execution.cells import Cell, Prepared
from mddbench.execution.fit import Fit, Watch
from mddbench.execution.models import build_detector, demand_room
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import Datasets
from mddbench.execution.replacing import finish_replacing
from mddbench.interruption import closing
from mddbench.metrics.names import LABELS, MEAN
from mddbench.nn.tensor_files import digest
from mddbench.progress import Reporter, Telling
from mddbench.runs.events import CellEvents, replacement_folder
from mddbench.runs.evidence import EVIDENCE, save_evidence
from mddbench.runs.leases import Lease, leased
from mddbench.runs.maps import MAPS
from mddbench.runs.merge import largest_mean_difference
from mddbench.runs.panels import ANY, PANELS, PICTURE, load_panels, save_panels
from mddbench.runs.records import RECORD, Record, read_record, write_record

ERROR = "error.txt"
DRIFT = 1e-3
"""Greatest difference of a metric when a model is evaluated again.

A smaller difference can come from another machine. A greater one means that it is another model.
"""
Draw = Callable[[Path], object]
"""Function that gets the folder of a finished cell and draws its panels into the PICTURE there."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        cell: The cell.
        status: 'finished', 'skipped' or 'failed'.
        folder: Folder of the cell, None if it failed before that was known.
        message: Why it failed or was skipped, '' otherwise.
    """

    cell: Cell
    status: Literal["finished", "skipped", "failed"]
    folder: Path | None = None
    message: str = ""


class ChangedError(UnpreparedError):
    """The data or the weights of a cell are not those of its plan."""

    def __init__(self, prepared: Prepared) -> None:
        """Say which cell it is."""
        super().__init__(
            f"{prepared.cell.name} is {prepared.identity} here, which is not in the plan; its data or weights have "
            "changed, so make a new plan"
        )


class Runner:
    """Runs checked cells with one set of options.

    Attributes:
        options: Options of the run.
        datasets: The opened datasets.
        reporter: Shows the progress.
        draw: Draws the picture of a cell, which its run in the tracking store shows; None for no pictures.
        planned: Identities of the cells of a plan, which must be found here, too; empty without a plan.
    """

    def __init__(
        self,
        options: RunOptions,
        datasets: Datasets,
        reporter: Reporter,
        draw: Draw | None = None,
        planned: Collection[str] = (),
    ) -> None:
        """Prepare a run.

        Args:
            options: Options of the run.
            datasets: The opened datasets.
            reporter: Shows the progress.
            draw: Draws the picture of a cell; None for no pictures.
            planned: Identities of the cells of a plan, which must be found here, too; empty without a plan.
        """
        self.options, self.datasets, self.reporter, self.draw = options, datasets, reporter, draw
        self.planned = planned

    def run(self, cells: list[Cell]) -> list[Outcome]:
        """Run all cells. A failed cell does not stop the others.

        Args:
            cells: The checked cells.

        Returns:
            The outcomes, in the order of the cells.
        """
        outcomes = []
        for number, cell in enumerate(cells, 1):
            self.reporter.say(f"[{number}/{len(cells)}] {cell.name}")
            outcomes.append(self.run_cell(cell))
            if outcomes[-1].status == "skipped":
                self.reporter.say(f"{cell.name}: skipped, {outcomes[-1].message}")
        return outcomes

    def prepare(self, cell: Cell) -> Prepared:
        """Load the teacher of a cell and build its model.

        Args:
            cell: The cell.

        Returns:
            The prepared cell.

        Raises:
            ChangedError: If it is not the cell that was planned.
        """
        experiment = cell.experiment
        options = self.options
        dataset = arranged(self.datasets[experiment.dataset, experiment.image_size], experiment, cell.seed)
        detector = build_detector(experiment, dataset, options, cell.seed)
        prepared = Prepared.of(cell, detector, dataset, options.sharing, options.compiling, options.cuda_graphs)
        if self.planned and prepared.identity not in self.planned:
            raise ChangedError(prepared)
        if self.planned:  # it was checked where the plan was made, which may be another machine
            demand_room(experiment, detector, dataset, options)
        return prepared

    def run_cell(self, cell: Cell) -> Outcome:
        """Run one cell. The outcome reports every failure.

        Args:
            cell: The checked cell.

        Returns:
            How it ended.

        Raises:
            BrokenPipeError: If nobody reads the messages any longer.
            UnpreparedError: If it is not the cell that was planned, or if its images are not decoded.
        """
        folder: Path | None = None
        try:
            prepared = self.prepare(cell)
            folder = prepared.folder(self.options.out)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with leased(folder) as lease:
                return self._run_leased(prepared, folder, lease)
        except UnpreparedError:
            raise
        except (CellError, InputError) as fault:
            return Outcome(cell, "failed", folder, str(fault))
        except BrokenPipeError:  # nobody reads the messages any longer
            raise
        except Exception as fault:  # noqa: BLE001 - a method may raise anything, and the other cells must continue
            message = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no message'}"
            if folder is not None and folder.is_dir():
                with suppress(OSError):  # for example a full disk
                    (folder / ERROR).write_text(traceback.format_exc(), "utf-8", "backslashreplace")
                    message += f" (all of it in {folder / ERROR})"
            return Outcome(cell, "failed", folder, message)

    def _run_leased(self, prepared: Prepared, folder: Path, lease: Lease) -> Outcome:
        """Run one cell whose lease this process holds."""
        finish_replacing(folder)
        finished = (folder / RECORD).exists()
        if finished and not self.options.force:
            return self._finished_before(prepared, folder)
        work_folder = replacement_folder(folder) if finished else folder
        if self.options.force:
            shutil.rmtree(work_folder, ignore_errors=True)
        work_folder.mkdir(parents=True, exist_ok=True)
        events = CellEvents(work_folder, self.reporter.say)
        events.start(prepared.facts())
        try:
            self._train_and_evaluate(prepared, work_folder, events, lease)
            if finished:
                finish_replacing(folder)
                events.folder = folder
        except BaseException as fault:
            with closing():
                if not lease.is_lost:
                    stopped = isinstance(fault, KeyboardInterrupt | BrokenPipeError | SystemExit)
                    message = "" if stopped else str(fault) or type(fault).__name__
                    events.append("interrupted" if stopped else "failed", message)
            raise
        events.append("finished")
        (folder / ERROR).unlink(missing_ok=True)
        return Outcome(prepared.cell, "finished", folder)

    def _finished_before(self, prepared: Prepared, folder: Path) -> Outcome:
        """Do the remaining work for a cell that has a record: keep its maps or images if that is asked for."""
        try:
            record = read_record(folder / RECORD)
        except InputError as fault:
            raise InputError(f"{fault}; --force runs the cell again") from None
        if (self.options.keep_maps and not (folder / MAPS).exists()) or self._lacks_images(folder):
            self._evaluate_again(prepared, folder, record)
            CellEvents(folder, self.reporter.say).append("evaluated")
            return Outcome(prepared.cell, "finished", folder)
        self._tidy(
            Fit(prepared, self.options, folder, self.reporter)
        )  # a process may have been killed before it did so
        message = f"finished before{self._missing(record)}; --force runs it again"
        return Outcome(prepared.cell, "skipped", folder, message)

    def _lacks_images(self, folder: Path) -> bool:
        """True if every image is to be kept and a finished cell has only some."""
        if not self.options.all_images:
            return False
        return not (folder / PANELS).exists() or all(panel.role != ANY for panel in load_panels(folder / PANELS))

    def _missing(self, record: Record) -> str:
        """Name what the options request and a finished record does not have."""
        missing = ["confidence intervals"] if self.options.resamples and not record.confidence else []
        missing += ["a test curve"] if self.options.test_curve and not record.test_curve else []
        missing += ["latency"] if self.options.latency and "latency_ms" not in record.cost else []
        return f", without {' and '.join(missing)}" if missing else ""

    def _train_and_evaluate(self, prepared: Prepared, folder: Path, events: CellEvents, lease: Lease) -> None:
        """Train and evaluate a cell, and write its model, panels, evidence, and record."""
        reporter = Telling(self.reporter, partial(events.append, "said"))
        fit = Fit(prepared, self.options, folder, reporter, Watch(events, lease.demand))
        start_memory(self.options.device)
        trained = fit.train()
        evaluation = fit.evaluate(trained)
        events.append("evaluated")
        lease.demand()
        fit.save(trained)
        learned, measure = digest(trained.flat()), self.options.latency
        record = prepared.record(trained.history, evaluation, learned, trained.donor, trained.test_curve, measure)
        self._save(evaluation, folder)
        lease.demand()
        write_record(record, folder / RECORD)
        self._tidy(fit)

    def _tidy(self, fit: Fit) -> None:
        """Draw the picture of a cell that has a record, and remove what only its training needed."""
        if self.draw is not None and (fit.folder / PANELS).exists() and not (fit.folder / PICTURE).exists():
            self.draw(fit.folder)
        fit.clean()

    def _evaluate_again(self, prepared: Prepared, folder: Path, record: Record) -> None:
        """Evaluate the model of a finished cell once more to keep its maps. The record does not change.

        A CellError is also raised if the model's file does not exist.

        Args:
            prepared: The cell.
            folder: Folder of the cell.
            record: Record of the cell.

        Raises:
            CellError: If the metrics show that it is another model than the record's.
        """
        self.reporter.say(
            f"{prepared.cell.name}: finished before; evaluating its model again to keep the maps or images"
        )
        fit = Fit(prepared, replace(self.options, resamples=0), folder, self.reporter)
        evaluation = fit.evaluate(fit.load_finished())
        key, difference = largest_mean_difference(evaluation.metrics[MEAN], record)
        if difference > DRIFT:
            shutil.rmtree(folder / MAPS, ignore_errors=not self.options.keep_maps)
            raise CellError(
                f"evaluated again, {LABELS[key]} is {evaluation.metrics['mean'][key]:.4f} and in {folder / RECORD} "
                f"{record.value('mean', key):.4f}; --force runs the cell anew"
            )
        if difference > 0:
            self.reporter.say(
                f"{prepared.cell.name}: evaluated again, metrics differ by up to {difference:.1e}; the record stays"
            )
        self._save(evaluation, folder)
        self._tidy(fit)

    @staticmethod
    def _save(evaluation: Evaluation, folder: Path) -> None:
        (folder / PICTURE).unlink(missing_ok=True)
        save_panels(evaluation.panels, folder / PANELS)
        save_evidence(evaluation.evidence, folder / EVIDENCE)
