"""Runs cells one after another: skips what is finished, resumes what was interrupted, goes on after a failure."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from mddbench.cells import Cell, Prepared, facts_of
from mddbench.config import Experiment, load_experiment, load_suite
from mddbench.data.dataset import Dataset, load_source, open_dataset
from mddbench.detector import Detector, load_method, method_settings
from mddbench.errors import CellError, InputError
from mddbench.evaluate import evaluate
from mddbench.nn.encoder import load_encoder
from mddbench.panels import save_panels
from mddbench.progress import Reporter
from mddbench.records import EpochLog, Record, read_record, write_record
from mddbench.seeding import derived_seed, seed_everything
from mddbench.tracking import Tracker
from mddbench.train import Trainer, TrainingImages, autocast

RECORD, PANELS, MODEL, CHECKPOINT = "record.json", "panels.npz", "model.safetensors", "checkpoint.pt"


@dataclass(frozen=True)
class RunOptions:
    """Where things are and where they go. data_root: the dataset's folder, or a folder that holds it under its name."""

    out: Path
    cache: Path
    device: torch.device
    data_root: Path | None = None
    weights_dir: Path | None = None
    force: bool = False

    def root_of(self, dataset: str) -> Path | None:
        """The folder of one dataset."""
        if self.data_root is not None and (self.data_root / dataset).is_dir():
            return self.data_root / dataset
        return self.data_root


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; message says why it failed."""

    cell: Cell
    status: Literal["finished", "skipped", "failed"]
    folder: Path | None = None
    message: str = ""


def plan(names: list[str], suite: str, seeds: tuple[int, ...] | None, overrides: dict[str, object]) -> list[Cell]:
    """The cells of some experiments, or else of a suite's; seeds: instead of those that the experiments name."""
    chosen = names or list(load_suite(suite).experiments)
    experiments = [load_experiment(name, overrides) for name in chosen]
    return [Cell(experiment, seed) for experiment in experiments for seed in seeds or experiment.seeds]


Datasets = dict[tuple[str, int], Dataset]
"""Opened datasets by name and image size."""


def check_cells(cells: list[Cell], options: RunOptions, reporter: Reporter) -> Datasets:
    """Find what would stop a cell before the first one starts: settings, then data (which is decoded), then weights.

    Returns the opened datasets. Raises InputError for the first thing found.
    """
    experiments = {cell.experiment.name: cell.experiment for cell in cells}.values()
    for experiment in experiments:
        _method(experiment)
        autocast(options.device, experiment.precision)
    datasets: Datasets = {}
    for name, size in sorted({(experiment.dataset, experiment.image_size) for experiment in experiments}):
        datasets[name, size] = open_dataset(name, options.root_of(name), options.cache, size, reporter)
    encoders = {(each.encoder.name, each.encoder.levels): each.encoder for each in experiments}
    for encoder in encoders.values():
        reporter.say(f"loading encoder {encoder.name}")
        load_encoder(encoder.name, encoder.levels, options.weights_dir, encoder.sha256)
    return datasets


class Runner:
    """Runs checked cells with one set of options."""

    def __init__(self, options: RunOptions, datasets: Datasets, tracker: Tracker, reporter: Reporter) -> None:
        self.options, self.datasets, self.tracker, self.reporter = options, datasets, tracker, reporter

    def run(self, cells: list[Cell]) -> list[Outcome]:
        """Run all cells; a failed one does not stop the others."""
        outcomes = []
        for number, cell in enumerate(cells, 1):
            self.reporter.say(f"[{number}/{len(cells)}] {cell.name}")
            outcomes.append(self._guarded(cell))
            if outcomes[-1].status != "finished":
                self.reporter.say(f"{cell.name}: {outcomes[-1].status} {outcomes[-1].message}".rstrip())
        return outcomes

    def prepare(self, cell: Cell) -> Prepared:
        """Load the teacher and build the model of a cell."""
        experiment = cell.experiment
        method, settings = _method(experiment)
        dataset = self.datasets[experiment.dataset, experiment.image_size]
        chosen = experiment.encoder
        encoder = load_encoder(chosen.name, chosen.levels, self.options.weights_dir, chosen.sha256)
        seed_everything(derived_seed(cell.seed, "initial weights"))
        detector = method(encoder, settings, len(dataset.categories)).to(self.options.device)
        return Prepared.of(cell, detector, dataset)

    def _guarded(self, cell: Cell) -> Outcome:
        folder: Path | None = None
        try:
            prepared = self.prepare(cell)
            folder = prepared.folder(self.options.out)
            return self._cell(prepared, folder)
        except (CellError, InputError) as fault:
            return Outcome(cell, "failed", folder, str(fault))
        except Exception as fault:
            message = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no message'}"
            if folder is not None and folder.is_dir():
                (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
                message += f" (all of it in {folder / 'error.txt'})"
            return Outcome(cell, "failed", folder, message)

    def _cell(self, prepared: Prepared, folder: Path) -> Outcome:
        if self.options.force:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RECORD).exists():
            record = read_record(folder / RECORD)
            if not self.tracker.has(record.identity):
                self.tracker.start(facts_of(record)).finish(record, _kept(folder))
            return Outcome(prepared.cell, "skipped", folder, "finished before; --force runs it again")
        run = self.tracker.start(prepared.facts())
        try:
            record = self._train_and_evaluate(prepared, folder, run.epoch)
        except BaseException as fault:
            run.fail(str(fault) or type(fault).__name__)
            raise
        run.finish(record, _kept(folder))
        return Outcome(prepared.cell, "finished", folder)

    def _train_and_evaluate(self, prepared: Prepared, folder: Path, on_epoch: Callable[[EpochLog], None]) -> Record:
        cell, detector, dataset = prepared.cell, prepared.detector, prepared.dataset
        trainer = Trainer(detector, cell.experiment, cell.seed, folder / CHECKPOINT)
        data = TrainingImages(dataset.train.images, dataset.train_categories)
        history = trainer.run(data, self.reporter, on_epoch)
        evaluation = evaluate(detector, dataset, cell.experiment.precision, self.reporter)
        save_panels(evaluation.panels, folder / PANELS)
        state = {name: value.detach().cpu().contiguous() for name, value in detector.learned_state().items()}
        save_file(state, folder / f"{MODEL}.part")
        os.replace(folder / f"{MODEL}.part", folder / MODEL)
        record = prepared.record(history, evaluation)
        write_record(record, folder / RECORD)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return record


def image_counts(dataset: str, options: RunOptions) -> tuple[int, int] | None:
    """(training, test) images of a dataset: counted if it is there, as published if not, None if nobody knows."""
    source, root = load_source(dataset), options.root_of(dataset)
    if source.build is None and root is not None:
        tree = source.read(root).sound(dataset)
        return len(tree.select("train")), len(tree.select("test"))
    if source.expected is None:
        return None
    counts = source.expected.values()
    return sum(train for train, _, _ in counts), sum(good + defective for _, good, defective in counts)


def _method(experiment: Experiment) -> tuple[type[Detector], object]:
    """The method of an experiment and its settings."""
    method = load_method(experiment.method)
    return method, method_settings(method, experiment.settings, experiment.name)


def _kept(folder: Path) -> list[Path]:
    """The files of a cell that go into the tracking store beside the record."""
    return [folder / PANELS] if (folder / PANELS).exists() else []
