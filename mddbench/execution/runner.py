"""Runs cells one after another.

Finished cells are skipped, interrupted cells are resumed, and after a failure the next cell is run.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from mddbench.engine.cost import start_memory
from mddbench.engine.evaluate import Evaluation
from mddbench.errors import CellError, InputError, TrackingError
from mddbench.execution.cells import Cell, Prepared
from mddbench.execution.fit import Fit
from mddbench.execution.plan import Datasets, RunOptions, build_detector
from mddbench.interruption import closing
from mddbench.metrics.names import LABELS, MEAN
from mddbench.nn.weights import digest
from mddbench.progress import Reporter
from mddbench.runs.evidence import EVIDENCE, save_evidence
from mddbench.runs.facts import CellFacts, facts_of
from mddbench.runs.maps import MAPS
from mddbench.runs.merge import largest_mean_difference
from mddbench.runs.panels import PANELS, save_panels
from mddbench.runs.records import RECORD, EpochLog, Record, read_record, write_record
from mddbench.runs.store import kept_files
from mddbench.runs.tracking import CellRun, Tracker

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


class Runner:
    """Runs checked cells with one set of options.

    Attributes:
        options: Options of the run.
        datasets: The opened datasets.
        tracker: The tracking store.
        reporter: Shows the progress.
        draw: Draws the picture of a cell, which its run in the tracking store shows; None for no pictures.
    """

    def __init__(
        self, options: RunOptions, datasets: Datasets, tracker: Tracker, reporter: Reporter, draw: Draw | None = None
    ) -> None:
        """Prepare a run.

        Args:
            options: Options of the run.
            datasets: The opened datasets.
            tracker: The tracking store.
            reporter: Shows the progress.
            draw: Draws the picture of a cell; None for no pictures.
        """
        self.options, self.datasets, self.tracker, self.reporter = options, datasets, tracker, reporter
        self.draw = draw

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
        """
        experiment = cell.experiment
        options, dataset = self.options, self.datasets[experiment.dataset, experiment.image_size]
        detector = build_detector(experiment, dataset, options, cell.seed)
        return Prepared.of(cell, detector, dataset, options.sharing, options.compiling)

    def run_cell(self, cell: Cell) -> Outcome:
        """Run one cell. The outcome reports every failure.

        Args:
            cell: The checked cell.

        Returns:
            How it ended.

        Raises:
            BrokenPipeError: If nobody reads the messages any longer.
        """
        folder: Path | None = None
        try:
            prepared = self.prepare(cell)
            folder = prepared.folder(self.options.out)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock"), timeout=0):
                return self._run_locked(prepared, folder)
        except Timeout:
            return Outcome(cell, "failed", folder, f"another process is running it (it holds {folder}.lock)")
        except (CellError, InputError, TrackingError) as fault:
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

    def _run_locked(self, prepared: Prepared, folder: Path) -> Outcome:
        """Run one cell whose folder is locked."""
        finish_replacing(folder)
        finished = (folder / RECORD).exists()
        if finished and not self.options.force:
            return self._finished_before(prepared, folder)
        work_folder = replacement_folder(folder) if finished else folder
        if self.options.force:
            shutil.rmtree(work_folder, ignore_errors=True)
        work_folder.mkdir(parents=True, exist_ok=True)
        run = _Run(self.tracker, prepared.facts(), work_folder, self.reporter)
        try:
            record = self._train_and_evaluate(prepared, work_folder, run.epoch)
            if finished:
                finish_replacing(folder)
            run.finish(record, folder)
        except (KeyboardInterrupt, BrokenPipeError):
            run.stop("KILLED", "interrupted")
            raise
        except Exception as fault:
            run.stop("FAILED", str(fault) or type(fault).__name__)
            raise
        (folder / ERROR).unlink(missing_ok=True)
        return Outcome(prepared.cell, "finished", folder)

    def _finished_before(self, prepared: Prepared, folder: Path) -> Outcome:
        """Do the remaining work for a cell that has a record: log it, or keep its maps."""
        try:
            record = read_record(folder / RECORD)
        except InputError as fault:
            raise InputError(f"{fault}; --force runs the cell again") from None
        if not self.tracker.has(record.identity, folder):
            _Run(self.tracker, facts_of(record), folder, self.reporter).finish(record, folder)
        if self.options.keep_maps and not (folder / MAPS).exists():
            self._evaluate_again(prepared, folder, record)
            return Outcome(prepared.cell, "finished", folder)
        return Outcome(
            prepared.cell, "skipped", folder, f"finished before{self._missing(record)}; --force runs it again"
        )

    def _missing(self, record: Record) -> str:
        """Name what the options request and a finished record does not have."""
        missing = ["confidence intervals"] if self.options.resamples and not record.confidence else []
        missing += ["a test curve"] if self.options.test_curve and not record.test_curve else []
        return f", without {' and '.join(missing)}" if missing else ""

    def _train_and_evaluate(self, prepared: Prepared, folder: Path, on_epoch: Callable[[EpochLog], None]) -> Record:
        """Train and evaluate a cell, and write its model, panels, evidence and record."""
        fit = Fit(prepared, self.options, folder, self.reporter)
        start_memory(self.options.device)
        trained = fit.train(on_epoch)
        evaluation = fit.evaluate(trained)
        fit.save(trained)
        record = prepared.record(
            trained.history, evaluation, digest(trained.flat()), donor=trained.donor, test_curve=trained.test_curve
        )
        self._save(evaluation, folder)
        write_record(record, folder / RECORD)
        if self.draw is not None:
            self.draw(folder)
        fit.clean()
        return record

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
        self.reporter.say(f"{prepared.cell.name}: finished before; evaluating its model again to keep the maps")
        fit = Fit(prepared, replace(self.options, resamples=0), folder, self.reporter)
        evaluation = fit.evaluate(fit.load_finished())
        key, difference = largest_mean_difference(evaluation.metrics[MEAN], record)
        if difference > DRIFT:
            shutil.rmtree(folder / MAPS)
            raise CellError(
                f"evaluated again, {LABELS[key]} is {evaluation.metrics['mean'][key]:.4f} and in {folder / RECORD} "
                f"{record.value('mean', key):.4f}; --force runs the cell anew"
            )
        if difference > 0:
            self.reporter.say(
                f"{prepared.cell.name}: evaluated again, metrics differ by up to {difference:.1e}; the record stays"
            )
        self._save(evaluation, folder)
        if self.draw is not None:
            self.draw(folder)
        self.tracker.add(record.identity, kept_files(folder))

    @staticmethod
    def _save(evaluation: Evaluation, folder: Path) -> None:
        save_panels(evaluation.panels, folder / PANELS)
        save_evidence(evaluation.evidence, folder / EVIDENCE)


class _Run:
    """The run of a cell in the tracking store. If the store fails, the training continues.

    Attributes:
        tracker: The tracking store.
        facts: What the store gets before the training.
        reporter: Shows messages.
        run: The run; None if the store has not started it.
        logging: False after the store has failed.
    """

    def __init__(self, tracker: Tracker, facts: CellFacts, folder: Path, reporter: Reporter) -> None:
        """Start the run of the cell in a folder."""
        self.tracker, self.facts, self.reporter = tracker, facts, reporter
        self.run: CellRun | None = None
        self.logging = True
        try:
            self.run = tracker.start(facts, folder)
        except TrackingError as fault:
            self._failed(fault)

    def _failed(self, fault: TrackingError) -> None:
        self.logging = False
        self.reporter.say(f"{fault}; the training goes on, and its results are logged at the end")

    def epoch(self, log: EpochLog) -> None:
        """Log an epoch. After a failure no epoch is logged until the cell is finished."""
        if self.logging and self.run is not None:
            try:
                self.run.epoch(log)
            except TrackingError as fault:
                self._failed(fault)

    def finish(self, record: Record, folder: Path) -> None:
        """Log a finished cell. If the store fails, raise a TrackingError that says where the record is kept."""
        try:
            if self.run is None:
                self.run = self.tracker.start(self.facts, folder)
            self.run.finish(record, kept_files(folder))
        except TrackingError as fault:
            raise TrackingError(
                f"{fault}; its record is kept in {folder}, and the same command logs it once the store takes it"
            ) from None

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """Stop a run that did not finish. Signals do not interrupt this."""
        with closing():
            try:
                if self.run is not None:
                    self.run.stop(status, message)
            except TrackingError as fault:
                self.reporter.say(f"the run in the tracking store could not be closed: {fault}")


def replacement_folder(folder: Path) -> Path:
    """Return the folder in which a finished cell is run again.

    Until the end, the old results stay in place.

    Args:
        folder: Folder of the cell.

    Returns:
        A folder of the same name below `cells/.new`.
    """
    return folder.parent / ".new" / folder.name


def finish_replacing(folder: Path) -> None:
    """Move a finished cell that was run again to the folder of the old one.

    If the process is killed during this, the next call completes it.

    Args:
        folder: Folder of the cell.
    """
    old, new = _old_folder(folder), replacement_folder(folder)
    if (new / RECORD).exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            old.parent.mkdir(parents=True, exist_ok=True)
            folder.replace(old)
        new.replace(folder)
    elif old.exists() and not folder.exists():
        old.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def end_replacements(out: Path, say: Callable[[str], object]) -> None:
    """Clean up after interrupted runs with `--force`.

    Finished cells are moved to their folders. Unfinished ones are removed.

    Args:
        out: Output folder.
        say: Called with a message for each unfinished cell.
    """
    cells = out / "cells"
    names = {path.name for parent in (".new", ".old") for path in (cells / parent).glob("*")}
    for name in sorted(names):
        folder = cells / name
        with suppress(Timeout), FileLock(folder.with_suffix(".lock"), timeout=0):
            finish_replacing(folder)
            if replacement_folder(folder).exists():
                say(f"{replacement_folder(folder)}: an earlier --force ended here; what it had begun is removed")
                shutil.rmtree(replacement_folder(folder))


def _old_folder(folder: Path) -> Path:
    """Return the folder that holds the old results of a cell while it is replaced."""
    return folder.parent / ".old" / folder.name
