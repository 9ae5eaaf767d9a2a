"""The training loop of all methods.

It knows a method only through `Detector`, and it sees only normal training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mddbench.batch import Batch, as_images
from mddbench.detector import Detector
from mddbench.engine.batches import TrainingImages, batches_per_epoch, epoch_batches
from mddbench.engine.checkpoint import Checkpoint, Inside, Progress
from mddbench.engine.device import autocast
from mddbench.engine.energy import EnergyCounter
from mddbench.engine.loss_watch import LossWatch
from mddbench.engine.optimizer import rate_factor
from mddbench.engine.step import TrainingStep
from mddbench.errors import CellError, InputError
from mddbench.experiments.schema import Experiment
from mddbench.interruption import closing, held
from mddbench.nn.feature_cache import GIB, FeatureCache, features_bytes, free_room
from mddbench.progress import Reporter, Task
from mddbench.runs.records import CurvePoint, EpochLog
from mddbench.seeding import derived_seed, random_state, restore_random_state, seed_everything

FEATURE_ROOM = 2.0
"""Default for the GiB that cached features of the teacher may take."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a training that change its results by rounding differences at most.

    Attributes:
        feature_room: GiB that cached features of the teacher may take, 0 for no cache.
        compiled: True if training steps use `torch.compile`.
        graphs: True if the kernels of training steps are recorded as CUDA graphs.
        sharing: Number of cells that run on the device at the same time.
            If it is more than one, times have no meaning and are not recorded.
        checkpoint_every: Number of steps between two checkpoints inside an epoch; 0 for none.
    """

    feature_room: float = FEATURE_ROOM
    compiled: bool = False
    graphs: bool = False
    sharing: int = 1
    checkpoint_every: int = 0


@dataclass(frozen=True)
class PeriodicEvaluation:
    """Evaluation on the test split after some epochs and at the end of a training.

    It is a diagnostic that influences nothing.

    Attributes:
        every: Number of epochs between two evaluations.
        measure: Called with the number of the finished epoch. Returns the metrics of the model at that moment.
    """

    every: int
    measure: Callable[[int], CurvePoint]


class Trainer:
    """Trains a detector for one cell. It resumes from the cell's checkpoint if there is one.

    Each epoch starts from its own seed, which is derived from the cell's seed and the epoch's number.
    So a training that is resumed at the end of an epoch gives exactly the results of an uninterrupted one.
    A checkpoint inside an epoch also holds the states of the random generators, for the same result.
    A single pass is never resumed, it begins again.

    Attributes:
        detector: The model.
        experiment: The experiment, adapted to the method.
        seed: Seed of the cell.
        conditions: Conditions of the training.
        checkpoint: The checkpoint file.
        progress: What is done so far, with the metrics of the test split if they were requested.
        step: The training step of the model.
        device: Device of the model.
        counter: Counts the energy of the device; None if it has no counter.
        when_stopped: Called with the epoch and the steps of it that a checkpoint inside the epoch holds.
    """

    when_stopped: Callable[[int, int], object] = staticmethod(lambda *_: None)

    def __init__(
        self,
        detector: Detector,
        experiment: Experiment,
        seed: int,
        checkpoint: Path,
        conditions: Conditions = Conditions(),
    ) -> None:
        """Prepare a training.

        An InputError is raised if the method has no parameter to train, or if the experiment does not suit it.

        Args:
            detector: The untrained model, on its device.
            experiment: The experiment.
            seed: Seed of the cell.
            checkpoint: Path of the checkpoint file, which need not exist.
            conditions: Conditions of the training.
        """
        self.detector, self.seed, self.conditions = detector, seed, conditions
        self.step = TrainingStep(detector, experiment, conditions.compiled, conditions.graphs)
        self.experiment, self.device = self.step.experiment, self.step.device
        self.checkpoint, self.progress = Checkpoint(checkpoint), Progress()
        self.counter = EnergyCounter.of(self.device)

    def run(
        self,
        data: TrainingImages,
        reporter: Reporter,
        on_epoch: Callable[[EpochLog], None] | None = None,
        test_curve: PeriodicEvaluation | None = None,
    ) -> list[EpochLog]:
        """Train the model.

        A CellError is raised if a loss is not finite. An InputError is raised for a checkpoint that does not fit.

        Args:
            data: The training images.
            reporter: Shows the progress.
            on_epoch: Called after each epoch.
            test_curve: Evaluation on the test split after some epochs. `progress` gets its results.

        Returns:
            The history of all epochs, with those before an interruption.
        """
        self.progress = progress = self._resumed(test_curve)
        cache = self._feature_cache(data, reporter)
        batches = batches_per_epoch(len(data.images), self.experiment)
        epochs = self.experiment.epochs
        steps_before = progress.inside.step if progress.inside else 0
        if progress.epoch or steps_before:
            more = f" and {steps_before} of {batches} steps" if steps_before else ""
            reporter.say(f"resuming after epoch {progress.epoch} of {epochs}{more}")
        with reporter.task("training", (epochs - progress.epoch) * batches - steps_before) as task:
            for epoch in range(progress.epoch, epochs):
                log = self._epoch(epoch, data, task, cache, reporter)
                if test_curve is not None and log.epoch % test_curve.every == 0 and log.epoch < epochs:
                    progress.test_curve.append(test_curve.measure(log.epoch))  # first, so that the checkpoint holds it
                progress.epoch, progress.history, progress.inside = log.epoch, [*progress.history, log], None
                if not self.detector.single_pass and (self.checkpoint.is_due or log.epoch == epochs):
                    self.checkpoint.save(progress, self.step.state(), reporter.say)
                if on_epoch is not None:
                    on_epoch(log)
        self.detector.finish_training()
        if test_curve is not None:
            progress.test_curve.append(test_curve.measure(epochs))
        return progress.history

    def _feature_cache(self, data: TrainingImages, reporter: Reporter) -> FeatureCache | None:
        """Create a cache for the teacher's features; None if it is switched off, gains nothing, or takes too much memory."""
        room = self.conditions.feature_room
        if not self.detector.asks_teacher or not room or self.experiment.epochs == 1:
            return None
        needed = len(data.images) * bytes_per_image(self.detector, data, self.experiment.precision)
        free = free_room(self.device) / self.conditions.sharing
        subject = f"the teacher's features of {len(data.images)} images take {needed / GIB:.2f} GiB"
        if needed > room * GIB:
            reporter.say(f"{subject}: computed in every epoch, there being room for {room:g} GiB (--feature-cache)")
            return None
        if needed > free:
            reporter.say(f"{subject}: computed in every epoch, {free / GIB:.2f} GiB of memory being free")
            return None
        reporter.say(f"{subject}: computed once")
        return FeatureCache(self.detector.encoder, len(data.images), self.experiment.batch_size)

    def _epoch(
        self, epoch: int, data: TrainingImages, task: Task, cache: FeatureCache | None, reporter: Reporter
    ) -> EpochLog:
        """Train one epoch, whose number counts from 0, or the rest of it. An interruption leaves a checkpoint."""
        run = _Epoch(self, epoch, len(data.images))
        order_seed = derived_seed(self.seed, "order", epoch)
        batches = epoch_batches(data, self.experiment, order_seed, self.device, cache, run.step)
        try:
            for batch in batches:
                note = run.train(batch)
                task.advance(1, note)
                every = self.conditions.checkpoint_every
                if every and run.step % every == 0 and run.step < run.steps:
                    self._save_inside(run, reporter)
        except KeyboardInterrupt:
            with closing():
                self._save_inside(run, reporter)
            raise
        return run.log()

    def _save_inside(self, run: _Epoch, reporter: Reporter) -> None:
        """Write a checkpoint inside an epoch, unless there is nothing new or a step was cut off in the midst of it."""
        before = self.progress.inside.step if self.progress.inside else 0
        if self.detector.single_pass or run.is_stepping or not before < run.step < run.steps:
            return
        self.progress.inside = run.inside()
        self.checkpoint.save(self.progress, self.step.state(), reporter.say)
        self.when_stopped(self.progress.epoch + 1, run.step)

    def _resumed(self, test_curve: PeriodicEvaluation | None) -> Progress:
        """Load the checkpoint if there is one, and return the progress until then."""
        content = None if self.detector.single_pass else self.checkpoint.load(self.device)
        if content is None:
            return Progress()
        progress, saved = content
        try:
            self.step.load_state(saved)
        except Exception as fault:  # noqa: BLE001 - states that do not fit can raise almost anything
            raise self.checkpoint.unusable(type(fault).__name__) from None
        if test_curve is not None:
            self._demand_curve(test_curve.every, progress)
        return progress

    def _demand_curve(self, every: int, progress: Progress) -> None:
        """Check that no point of the test curve is missing, and drop points of epochs that are not wanted.

        Args:
            every: Number of epochs between two points.
            progress: The progress of the training so far.

        Raises:
            InputError: If a point is missing, because its model no longer exists.
        """
        wanted = {epoch for epoch in range(every, progress.epoch + 1, every) if epoch < self.experiment.epochs}
        measured = {point.epoch for point in progress.test_curve}
        progress.test_curve = [point for point in progress.test_curve if point.epoch in wanted]
        if wanted - measured:
            raise InputError(
                f"{self.checkpoint.file}: its first {progress.epoch} epochs were trained without "
                f"--test-curve {every}; leave that out to go on, or train the cell anew with --force"
            )


class _Epoch:
    """One epoch that is being trained.

    Attributes:
        trainer: The training.
        epoch: Number of the epoch, from 0.
        steps: Number of its steps.
        step: Number of its steps that are done.
        losses: Their losses.
        is_stepping: True while the model changes.
        factor: Factor of the learning rates in the last step.
        started: When it would have begun if it had not been interrupted; None if its first part has no time.
        energy: The GPU's counter at its start; None if there is none, if others use the GPU, or after an interruption.
    """

    def __init__(self, trainer: Trainer, epoch: int, images: int) -> None:
        """Seed the generators of an epoch, or go on where the checkpoint stands in it."""
        self.trainer, self.epoch, self.images = trainer, epoch, images
        self.steps = batches_per_epoch(images, trainer.experiment)
        inside = trainer.progress.inside if trainer.progress.epoch == epoch else None
        if inside is None:
            seed_everything(derived_seed(trainer.seed, "epoch", epoch))
        else:
            restore_random_state(inside.random)
        self.step, rows, before = (inside.step, inside.rows, inside.seconds) if inside else (0, [], 0.0)
        self.losses = LossWatch(epoch * self.steps, rows)
        self.is_stepping, self.factor = False, 1.0
        self.started = None if before is None else time.perf_counter() - before
        alone = inside is None and trainer.conditions.sharing == 1
        self.energy = trainer.counter.joules() if trainer.counter and alone else None
        trainer.detector.train()

    @property
    def seconds(self) -> float | None:
        """The time so far; None if it has no meaning."""
        shared = self.started is None or self.trainer.conditions.sharing > 1
        return None if shared or self.started is None else time.perf_counter() - self.started

    @property
    def images_done(self) -> int:
        """Number of images of the steps that are done."""
        return min(self.step * self.trainer.experiment.batch_size, self.images)

    def train(self, batch: Batch) -> str:
        """Train the next step. Signals wait for its end. Return a note on the progress."""
        experiment = self.trainer.experiment
        done = (self.epoch * self.steps + self.step) / (experiment.epochs * self.steps)
        with held():
            self.is_stepping = True
            self.factor = rate_factor(experiment.schedule, done)
            terms = self.trainer.step(replace(batch, progress=done, first_epoch=self.epoch == 0), self.factor)
            self.losses.add(terms)
            self.step += 1
            self.is_stepping = False
        loss = "" if self.losses.latest is None else f" loss {self.losses.latest:.4f}"
        rate = f" {self.images_done / seconds:.0f} images/s" if (seconds := self.seconds) else ""
        return f"epoch {self.epoch + 1}/{experiment.epochs}{loss}{rate}"

    def inside(self) -> Inside:
        """Describe where the training stands, for a checkpoint."""
        self.losses.check()
        return Inside(self.step, self.losses.rows, self.seconds, random_state())

    def log(self) -> EpochLog:
        """Return the measurements of the epoch, which has ended. Raise CellError if one is not finite."""
        terms = self.losses.means()
        content: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": sum(terms.values()) if terms else None,
            "terms": terms,
            "lr": self.trainer.step.lr * self.factor,
            "seconds": self.seconds,
            "images": self.images_done,
            "diagnostics": self.trainer.detector.diagnostics(),
            "joules": self.trainer.counter.since(self.energy) if self.trainer.counter else None,
        }
        try:
            return EpochLog(**content)
        except ValidationError as fault:
            error = fault.errors()[0]
            name = ".".join(map(str, error["loc"]))
            raise CellError(f"epoch {self.epoch + 1}: {name} is {error['input']!r} ({error['msg']})") from None


def bytes_per_image(detector: Detector, data: TrainingImages, precision: str) -> int:
    """Compute the bytes that the teacher's features of one image take.

    Args:
        detector: The model with its frozen teacher.
        data: The training images.
        precision: 'float32', 'bfloat16' or 'float16'.

    Returns:
        The number of bytes.
    """
    device = next(detector.parameters()).device
    with autocast(device, precision):
        return features_bytes(detector.encoder, as_images(data.images[:1], device))


def with_features(batch: Batch, detector: Detector, precision: str) -> Batch:
    """Add the teacher's features to a batch, as a cache does; for timing a step.

    Args:
        batch: Normal training images.
        detector: The model with its frozen teacher.
        precision: 'float32', 'bfloat16' or 'float16'.

    Returns:
        The batch with its features.
    """
    with autocast(batch.images.device, precision):
        return replace(batch, features=tuple(detector.encoder(batch.images)))
