"""Runs cells one after another: skips what is finished, resumes what was interrupted, goes on after a failure."""

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
from mddbench.metrics.names import LABELS
from mddbench.nn.weights import digest
from mddbench.progress import Reporter
from mddbench.runs.evidence import EVIDENCE, save_evidence
from mddbench.runs.maps import MAPS
from mddbench.runs.merge import farthest
from mddbench.runs.panels import PANELS, save_panels
from mddbench.runs.records import RECORD, EpochLog, Record, read_record, write_record
from mddbench.runs.store import kept_files
from mddbench.runs.tracking import CellFacts, CellRun, Tracker, facts_of

ERROR = "error.txt"
DRIFT = 1e-3
"""A model that is evaluated again is another one if a metric differs by more; by less if the machine is another."""
Draw = Callable[[Path], object]
"""Draws the panels in a finished cell's folder into its PICTURE."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; message says why it failed."""

    cell: Cell
    status: Literal["finished", "skipped", "failed"]
    folder: Path | None = None
    message: str = ""


class Runner:
    """Runs checked cells with one set of options. draw: makes the picture of a cell that its run in the store shows."""

    def __init__(
        self, options: RunOptions, datasets: Datasets, tracker: Tracker, reporter: Reporter, draw: Draw | None = None
    ) -> None:
        self.options, self.datasets, self.tracker, self.reporter = options, datasets, tracker, reporter
        self.draw = draw

    def run(self, cells: list[Cell]) -> list[Outcome]:
        """Run all cells; a failed one does not stop the others."""
        outcomes = []
        for number, cell in enumerate(cells, 1):
            self.reporter.say(f"[{number}/{len(cells)}] {cell.name}")
            outcomes.append(self.one(cell))
            if outcomes[-1].status == "skipped":
                self.reporter.say(f"{cell.name}: skipped, {outcomes[-1].message}")
        return outcomes

    def prepare(self, cell: Cell) -> Prepared:
        """Load the teacher and build the model of a cell."""
        experiment = cell.experiment
        options, dataset = self.options, self.datasets[experiment.dataset, experiment.image_size]
        detector = build_detector(experiment, dataset, options, cell.seed)
        return Prepared.of(cell, detector, dataset, options.sharing, options.compiling)

    def one(self, cell: Cell) -> Outcome:
        """Run one cell; whatever goes wrong is told in its outcome."""
        folder: Path | None = None
        try:
            prepared = self.prepare(cell)
            folder = prepared.folder(self.options.out)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock"), timeout=0):
                return self._cell(prepared, folder)
        except Timeout:
            return Outcome(cell, "failed", folder, f"another process is running it (it holds {folder}.lock)")
        except (CellError, InputError, TrackingError) as fault:
            return Outcome(cell, "failed", folder, str(fault))
        except BrokenPipeError:  # nobody reads any more what is said
            raise
        except Exception as fault:
            message = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no message'}"
            if folder is not None and folder.is_dir():
                with suppress(OSError):  # a full disk, say
                    (folder / ERROR).write_text(traceback.format_exc(), "utf-8", "backslashreplace")
                    message += f" (all of it in {folder / ERROR})"
            return Outcome(cell, "failed", folder, message)

    def _cell(self, prepared: Prepared, folder: Path) -> Outcome:
        finish_replacing(folder)
        finished = (folder / RECORD).exists()
        if finished and not self.options.force:
            return self._finished_before(prepared, folder)
        place = place_of_new(folder) if finished else folder
        if self.options.force:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        run = _Run(self.tracker, prepared.facts(), place, self.reporter)
        try:
            record = self._train_and_evaluate(prepared, place, run.epoch)
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
        """What is left to do for a cell that has a record: to log it, or to keep its maps."""
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
            prepared.cell, "skipped", folder, f"finished before{self._lacking(record)}; --force runs it again"
        )

    def _lacking(self, record: Record) -> str:
        """What is asked for that a finished record does not have."""
        lacks = ["confidence intervals"] if self.options.resamples and not record.confidence else []
        lacks += ["a test curve"] if self.options.test_curve and not record.test_curve else []
        return f", without {' and '.join(lacks)}" if lacks else ""

    def _train_and_evaluate(self, prepared: Prepared, folder: Path, on_epoch: Callable[[EpochLog], None]) -> Record:
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
        """Keep what a finished cell's evaluation did not: its model is evaluated once more, and the record stays.

        Raises CellError if the model is gone, or if it turns out to be another one than the record's.
        """
        self.reporter.say(f"{prepared.cell.name}: finished before; evaluating its model again to keep the maps")
        fit = Fit(prepared, replace(self.options, resamples=0), folder, self.reporter)
        evaluation = fit.evaluate(fit.again())
        key, off = farthest(evaluation.metrics["mean"], record)
        if off > DRIFT:
            shutil.rmtree(folder / MAPS)
            raise CellError(
                f"evaluated again, {LABELS[key]} is {evaluation.metrics['mean'][key]:.4f} and in {folder / RECORD} "
                f"{record.value('mean', key):.4f}; --force runs the cell anew"
            )
        if off > 0:
            self.reporter.say(
                f"{prepared.cell.name}: evaluated again, metrics differ by up to {off:.1e}; the record stays"
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
    """A cell's run in the tracking store, which may fail to take what it is told: the training goes on.

    place: the cell's folder. run: None while the store has not taken that it starts.
    """

    def __init__(self, tracker: Tracker, facts: CellFacts, place: Path, reporter: Reporter) -> None:
        self.tracker, self.facts, self.place, self.reporter = tracker, facts, place, reporter
        self.run: CellRun | None = None
        self.taken = True
        try:
            self.run = tracker.start(facts, place)
        except TrackingError as fault:
            self._failed(fault)

    def _failed(self, fault: TrackingError) -> None:
        self.taken = False
        self.reporter.say(f"{fault}; the work goes on, and what it gives is logged at its end")

    def epoch(self, log: EpochLog) -> None:
        """Log an epoch; after a failure no more of them until the cell is finished."""
        if self.taken and self.run is not None:
            try:
                self.run.epoch(log)
            except TrackingError as fault:
                self._failed(fault)

    def finish(self, record: Record, folder: Path) -> None:
        """Log a finished cell. Raises TrackingError, saying where the record is kept, if the store does not take it."""
        try:
            if self.run is None:
                self.run = self.tracker.start(self.facts, folder)
            self.run.finish(record, kept_files(folder))
        except TrackingError as fault:
            raise TrackingError(
                f"{fault}; its record is kept in {folder}, and the same command logs it once the store takes it"
            ) from None

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End a run that did not finish, whatever signals come meanwhile."""
        with closing():
            try:
                if self.run is not None:
                    self.run.stop(status, message)
            except TrackingError as fault:
                self.reporter.say(f"the run in the tracking store could not be closed: {fault}")


def place_of_new(folder: Path) -> Path:
    """Where a finished cell is run again: what it has stays where it is until then."""
    return folder.parent / ".new" / folder.name


def finish_replacing(folder: Path) -> None:
    """Put a finished cell that was run again in the place of the one before. Killed in between, it is called again."""
    old, new = _place_of_old(folder), place_of_new(folder)
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
    """End what an earlier `--force` left below an output folder: finished cells go to their places, others are removed."""
    cells = out / "cells"
    for name in sorted({path.name for aside in (".new", ".old") for path in (cells / aside).glob("*")}):
        folder = cells / name
        with suppress(Timeout), FileLock(folder.with_suffix(".lock"), timeout=0):
            finish_replacing(folder)
            if place_of_new(folder).exists():
                say(f"{place_of_new(folder)}: an earlier --force ended here; what it had begun is removed")
                shutil.rmtree(place_of_new(folder))


def _place_of_old(folder: Path) -> Path:
    return folder.parent / ".old" / folder.name
