"""The training loop of all methods.

It knows a method only through `Detector`, and it sees only normal training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from mddbench.batch import Batch, as_images
from mddbench.detector import Detector
from mddbench.engine.checkpoint import Checkpoint, Progress
from mddbench.engine.device import autocast
from mddbench.engine.loss_watch import LossWatch
from mddbench.engine.optimizer import rate_factor
from mddbench.engine.step import TrainingStep
from mddbench.errors import CellError, InputError
from mddbench.experiments.schema import Experiment
from mddbench.nn.feature_cache import GIB, FeatureCache, features_bytes, free_room
from mddbench.progress import Reporter, Task
from mddbench.runs.records import CurvePoint, EpochLog
from mddbench.seeding import derived_seed, seed_everything

FEATURE_ROOM = 2.0
"""Default for the GiB that cached features of the teacher may take."""


@dataclass(frozen=True)
class TrainingImages:
    """All the data that a training may use.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, normal images.
        categories: (N,) int64, index of each image's category.
        textures: (T, S, S, 3) uint8 RGB, pictures of any kind; None unless the method wants them.
    """

    images: NDArray[np.uint8]
    categories: NDArray[np.int64]
    textures: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Conditions:
    """Conditions of a training that change its results by rounding differences at most.

    Attributes:
        feature_room: GiB that cached features of the teacher may take, 0 for no cache.
        compiled: True if training steps use `torch.compile`.
        sharing: Number of cells that run on the device at the same time.
            If it is more than one, times have no meaning and are not recorded.
    """

    feature_room: float = FEATURE_ROOM
    compiled: bool = False
    sharing: int = 1


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
    """

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
        self.step = TrainingStep(detector, experiment, conditions.compiled)
        self.experiment, self.device = self.step.experiment, self.step.device
        self.checkpoint, self.progress = Checkpoint(checkpoint), Progress()

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
        if progress.epoch:
            reporter.say(f"resuming after epoch {progress.epoch} of {epochs}")
        with reporter.task("training", (epochs - progress.epoch) * batches) as task:
            for epoch in range(progress.epoch, epochs):
                log = self._epoch(epoch, data, task, cache)
                if test_curve is not None and log.epoch % test_curve.every == 0 and log.epoch < epochs:
                    progress.test_curve.append(test_curve.measure(log.epoch))  # first, so that the checkpoint holds it
                progress.epoch, progress.history = log.epoch, [*progress.history, log]
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

    def _epoch(self, epoch: int, data: TrainingImages, task: Task, cache: FeatureCache | None) -> EpochLog:
        """Train one epoch, whose number counts from 0."""
        started = time.perf_counter()
        seed_everything(derived_seed(self.seed, "epoch", epoch))
        self.detector.train()
        total = batches_per_epoch(len(data.images), self.experiment)
        losses = LossWatch(epoch * total)
        images, factor = 0, 1.0
        order_seed = derived_seed(self.seed, "order", epoch)
        for index, batch in enumerate(epoch_batches(data, self.experiment, order_seed, self.device, cache)):
            done = (epoch * total + index) / (self.experiment.epochs * total)
            factor = rate_factor(self.experiment.schedule, done)
            losses.add(self.step(replace(batch, progress=done), factor))
            images += len(batch.images)
            rate = images / (time.perf_counter() - started)
            loss = "" if losses.latest is None else f" loss {losses.latest:.4f}"
            task.advance(1, f"epoch {epoch + 1}/{self.experiment.epochs}{loss} {rate:.0f} images/s")
        terms = losses.means()
        content: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": sum(terms.values()) if terms else None,
            "terms": terms,
            "lr": self.experiment.optimizer.lr * factor,
            "seconds": time.perf_counter() - started if self.conditions.sharing == 1 else None,
            "images": images,
            "diagnostics": self.detector.diagnostics(),
        }
        try:
            return EpochLog(**content)
        except ValidationError as fault:
            error = fault.errors()[0]
            name = ".".join(map(str, error["loc"]))
            raise CellError(f"epoch {epoch + 1}: {name} is {error['input']!r} ({error['msg']})") from None

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


def batches_per_epoch(images: int, experiment: Experiment) -> int:
    """Count the batches of an epoch of that many images: only full ones with `drop_last`, but always at least one."""
    full_batches, remainder = divmod(images, experiment.batch_size)
    return max(1, full_batches if experiment.drop_last else full_batches + bool(remainder))


def epoch_batches(
    data: TrainingImages,
    experiment: Experiment,
    seed: int,
    device: torch.device,
    cache: FeatureCache | None = None,
) -> Iterator[Batch]:
    """Draw the batches of one epoch.

    Args:
        data: The training images.
        experiment: The experiment.
        seed: Seed for the order of the images, and for the choice of textures.
        device: Device of the batches.
        cache: Cache for the teacher's features; None if batches have no features.

    Yields:
        The batches.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(data.images))
    for index in range(batches_per_epoch(len(order), experiment)):
        indices = order[index * experiment.batch_size : (index + 1) * experiment.batch_size]
        categories = torch.from_numpy(data.categories[indices]).to(device)
        textures = None
        if data.textures is not None:
            textures = as_images(data.textures[generator.integers(len(data.textures), size=len(indices))], device)
        images = as_images(data.images[indices], device)
        features = None
        if cache is not None:
            with autocast(device, experiment.precision):
                features = tuple(cache.features(indices, images))
        yield Batch(images, categories, textures, features)
