"""Evaluates finished cells on changed test images, and keeps the results beside their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mddbench.data.changes import VERSION
from mddbench.engine.foreign import ALL_CATEGORIES
from mddbench.engine.shift import Judge, Point, score_changed
from mddbench.errors import CellError, InputError
from mddbench.execution.cells import Cell, Prepared
from mddbench.execution.fit import Fit
from mddbench.execution.grouping import model_of, per_model
from mddbench.execution.protocol import metric_engine
from mddbench.execution.runner import DRIFT, Runner
from mddbench.metrics.names import LABELS, MEAN, METRIC_VERSIONS
from mddbench.progress import WARNING, Reporter
from mddbench.runs.leases import leased
from mddbench.runs.merge import largest_mean_difference
from mddbench.runs.records import RECORD, Record, nullable, read_record
from mddbench.runs.shift import SHIFT, Shifts, load_shifts, write_shifts

NO_THRESHOLD = (
    "no threshold was set without test labels, so false alarms are not counted; for them run and shift the cell with "
    "--set calibration=0.2"
)


@dataclass(frozen=True)
class Shifted:
    """What became of a cell.

    Attributes:
        cell: The cell.
        status: 'shifted', 'unfinished' (it has no record) or 'failed'.
        record: Its record; None if there is none.
        shifts: Its results on changed images; None if there are none.
        folder: Its folder; None if that is not known.
        message: Why there are none; '' otherwise.
        identity: Its identity; '' if that is not known.
    """

    cell: Cell
    status: Literal["shifted", "unfinished", "failed"]
    record: Record | None = None
    shifts: Shifts | None = None
    folder: Path | None = None
    message: str = ""
    identity: str = ""


class Shifter:
    """Evaluates finished cells with one set of options.

    Attributes:
        runner: Prepares cells as a run does, so that a cell is found by its identity.
        points: The wanted changes and levels.
        reporter: Shows the progress.
    """

    def __init__(self, runner: Runner, points: Sequence[Point], reporter: Reporter) -> None:
        """Prepare.

        Args:
            runner: Prepares cells as a run does.
            points: The wanted changes and levels.
            reporter: Shows the progress.
        """
        self.runner, self.points, self.reporter = runner, tuple(points), reporter

    def shift(self, cell: Cell) -> Shifted:
        """Evaluate a cell at the points that its file does not have yet.

        Args:
            cell: The cell.

        Returns:
            What became of it. A failure does not stop other cells.
        """
        folder: Path | None = None
        try:
            prepared = self.runner.prepare(cell)
            folder = prepared.folder(self.runner.options.out)
            if not (folder / RECORD).exists():
                return Shifted(cell, "unfinished", folder=folder, identity=prepared.identity)
            with leased(folder):
                record = read_record(folder / RECORD)
                shifts = self._measure(prepared, record, folder)
        except (CellError, InputError) as fault:
            return Shifted(cell, "failed", folder=folder, message=str(fault))
        return Shifted(cell, "shifted", record, shifts, folder, identity=prepared.identity)

    def _measure(self, prepared: Prepared, record: Record, folder: Path) -> Shifts:
        """Measure what is missing. The file is written after each change and level, so an interruption loses one."""
        engine = metric_engine(prepared.cell.experiment, prepared.dataset)
        name, versions = prepared.cell.name, (VERSION, METRIC_VERSIONS[engine])
        shifts = self._earlier(record, folder, versions)
        if record.thresholds is None:
            self.reporter.say(f"{WARNING}{name}: {NO_THRESHOLD}")
        missing = [point for point in self.points if shifts is None or point not in shifts.points]
        todo: list[Point | None] = [*([None] if shifts is None else []), *missing]
        if not todo:
            assert shifts is not None
            return shifts
        detector, dataset = prepared.detector, prepared.dataset
        fit = Fit(prepared, self.runner.options, folder, self.reporter)
        states, names = fit.load_finished().states, model_of(fit.members)
        detector.eval()

        def before(category: str) -> None:
            if ALL_CATEGORIES not in states:
                detector.load_learned_state(states[names[category]])

        precision, size = prepared.cell.experiment.precision, per_model(fit.members)
        judge = Judge(engine, precision, record.thresholds, before, size)
        with self.reporter.task(f"shifting {name}", len(todo) * len(dataset.test)) as task:
            for point in todo:
                task.advance(0, "as they are" if point is None else f"{point[0]}, level {point[1]}")
                values = nullable(score_changed(detector, dataset, point, judge, task.advance))
                if point is None:
                    _demand_same(values[MEAN], record, folder)
                    shifts = Shifts(
                        changes_version=versions[0],
                        model_sha256=record.model_sha256,
                        fingerprint=record.fingerprint,
                        metrics=versions[1],
                        clean=values,
                    )
                else:
                    assert shifts is not None
                    shifts = shifts.with_point(point, values)
                write_shifts(shifts, folder / SHIFT)
        assert shifts is not None
        return shifts

    def _earlier(self, record: Record, folder: Path, versions: tuple[int, str]) -> Shifts | None:
        """Read the results of an earlier call; None if there are none of this model, this data and this code."""
        if not (folder / SHIFT).exists():
            return None
        try:
            (shifts,) = load_shifts(folder / SHIFT)
        except InputError as fault:
            self.reporter.say(f"{WARNING}{fault}; it is measured anew")
            return None
        same = (shifts.changes_version, shifts.metrics) == versions and shifts.belongs_to(record)
        return shifts if same else None


def _demand_same(mean: dict[str, float | None], record: Record, folder: Path) -> None:
    """Raise CellError if the images as they are do not give the metrics of the record."""
    found = {key: float("nan") if value is None else value for key, value in mean.items()}
    key, difference = largest_mean_difference(found, record)
    if difference > DRIFT:
        raise CellError(
            f"on unchanged images {LABELS[key]} is {found[key]:.4f} and in {folder / RECORD} {record.value(MEAN, key):.4f}; "
            "`mddbench run --force` runs the cell anew"
        )


def shift_cells(cells: Sequence[Cell], runner: Runner, points: Sequence[Point], reporter: Reporter) -> list[Shifted]:
    """Evaluate finished cells on changed test images.

    Args:
        cells: The cells.
        runner: Prepares cells as a run does.
        points: The wanted changes and levels.
        reporter: Shows the progress.

    Returns:
        What became of each cell, in their order.
    """
    shifter = Shifter(runner, points, reporter)
    results = []
    for number, cell in enumerate(cells, 1):
        reporter.say(f"[{number}/{len(cells)}] {cell.name}")
        results.append(shifter.shift(cell))
    return results
