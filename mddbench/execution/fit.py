"""Trains what a cell asks for, one model or a separate one for each category, and evaluates it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mddbench.detector import Detector
from mddbench.engine.compiling import COMPILING_PAYS
from mddbench.engine.evaluate import Evaluation, EvaluationOptions, evaluate
from mddbench.engine.foreign import WHOLE, learned
from mddbench.engine.train import Conditions, Looks, Trainer, TrainingImages
from mddbench.errors import CellError, InputError
from mddbench.execution.cells import Prepared
from mddbench.execution.plan import RunOptions, build_detector
from mddbench.execution.protocol import metric_engine
from mddbench.nn.weights import digest
from mddbench.progress import Reporter, SilentReporter
from mddbench.runs.maps import MAPS, MapKeeper
from mddbench.runs.records import RECORD, CurvePoint, EpochLog, Record, nullable, read_record
from mddbench.seeding import derived_seed

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"
TRAINING = "mddbench.training"
"""Where a model's file says what it was trained as."""

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
        """What the finished cell has learned, from its own file. Raises CellError if that is not there, or not as it was."""
        record = read_record(self.folder / RECORD)
        state, fault = _read_model(self.folder / MODEL, record)
        if state is None:
            raise CellError(
                f"{self.folder / MODEL}: {fault}, so its maps cannot be made again; --force runs the cell again"
            )
        return self._learned(state, record)

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

    def _train_whole(self, on_epoch: Callable[[EpochLog], None]) -> Trained:
        detector, every = self.prepared.detector, self.options.test_curve
        looks = Looks(every, self._test_point) if every else None
        trainer = self._trainer(detector, WHOLE)
        history = trainer.run(self._data(WHOLE), self.reporter, on_epoch, looks)
        return Trained(history, {WHOLE: _on_host(detector)}, trainer.progress.looks if looks else [])

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
        wanted, name = self.prepared.training_identity, self.prepared.cell.name
        for file in sorted((self.options.out / "cells").glob(f"*/{MODEL}")):
            if _trained_as(file) != wanted or not file.with_name(RECORD).exists():
                continue
            try:
                donor = read_record(file.with_name(RECORD))
            except InputError as fault:
                self.reporter.say(f"{name}: its training is not shared: {fault}")
                continue
            state, reason = _read_model(file, donor)
            if state is None:
                self.reporter.say(f"{name}: trained before, but {file}: {reason}; training it anew")
                continue
            self.reporter.say(f"{name}: trained before, as {file.parent.name}")
            for log in donor.history:
                on_epoch(log)
            return self._learned(state, donor)
        return None

    def _learned(self, flat: State, donor: Record) -> Trained:
        """What a model's file holds; the detector has learned it, too."""
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
        loss=None if None in (losses := [log.loss for log in logs]) else sum(filter(None, losses)) / len(logs),
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


def _read_model(file: Path, record: Record) -> tuple[State | None, str]:
    """What a cell's model file holds, if it is what the cell's record says by its hash; else None and what is wrong."""
    try:
        state = load_file(file)
    except FileNotFoundError:
        return None, "it is not there"
    except (SafetensorError, OSError) as fault:
        return None, f"it cannot be read ({str(fault).splitlines()[0]})"
    if digest(state) != record.model_sha256:
        return None, "it is damaged (its tensors have another SHA-256 than its record says)"
    return state, ""


def _trained_as(file: Path) -> str | None:
    """What a model's file says that it was trained as; None if it does not say, or cannot be read."""
    try:
        with safe_open(file, "pt") as stored:
            return (stored.metadata() or {}).get(TRAINING)
    except (SafetensorError, OSError):
        return None
