"""Runs cells one after another: skips what is finished, resumes what was interrupted, goes on after a failure."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mddbench.ablation import expand, is_ablation, load_ablation
from mddbench.batch import Batch
from mddbench.cells import Cell, Prepared, facts_of, metric_engine, resolved_settings
from mddbench.config import Experiment, Strict, load_experiment, load_suite
from mddbench.data.dataset import Dataset, load_source, open_dataset, root_of
from mddbench.data.textures import open_textures
from mddbench.detector import Detector, load_method, method_settings
from mddbench.errors import CellError, InputError
from mddbench.evaluate import EvaluationOptions, evaluate
from mddbench.holdout import hold_out
from mddbench.nn.encoder import load_encoder
from mddbench.panels import save_panels
from mddbench.progress import Reporter
from mddbench.records import EpochLog, Record, read_record, write_record
from mddbench.seeding import derived_seed, seed_everything
from mddbench.tracking import Tracker
from mddbench.train import Trainer, TrainingImages, autocast

RECORD, PANELS, MODEL = "record.json", "panels.npz", "model.safetensors"
TRAINING = "mddbench.training"
"""Where a model's file says what it was trained as."""
CHECKPOINT, ERROR = "checkpoint.pt", "error.txt"


@dataclass(frozen=True)
class RunOptions:
    """Where things are and where they go. data_root: the dataset's folder, or a folder that holds it under its name.

    resamples: bootstrap samples for confidence intervals, 0 for none; held_out: train and judge on training images only;
    textures: folder of pictures for methods that draw defects with them.
    """

    out: Path
    cache: Path
    device: torch.device
    data_root: Path | None = None
    weights_dir: Path | None = None
    force: bool = False
    resamples: int = 0
    held_out: bool = False
    textures: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; message says why it failed."""

    cell: Cell
    status: Literal["finished", "skipped", "failed"]
    folder: Path | None = None
    message: str = ""


def plan(names: list[str], suite: str, seeds: tuple[int, ...] | None, overrides: dict[str, object]) -> list[Cell]:
    """The cells of some experiments and ablations, or else of a suite's; seeds: instead of those that they name.

    Each once, however often it is asked for: the variant of an ablation that changes nothing is the experiment itself.
    """
    found: dict[str, Cell] = {}
    for name in names or load_suite(suite).experiments:
        if is_ablation(name):
            base, experiments = expand(load_ablation(name), overrides)
        else:
            base = load_experiment(name, overrides)
            experiments = [base]
        for experiment in experiments:
            same = _content(experiment) == _content(base)
            for seed in seeds or experiment.seeds:
                key, cell = f"{seed} {_content(experiment)}", Cell(base if same else experiment, seed)
                if key not in found or is_ablation(
                    found[key].experiment.name
                ):  # a name of its own goes before a variant's
                    found[key] = cell
    return list(found.values())


Datasets = dict[tuple[str, int], Dataset]
"""Opened datasets by name and image size."""


def check_cells(cells: list[Cell], options: RunOptions, reporter: Reporter) -> Datasets:
    """Find what would stop a cell before the first one starts: settings, then data (which is decoded), then weights.

    Returns the opened datasets. Raises InputError for the first thing found.
    """
    experiments = distinct_experiments(cells)
    textured = set()
    for experiment in experiments:
        method, settings = _method(experiment)
        autocast(options.device, experiment.precision)
        if method.wants_textures(settings):
            textured.add(experiment.image_size)
            if options.textures is None:
                raise InputError(
                    f"{experiment.name}: its defects are drawn with pictures; give their folder by --textures DIR"
                )
    if options.textures is not None and not textured:
        raise InputError("--textures: no experiment draws with them; add --set settings.synthesis.textures=[folder]")
    datasets: Datasets = {}
    for name, size in sorted({(experiment.dataset, experiment.image_size) for experiment in experiments}):
        opened = open_dataset(name, root_of(name, options.data_root), options.cache, size, reporter)
        if options.textures is not None and size in textured:
            opened = replace(opened, textures=open_textures(options.textures, size, options.cache, reporter))
        datasets[name, size] = hold_out(opened) if options.held_out else opened
    for experiment in experiments:
        reporter.say(f"checking {experiment.name}")
        _try(experiment, datasets[experiment.dataset, experiment.image_size], options)
    return datasets


def distinct_experiments(cells: list[Cell]) -> list[Experiment]:
    """The experiments of some cells, each once, in their order."""
    found: list[Experiment] = []
    for cell in cells:
        if cell.experiment not in found:
            found.append(cell.experiment)
    return found


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
            if outcomes[-1].status == "skipped":
                self.reporter.say(f"{cell.name}: skipped, {outcomes[-1].message}")
        return outcomes

    def prepare(self, cell: Cell) -> Prepared:
        """Load the teacher and build the model of a cell."""
        experiment = cell.experiment
        dataset = self.datasets[experiment.dataset, experiment.image_size]
        return Prepared.of(cell, _build(experiment, dataset, self.options, cell.seed), dataset)

    def _guarded(self, cell: Cell) -> Outcome:
        folder: Path | None = None
        try:
            prepared = self.prepare(cell)
            folder = prepared.folder(self.options.out)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock"), timeout=0):
                return self._cell(prepared, folder)
        except Timeout:
            return Outcome(cell, "failed", folder, f"another process is running it (it holds {folder}.lock)")
        except (CellError, InputError) as fault:
            return Outcome(cell, "failed", folder, str(fault))
        except Exception as fault:
            message = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no message'}"
            if folder is not None and folder.is_dir():
                (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
                message += f" (all of it in {folder / ERROR})"
            return Outcome(cell, "failed", folder, message)

    def _cell(self, prepared: Prepared, folder: Path) -> Outcome:
        if self.options.force:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RECORD).exists():
            record = read_record(folder / RECORD)
            if not self.tracker.has(record.identity):
                self.tracker.start(facts_of(record), folder).finish(record, _kept(folder))
            lacking = ", without confidence intervals" if self.options.resamples and not record.confidence else ""
            return Outcome(prepared.cell, "skipped", folder, f"finished before{lacking}; --force runs it again")
        run = self.tracker.start(prepared.facts(), folder)
        try:
            run.finish(self._train_and_evaluate(prepared, folder, run.epoch), _kept(folder))
        except KeyboardInterrupt:
            run.stop("KILLED", "interrupted")
            raise
        except Exception as fault:
            run.stop("FAILED", str(fault) or type(fault).__name__)
            raise
        (folder / ERROR).unlink(missing_ok=True)
        return Outcome(prepared.cell, "finished", folder)

    def _train_and_evaluate(self, prepared: Prepared, folder: Path, on_epoch: Callable[[EpochLog], None]) -> Record:
        cell, detector, dataset = prepared.cell, prepared.detector, prepared.dataset
        donor = self._trained_before(prepared, on_epoch)
        history = donor.history if donor else self._train(prepared, folder, on_epoch)
        asked = EvaluationOptions(
            metric_engine(cell.experiment, dataset), self.options.resamples, derived_seed(cell.seed, "bootstrap")
        )
        evaluation = evaluate(detector, dataset, cell.experiment.precision, self.reporter, asked)
        save_panels(evaluation.panels, folder / PANELS)
        state = {name: value.detach().cpu().contiguous() for name, value in detector.learned_state().items()}
        save_file(state, folder / f"{MODEL}.part", {TRAINING: prepared.training_identity})
        os.replace(folder / f"{MODEL}.part", folder / MODEL)
        record = prepared.record(history, evaluation, donor)
        write_record(record, folder / RECORD)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return record

    def _train(self, prepared: Prepared, folder: Path, on_epoch: Callable[[EpochLog], None]) -> list[EpochLog]:
        cell, dataset = prepared.cell, prepared.dataset
        textures = dataset.textures.images if dataset.textures and prepared.uses_textures else None
        data = TrainingImages(dataset.train.images, dataset.train_categories, textures)
        trainer = Trainer(prepared.detector, cell.experiment, cell.seed, folder / CHECKPOINT)
        return trainer.run(data, self.reporter, on_epoch)

    def _trained_before(self, prepared: Prepared, on_epoch: Callable[[EpochLog], None]) -> Record | None:
        """The record of a finished cell that differs in evaluation only, whose weights the detector then has; None if there
        is none, or if everything is to be run again.
        """
        wanted = prepared.training_identity
        for file in [] if self.options.force else sorted((self.options.out / "cells").glob(f"*/{MODEL}")):
            if _trained_as(file) == wanted and file.with_name(RECORD).exists():
                prepared.detector.load_learned_state(load_file(file))
                self.reporter.say(f"{prepared.cell.name}: trained before, as {file.parent.name}")
                donor = read_record(file.with_name(RECORD))
                for log in donor.history:
                    on_epoch(log)
                return donor
        return None


def _trained_as(file: Path) -> str | None:
    """What a model's file says that it was trained as; None if it does not say, or cannot be read."""
    try:
        with safe_open(file, "pt") as stored:
            return (stored.metadata() or {}).get(TRAINING)
    except SafetensorError:
        return None


def image_counts(dataset: str, options: RunOptions) -> tuple[int, int, int] | None:
    """(training images, test images, categories) of a dataset: counted if it is there, as published if not, None if nobody
    knows.
    """
    source, root = load_source(dataset), root_of(dataset, options.data_root)
    if source.build is None and root is not None:
        tree = source.read(root).sound(dataset)
        return len(tree.select("train")), len(tree.select("test")), len(tree.categories)
    if source.expected is None:
        return None
    counts = source.expected.values()
    return sum(train for train, _, _ in counts), sum(good + defective for _, good, defective in counts), len(counts)


def _content(experiment: Experiment) -> str:
    """All that an experiment's numbers depend on but its seeds, as text."""
    _, settings = _method(experiment)
    return json.dumps(resolved_settings(experiment, settings), sort_keys=True)


def _method(experiment: Experiment) -> tuple[type[Detector], Strict]:
    """The method of an experiment and its settings."""
    method = load_method(experiment.method)
    return method, method_settings(method, experiment.settings, experiment.name)


def _build(experiment: Experiment, dataset: Dataset, options: RunOptions, seed: int) -> Detector:
    """The untrained detector of an experiment, with the weights of its teacher.

    Seeded after the teacher is there, whose construction draws numbers that nobody needs.
    """
    method, settings = _method(experiment)
    chosen = experiment.encoder
    encoder = load_encoder(chosen.name, chosen.levels, options.weights_dir, chosen.sha256)
    seed_everything(derived_seed(seed, "initial weights"))
    return method(encoder, settings, len(dataset.categories)).to(options.device).to(memory_format=torch.channels_last)


def _try(experiment: Experiment, dataset: Dataset, options: RunOptions) -> None:
    """Build the detector and push one batch through it, as small as training may meet. Raises InputError if that fails."""
    detector = _build(experiment, dataset, options, experiment.seeds[0])
    total, size = len(dataset.train), experiment.batch_size
    smallest = min(total, size) if experiment.drop_last or total < size else total % size or size
    images = torch.zeros(min(smallest, 2), 3, experiment.image_size, experiment.image_size, device=options.device)
    try:
        categories = torch.zeros(len(images), dtype=torch.int64, device=options.device)
        with autocast(options.device, experiment.precision):
            detector.train().training_step(Batch(images, categories, images))
            detector.told_category = 0 if detector.wants_test_labels else None
            detector.image_scores(detector.eval().anomaly_maps(images[:1]))
    except (RuntimeError, ValueError) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(f"{experiment.name}: the method cannot be trained with these settings ({reason})") from None


def _kept(folder: Path) -> list[Path]:
    """The files of a cell that go into the tracking store beside the record."""
    return [folder / PANELS] if (folder / PANELS).exists() else []
