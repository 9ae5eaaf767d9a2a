"""The one training loop. It knows a method only by its named loss terms, and sees normal training images only."""

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
from torch import Tensor, nn

from mddbench.batch import Batch, as_images
from mddbench.detector import NO_LOSS, ONLY_COLLECTS, Detector
from mddbench.engine.checkpoint import Checkpoint, Progress
from mddbench.engine.compiling import compiled
from mddbench.engine.device import autocast, synchronize
from mddbench.engine.loss_watch import LossWatch
from mddbench.engine.optimizer import make_optimizer, rate_factor
from mddbench.errors import CellError, InputError
from mddbench.experiments.schema import Experiment, ScheduleSettings
from mddbench.nn.feature_cache import GIB, FeatureCache, features_bytes, free_room
from mddbench.progress import Reporter, Task
from mddbench.runs.records import CurvePoint, EpochLog
from mddbench.seeding import derived_seed, seed_everything

FEATURE_ROOM = 2.0
"""GiB that remembered features of the teacher may take, unless somebody says otherwise."""


@dataclass(frozen=True)
class TrainingImages:
    """All that training may see: normal images (N, S, S, 3) uint8, the index (N,) of each one's category, and pictures of
    anything (T, S, S, 3) uint8 if the method wants them.
    """

    images: NDArray[np.uint8]
    categories: NDArray[np.int64]
    textures: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Conditions:
    """What a training runs under, which moves last bits at most. feature_room: GiB that the teacher's features may take, 0 to
    remember none; compiled: whether steps go through `torch.compile`; sharing: how many cells run on the device at once: if
    there are others, times mean nothing and are not kept.
    """

    feature_room: float = FEATURE_ROOM
    compiled: bool = False
    sharing: int = 1


@dataclass(frozen=True)
class Looks:
    """Looks at the test split while a model is trained, every so many epochs and at the end: a diagnostic that decides nothing.

    at: called with the number of the epoch that has just ended.
    """

    every: int
    at: Callable[[int], CurvePoint]


def for_method(experiment: Experiment, method: type[Detector]) -> Experiment:
    """The experiment as the method is run by it: a single pass is one epoch, of all images, without an optimiser's recipe."""
    if not method.single_pass:
        return experiment
    for name in experiment.overrides:
        if name.partition(".")[0] in ("epochs", "drop_last", "gradient_clip", "schedule", "optimizer"):
            raise InputError(
                f"--set {name}: {experiment.method} sees each image once, without an optimiser; leave it out"
            )
    constant = ScheduleSettings(name="constant")
    once = {"epochs": 1, "drop_last": False, "gradient_clip": None, "schedule": constant}
    return experiment.model_copy(update=once)


class Trainer:
    """Trains a detector for one cell, from its checkpoint if there is one.

    Each epoch starts from a seed of its own, derived from the cell's and the epoch's number, so that a run resumed at
    the end of an epoch goes on exactly as an undisturbed one. A single pass is never resumed: it begins again.

    progress: how far it has come, with the looks at the test split.
    """

    def __init__(
        self,
        detector: Detector,
        experiment: Experiment,
        seed: int,
        checkpoint: Path,
        conditions: Conditions = Conditions(),
    ) -> None:
        """checkpoint: its file."""
        self.detector, self.seed, self.conditions = detector, seed, conditions
        self.experiment = experiment = for_method(experiment, type(detector))
        self.checkpoint, self.progress = Checkpoint(checkpoint), Progress()
        self.training_step = compiled(detector.training_step) if conditions.compiled else detector.training_step
        self.device = next(detector.parameters()).device
        self.optimizer = make_optimizer(detector, experiment.optimizer)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups] if self.optimizer else []
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=experiment.precision == "float16")

    def run(
        self,
        data: TrainingImages,
        reporter: Reporter,
        on_epoch: Callable[[EpochLog], None] | None = None,
        looks: Looks | None = None,
    ) -> list[EpochLog]:
        """The history of all epochs, those before a resume included.

        on_epoch: called after each epoch; looks: at the test split, which `progress` then holds.
        Raises CellError if a loss is not finite, InputError for a checkpoint that does not fit.
        """
        self.progress = progress = self._resumed(looks)
        remembered = self._remembered(data, reporter)
        batches = batches_per_epoch(len(data.images), self.experiment)
        epochs = self.experiment.epochs
        if progress.epoch:
            reporter.say(f"resuming after epoch {progress.epoch} of {epochs}")
        with reporter.task("training", (epochs - progress.epoch) * batches) as task:
            for epoch in range(progress.epoch, epochs):
                log = self._epoch(epoch, data, task, remembered)
                if looks is not None and log.epoch % looks.every == 0 and log.epoch < epochs:
                    progress.looks.append(looks.at(log.epoch))  # before the checkpoint, which holds it
                progress.epoch, progress.history = log.epoch, [*progress.history, log]
                if not self.detector.single_pass and (self.checkpoint.is_due or log.epoch == epochs):
                    self.checkpoint.save(progress, self._states(), reporter.say)
                if on_epoch is not None:
                    on_epoch(log)
        self.detector.finish_training()
        if looks is not None:
            progress.looks.append(looks.at(epochs))
        return progress.history

    def time_steps(self, data: TrainingImages, steps: int, remembered: bool = False) -> float:
        """Seconds per training step, with the teacher's features given if they are remembered; changes the weights, for
        estimates only.
        """
        self.detector.train()
        batch = next(epoch_batches(data, self.experiment, self.seed, self.device))
        if remembered:
            with autocast(self.device, self.experiment.precision):
                batch = replace(batch, features=tuple(self.detector.encoder(batch.images)))
        synchronize(self.device)
        started = time.perf_counter()
        for _ in range(steps):
            self._step(batch, 1.0)
        synchronize(self.device)
        return (time.perf_counter() - started) / steps

    def feature_bytes(self, data: TrainingImages, images: int) -> int:
        """What the teacher's features of so many images would take."""
        with autocast(self.device, self.experiment.precision):
            return images * features_bytes(self.detector.encoder, as_images(data.images[:1], self.device))

    def _remembered(self, data: TrainingImages, reporter: Reporter) -> FeatureCache | None:
        """Where the teacher's features are remembered; None for a method that would not ask, or if they take too much room."""
        room = self.conditions.feature_room
        if not self.detector.asks_teacher or not room or self.experiment.epochs == 1:
            return None
        needed = self.feature_bytes(data, len(data.images))
        fits = needed <= room * GIB and needed <= free_room(self.device) / self.conditions.sharing
        told = f"the teacher's features of {len(data.images)} images take {needed / GIB:.2f} GiB"
        reporter.say(
            f"{told}: computed once"
            if fits
            else f"{told}: computed in every epoch, there being room for {room:g} GiB (--feature-cache)"
        )
        return FeatureCache(self.detector.encoder, len(data.images), self.experiment.batch_size) if fits else None

    def _epoch(self, epoch: int, data: TrainingImages, task: Task, remembered: FeatureCache | None) -> EpochLog:
        started = time.perf_counter()
        seed_everything(derived_seed(self.seed, "epoch", epoch))
        self.detector.train()
        total = batches_per_epoch(len(data.images), self.experiment)
        losses = LossWatch(epoch * total)
        images, factor = 0, 1.0
        order_seed = derived_seed(self.seed, "order", epoch)
        for index, batch in enumerate(epoch_batches(data, self.experiment, order_seed, self.device, remembered)):
            progress = (epoch * total + index) / (self.experiment.epochs * total)
            factor = rate_factor(self.experiment.schedule, progress)
            losses.add(self._step(batch, factor))
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
            place = ".".join(map(str, error["loc"]))
            raise CellError(f"epoch {epoch + 1}: {place} is {error['input']!r} ({error['msg']})") from None

    def _step(self, batch: Batch, factor: float) -> dict[str, Tensor]:
        for group, rate in zip(self.optimizer.param_groups if self.optimizer else [], self.base_rates, strict=True):
            group["lr"] = rate * factor
        with autocast(self.device, self.experiment.precision):
            terms = self.training_step(batch)
        if bool(terms) == self.detector.single_pass:
            raise CellError(f"{self.detector.label}: {ONLY_COLLECTS if terms else NO_LOSS}")
        if terms and self.optimizer is not None:
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if self.experiment.gradient_clip is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.detector.parameters(), self.experiment.gradient_clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return terms

    def _states(self) -> dict[str, Any]:
        """All that a checkpoint must hold for the training to go on."""
        return {
            "detector": self.detector.learned_state(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "scaler": self.scaler.state_dict(),
        }

    def _resumed(self, looks: Looks | None) -> Progress:
        """Where the checkpoint left off, if there is one."""
        found = None if self.detector.single_pass else self.checkpoint.load(self.device)
        if found is None:
            return Progress()
        progress, saved = found
        try:
            self.detector.load_learned_state(saved["detector"])
            if self.optimizer is not None:
                for own, group in zip(self.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True):
                    group["fused"] = own["fused"]  # as this device takes it, not the one that wrote the checkpoint
                self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
        except Exception as fault:
            raise self.checkpoint.unusable(type(fault).__name__) from None
        if looks is not None:
            self._demand(looks, progress)
        return progress

    def _demand(self, looks: Looks, progress: Progress) -> None:
        """Raise InputError if the test split was not looked at where it should have been: that cannot be made up for."""
        wanted = {
            epoch for epoch in range(looks.every, progress.epoch + 1, looks.every) if epoch < self.experiment.epochs
        }
        seen = {point.epoch for point in progress.looks}
        progress.looks = [point for point in progress.looks if point.epoch in wanted]
        if wanted - seen:
            raise InputError(
                f"{self.checkpoint.file}: its first {progress.epoch} epochs were trained without --test-curve {looks.every}; "
                "leave that out to go on, or train the cell anew with --force"
            )


def batches_per_epoch(images: int, experiment: Experiment) -> int:
    """Whole batches only if `drop_last`; always at least one."""
    whole, rest = divmod(images, experiment.batch_size)
    return max(1, whole if experiment.drop_last else whole + bool(rest))


def epoch_batches(
    data: TrainingImages,
    experiment: Experiment,
    seed: int,
    device: torch.device,
    remembered: FeatureCache | None = None,
) -> Iterator[Batch]:
    """One epoch's batches in an order drawn from `seed`, with the teacher's features if they are to be remembered."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(data.images))
    for index in range(batches_per_epoch(len(order), experiment)):
        chosen = order[index * experiment.batch_size : (index + 1) * experiment.batch_size]
        categories = torch.from_numpy(data.categories[chosen]).to(device)
        textures = None
        if data.textures is not None:
            textures = as_images(data.textures[generator.integers(len(data.textures), size=len(chosen))], device)
        images = as_images(data.images[chosen], device)
        features = None
        if remembered is not None:
            with autocast(device, experiment.precision):
                features = tuple(remembered.features(chosen, images))
        yield Batch(images, categories, textures, features)
