"""Trains and evaluates the model of a cell, or its separate models for each category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mddbench.detector import Detector
from mddbench.engine.batches import TrainingImages
from mddbench.engine.compiling import COMPILING_PAYS
from mddbench.engine.evaluate import Evaluation, EvaluationOptions, evaluate
from mddbench.engine.foreign import ALL_CATEGORIES, load_authors_models
from mddbench.engine.train import Conditions, PeriodicEvaluation, Trainer
from mddbench.errors import CellError, InputError
from mddbench.execution.cells import Prepared
from mddbench.execution.grouping import model_of, models_of, per_model
from mddbench.execution.model_file import MODEL, State, joined, read_model, state_of, trained_as, write_model
from mddbench.execution.models import build_detector
from mddbench.execution.options import RunOptions
from mddbench.execution.protocol import metric_engine
from mddbench.metrics.names import MEAN
from mddbench.progress import Reporter, SilentReporter
from mddbench.runs.events import CellEvents
from mddbench.runs.maps import MAPS, MapKeeper
from mddbench.runs.records import RECORD, CurvePoint, EpochLog, Record, nullable, read_record
from mddbench.seeding import derived_seed

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        history: One entry for each epoch, of all models together.
        states: Name of a model -> its learned state on the host. The name is one of `Fit.members`.
        test_curve: Metrics of the test split after some epochs, if they were requested.
        donor: Record of the cell whose trained model was used; None if there is none.
    """

    history: list[EpochLog]
    states: dict[str, State]
    test_curve: list[CurvePoint] = field(default_factory=list)
    donor: Record | None = None

    def flat(self) -> State:
        """Join the states of all models into one state dict.

        Returns:
            Name -> tensor. In the model of a category, names begin with the category and '/'.
        """
        return {joined(model, name): value for model, state in self.states.items() for name, value in state.items()}


@dataclass(frozen=True)
class Watch:
    """Who watches a training.

    Attributes:
        events: The events of the cell; None if nobody reads them.
        demand: Called before a checkpoint is written. Raises if another process has taken the cell over.
    """

    events: CellEvents | None = None
    demand: Callable[[], object] = lambda: None

    def epoch(self, log: EpochLog) -> None:
        """Tell that an epoch has ended."""
        if self.events is not None:
            self.events.epoch(log)

    def look(self, epoch: int) -> None:
        """Tell that the model was evaluated on the test split after an epoch."""
        if self.events is not None:
            self.events.append("look", epoch=epoch)

    def stopped(self, epoch: int, step: int) -> None:
        """Tell that a checkpoint inside an epoch was written: that many steps of it are done."""
        if self.events is not None:
            self.events.append("checkpoint", epoch=epoch, step=step)


class Fit:
    """The training and the evaluation of one prepared cell.

    Attributes:
        prepared: The cell.
        options: Options of the run.
        folder: Folder of the cell.
        reporter: Shows the progress.
        watch: Who watches the training.
        members: Name of each model -> its categories.
        models: Names of the models.
    """

    def __init__(
        self, prepared: Prepared, options: RunOptions, folder: Path, reporter: Reporter, watch: Watch = Watch()
    ) -> None:
        """Prepare training and evaluation.

        Args:
            prepared: The cell.
            options: Options of the run.
            folder: Folder of the cell, which must exist.
            reporter: Shows the progress.
            watch: Who watches the training.
        """
        self.prepared, self.options, self.folder, self.reporter = prepared, options, folder, reporter
        self.watch = watch
        self.members = models_of(prepared.cell.experiment, prepared.dataset)
        self.models = tuple(self.members)

    def train(self) -> Trained:
        """Train the models, or take trained ones.

        Weights from a file are used if the options name one. Otherwise a finished cell can be the donor of the weights
        if it differs only in its evaluation.

        Returns:
            The trained models.
        """
        if self.options.from_checkpoint is not None:
            detector, path = self.prepared.detector, self.options.from_checkpoint
            return Trained([], dict(load_authors_models(detector, path, self.models)))
        if not self.options.force and not self.options.test_curve:
            trained = self._trained_before()
            if trained is not None:
                return trained
        if self.options.compiling and not self.prepared.compiled:
            self.reporter.say(f"{self.prepared.cell.name}: not compiled, which pays from {COMPILING_PAYS} steps on")
        if self.models == (ALL_CATEGORIES,):
            return self._train_whole()
        histories, states = [], {}
        for model, members in self.members.items():
            self.reporter.say(f"{self.prepared.cell.name}: the model of {', '.join(members)}")
            detector = self._untrained()
            histories.append(self._trainer(detector, model).run(self._data(model), self.reporter))
            states[model] = _on_host(detector)
        history = [_combined(logs) for logs in zip(*histories, strict=True)]
        for log in history:
            self.watch.epoch(log)
        return Trained(history, states)

    def load_finished(self) -> Trained:
        """Load the models of the finished cell from its own file.

        Returns:
            The trained models.

        Raises:
            CellError: If the file does not exist or has changed since it was written.
        """
        record = read_record(self.folder / RECORD)
        state, fault = read_model(self.folder / MODEL, record)
        if state is None:
            raise CellError(
                f"{self.folder / MODEL}: {fault}, so its maps cannot be made again; --force runs the cell again"
            )
        return self._learned(state, record)

    def evaluate(self, trained: Trained) -> Evaluation:
        """Evaluate all categories, each with its model. The maps are kept if the options say so.

        Args:
            trained: The trained models.

        Returns:
            The results.
        """
        cell, detector = self.prepared.cell, self.prepared.detector
        evaluation_options = EvaluationOptions(
            metric_engine(cell.experiment, self.prepared.dataset),
            self.options.resamples,
            derived_seed(cell.seed, "bootstrap"),
            sharing=self.options.sharing,
            all_images=self.options.all_images,
            per_model=per_model(self.members),
        )
        if ALL_CATEGORIES not in trained.states:
            names = model_of(self.members)
            evaluation_options = replace(
                evaluation_options, before=lambda category: detector.load_learned_state(trained.states[names[category]])
            )
        keeper = MapKeeper(self.folder / MAPS) if self.options.keep_maps else None
        evaluation_options = replace(evaluation_options, keeper=keeper)
        precision, dataset = cell.experiment.precision, self.prepared.dataset
        evaluation = evaluate(detector, dataset, precision, self.reporter, evaluation_options)
        if keeper is not None:
            keeper.finish()
        return evaluation

    def save(self, trained: Trained) -> None:
        """Write the model's file, with all models in it.

        Args:
            trained: The trained models.
        """
        write_model(trained.flat(), self.folder / MODEL, self.prepared.training_identity)

    def clean(self) -> None:
        """Remove the checkpoints, which only an unfinished training needs."""
        for model in self.models:
            self._checkpoint(model).unlink(missing_ok=True)

    def _train_whole(self) -> Trained:
        detector, every = self.prepared.detector, self.options.test_curve
        test_curve = PeriodicEvaluation(every, self._test_point) if every else None
        trainer = self._trainer(detector, ALL_CATEGORIES)
        history = trainer.run(self._data(ALL_CATEGORIES), self.reporter, self.watch.epoch, test_curve)
        return Trained(history, {ALL_CATEGORIES: _on_host(detector)}, trainer.progress.test_curve if test_curve else [])

    def _test_point(self, epoch: int) -> CurvePoint:
        """Evaluate the model on the test split after an epoch. The training never depends on the result."""
        cell, dataset = self.prepared.cell, self.prepared.dataset
        options = EvaluationOptions(metric_engine(cell.experiment, dataset), further=False)
        evaluation = evaluate(self.prepared.detector, dataset, cell.experiment.precision, SilentReporter(), options)
        self.watch.look(epoch)
        return CurvePoint(epoch=epoch, metrics=nullable(evaluation.metrics)[MEAN])

    def _trainer(self, detector: Detector, model: str) -> Trainer:
        cell, options = self.prepared.cell, self.options
        conditions = Conditions(
            options.feature_room,
            self.prepared.compiled,
            options.cuda_graphs,
            options.sharing,
            options.checkpoint_every,
        )
        trainer = Trainer(detector, cell.experiment, cell.seed, self._checkpoint(model), conditions)
        trainer.checkpoint.demand, trainer.when_stopped = self.watch.demand, self.watch.stopped
        return trainer

    def _checkpoint(self, model: str) -> Path:
        return self.folder / (f"checkpoint-{model}.pt" if model else CHECKPOINT)

    def _untrained(self) -> Detector:
        cell = self.prepared.cell
        return build_detector(cell.experiment, self.prepared.dataset, self.options, cell.seed)

    def _data(self, model: str) -> TrainingImages:
        """Return the training images of a model. Nothing of the test split is among them."""
        dataset = self.prepared.dataset.only(*self.members[model]) if model else self.prepared.dataset
        textures = dataset.textures.images if dataset.textures and self.prepared.uses_textures else None
        return TrainingImages(dataset.train.images, dataset.train_categories, textures)

    def _trained_before(self) -> Trained | None:
        """Load the models of a finished cell with the same training; None if there is no such cell."""
        wanted, name = self.prepared.training_identity, self.prepared.cell.name
        for file in sorted((self.options.out / "cells").glob(f"*/{MODEL}")):
            if trained_as(file) != wanted or not file.with_name(RECORD).exists():
                continue
            try:
                donor = read_record(file.with_name(RECORD))
            except InputError as fault:
                self.reporter.say(f"{name}: its training is not shared: {fault}")
                continue
            state, reason = read_model(file, donor)
            if state is None:
                self.reporter.say(f"{name}: trained before, but {file}: {reason}; training it anew")
                continue
            self.reporter.say(f"{name}: trained before, as {file.parent.name}")
            for log in donor.history:
                self.watch.epoch(log)
            return self._learned(state, donor)
        return None

    def _learned(self, flat: State, donor: Record) -> Trained:
        """Split the content of a model's file into models. The state of a single model is also loaded."""
        states = {model: state_of(flat, model) for model in self.models}
        if ALL_CATEGORIES in states:
            self.prepared.detector.load_learned_state(states[ALL_CATEGORIES])
        return Trained(donor.history, states, donor=donor)


def _combined(logs: tuple[EpochLog, ...]) -> EpochLog:
    """Combine the same epoch of several models: means of losses and diagnostics, sums of seconds and images."""
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
        joules=None if None in (joules := [log.joules for log in logs]) else sum(filter(None, joules)),
    )


def _on_host(detector: Detector) -> State:
    return {name: value.detach().cpu().clone().contiguous() for name, value in detector.learned_state().items()}
