"""Trains what a cell asks for, one model or a separate one for each category, and evaluates it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mddbench.cells import Prepared, metric_engine
from mddbench.compiling import COMPILING_PAYS
from mddbench.detector import Detector
from mddbench.errors import CellError
from mddbench.evaluate import Evaluation, EvaluationOptions, evaluate
from mddbench.foreign import learned
from mddbench.maps import MapKeeper
from mddbench.plan import RunOptions, build_detector
from mddbench.progress import Reporter, SilentReporter
from mddbench.records import RECORD, CurvePoint, EpochLog, Record, nullable, read_record
from mddbench.seeding import derived_seed
from mddbench.train import Conditions, Trainer, TrainingImages

MODEL, CHECKPOINT, TEST_CURVE = "model.safetensors", "checkpoint.pt", "test_curve.json"
MAPS = "maps"
TRAINING = "mddbench.training"
"""Where a model's file says what it was trained as."""
WHOLE = ""
"""The name of a model that is for all categories."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """history: of the training, of all models together; states: what was learned, a model's category, or WHOLE -> on the host;
    test_curve: if one was asked for; donor: the record of the cell that was trained in this one's place.
    """

    history: list[EpochLog]
    states: dict[str, State]
    test_curve: list[CurvePoint] = field(default_factory=list)
    donor: Record | None = None

    def flat(self) -> State:
        """One state dict: names of a category's model begin with the category and '/'."""
        return {_joined(model, name): value for model, state in self.states.items() for name, value in state.items()}


class Fit:
    """The training and evaluation of one prepared cell. folder: the cell's own."""

    def __init__(self, prepared: Prepared, options: RunOptions, folder: Path, reporter: Reporter) -> None:
        self.prepared, self.options, self.folder, self.reporter = prepared, options, folder, reporter
        self.models = prepared.dataset.categories if prepared.cell.experiment.setting == "separate" else (WHOLE,)

    def train(self, on_epoch: Callable[[EpochLog], None]) -> Trained:
        """Train, or take the weights of a finished cell that differs in evaluation only, or those of the file that is given."""
        if self.options.from_checkpoint is not None:
            return Trained([], dict(learned(self.prepared.detector, self.options.from_checkpoint, self.models)))
        if not self.options.force and not self.options.test_curve:
            found = self._trained_before(on_epoch)
            if found is not None:
                return found
        if self.options.compiling and not self.prepared.compiled:
            self.reporter.say(f"{self.prepared.cell.name}: not compiled, which pays from {COMPILING_PAYS} steps on")
        if self.models == (WHOLE,):
            return self._train_whole(on_epoch)
        histories, states = [], {}
        for category in self.models:
            self.reporter.say(f"{self.prepared.cell.name}: the model of {category}")
            detector = self._fresh()
            histories.append(self._trainer(detector, category).run(self._data(category), self.reporter))
            states[category] = _on_host(detector)
        history = [_together(logs) for logs in zip(*histories, strict=True)]
        for log in history:
            on_epoch(log)
        return Trained(history, states)

    def again(self) -> Trained:
        """What the finished cell has learned, from its own file. Raises CellError if that is not there."""
        if not (self.folder / MODEL).exists():
            raise CellError(
                f"{self.folder / MODEL} is not there, so its maps cannot be made again; --force trains it again"
            )
        return self._stored(self.folder / MODEL, read_record(self.folder / RECORD))

    def evaluate(self, trained: Trained) -> Evaluation:
        """The evaluation of all categories, each by its model; the maps are kept if that is asked for."""
        cell, detector = self.prepared.cell, self.prepared.detector
        asked = EvaluationOptions(
            metric_engine(cell.experiment, self.prepared.dataset),
            self.options.resamples,
            derived_seed(cell.seed, "bootstrap"),
            sharing=self.options.sharing,
        )
        if WHOLE not in trained.states:
            asked = replace(asked, before=lambda category: detector.load_learned_state(trained.states[category]))
        keeper = MapKeeper(self.folder / MAPS) if self.options.keep_maps else None
        asked = replace(asked, keeper=keeper)
        found = evaluate(detector, self.prepared.dataset, cell.experiment.precision, self.reporter, asked)
        if keeper is not None:
            keeper.finish()
        return found

    def save(self, trained: Trained) -> None:
        """Write the model's file."""
        partial = self.folder / f"{MODEL}.part"
        save_file(trained.flat(), partial, {TRAINING: self.prepared.training_identity})
        os.replace(partial, self.folder / MODEL)

    def clean(self) -> None:
        """Remove what only an unfinished training needs."""
        for model in self.models:
            self._checkpoint(model).unlink(missing_ok=True)
        (self.folder / TEST_CURVE).unlink(missing_ok=True)

    def _train_whole(self, on_epoch: Callable[[EpochLog], None]) -> Trained:
        detector, every = self.prepared.detector, self.options.test_curve
        last = self.prepared.cell.experiment.epochs
        curve = {point.epoch: point for point in _read_curve(self.folder / TEST_CURVE)} if every else {}

        def after(log: EpochLog) -> None:
            on_epoch(log)
            if every and log.epoch % every == 0:
                curve[log.epoch] = self._test_point(log.epoch)
                _write_curve(curve, self.folder / TEST_CURVE)

        history = self._trainer(detector, WHOLE).run(self._data(WHOLE), self.reporter, after)
        if every and last not in curve:
            curve[last] = self._test_point(last)
        points = [curve[epoch] for epoch in sorted(curve)]
        return Trained(history, {WHOLE: _on_host(detector)}, points)

    def _test_point(self, epoch: int) -> CurvePoint:
        """How the model does on the test split now: looked at, never acted upon."""
        cell, dataset = self.prepared.cell, self.prepared.dataset
        asked = EvaluationOptions(metric_engine(cell.experiment, dataset))
        found = evaluate(self.prepared.detector, dataset, cell.experiment.precision, SilentReporter(), asked)
        return CurvePoint(epoch=epoch, metrics=nullable(found.metrics)["mean"])

    def _trainer(self, detector: Detector, model: str) -> Trainer:
        cell, options = self.prepared.cell, self.options
        conditions = Conditions(options.feature_room, self.prepared.compiled, options.sharing)
        return Trainer(detector, cell.experiment, cell.seed, self._checkpoint(model), conditions)

    def _checkpoint(self, model: str) -> Path:
        return self.folder / (f"checkpoint-{model}.pt" if model else CHECKPOINT)

    def _fresh(self) -> Detector:
        cell = self.prepared.cell
        return build_detector(cell.experiment, self.prepared.dataset, self.options, cell.seed)

    def _data(self, model: str) -> TrainingImages:
        """What a model is trained on: nothing of the test split is handed on."""
        dataset = self.prepared.dataset.only(model) if model else self.prepared.dataset
        textures = dataset.textures.images if dataset.textures and self.prepared.uses_textures else None
        return TrainingImages(dataset.train.images, dataset.train_categories, textures)

    def _trained_before(self, on_epoch: Callable[[EpochLog], None]) -> Trained | None:
        wanted = self.prepared.training_identity
        for file in sorted((self.options.out / "cells").glob(f"*/{MODEL}")):
            if _trained_as(file) == wanted and file.with_name(RECORD).exists():
                self.reporter.say(f"{self.prepared.cell.name}: trained before, as {file.parent.name}")
                donor = read_record(file.with_name(RECORD))
                for log in donor.history:
                    on_epoch(log)
                return self._stored(file, donor)
        return None

    def _stored(self, file: Path, donor: Record) -> Trained:
        """What a model's file holds; the detector has learned it, too."""
        flat = load_file(file)
        states = {model: _part(flat, model) for model in self.models}
        if WHOLE in states:
            self.prepared.detector.load_learned_state(states[WHOLE])
        return Trained(donor.history, states, donor=donor)


def _together(logs: tuple[EpochLog, ...]) -> EpochLog:
    """One epoch of several models: means of what was measured, sums of seconds and images."""
    terms = {name: sum(log.terms[name] for log in logs) / len(logs) for name in logs[0].terms}
    diagnostics = {name: sum(log.diagnostics[name] for log in logs) / len(logs) for name in logs[0].diagnostics}
    return EpochLog(
        epoch=logs[0].epoch,
        loss=sum(log.loss for log in logs) / len(logs),
        terms=terms,
        lr=logs[0].lr,
        seconds=None if None in (seconds := [log.seconds for log in logs]) else sum(filter(None, seconds)),
        images=sum(log.images for log in logs),
        diagnostics=diagnostics,
    )


def _on_host(detector: Detector) -> State:
    return {name: value.detach().cpu().clone().contiguous() for name, value in detector.learned_state().items()}


def _joined(model: str, name: str) -> str:
    return f"{model}/{name}" if model else name


def _part(flat: State, model: str) -> State:
    if not model:
        return flat
    return {name.removeprefix(f"{model}/"): value for name, value in flat.items() if name.startswith(f"{model}/")}


def _read_curve(file: Path) -> list[CurvePoint]:
    """What an interrupted training saw of the test split; a file that cannot be read has seen nothing."""
    try:
        return [CurvePoint(**point) for point in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _write_curve(curve: dict[int, CurvePoint], file: Path) -> None:
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps([curve[epoch].model_dump() for epoch in sorted(curve)]), encoding="utf-8")
    os.replace(partial, file)


def _trained_as(file: Path) -> str | None:
    """What a model's file says that it was trained as; None if it does not say, or cannot be read."""
    try:
        with safe_open(file, "pt") as stored:
            return (stored.metadata() or {}).get(TRAINING)
    except SafetensorError:
        return None
