"""The one training loop. It knows a method only by its named loss terms, and sees normal training images only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mddbench.batch import Batch, as_images
from mddbench.compiling import compiled
from mddbench.config import Experiment
from mddbench.detector import Detector
from mddbench.errors import CellError, InputError
from mddbench.nn.remembered import GIB, RememberedFeatures, features_bytes, free_room
from mddbench.optimizer import make_optimizer, rate_factor
from mddbench.progress import Reporter, Task
from mddbench.records import EpochLog
from mddbench.seeding import derived_seed, seed_everything

CHECK_EVERY = 20
"""Steps between two looks at the losses: one copy from the device for that many steps."""
FEATURE_ROOM = 2.0
"""GiB that remembered features of the teacher may take, unless somebody says otherwise."""
CHECKPOINT_SHARE = 0.05
"""Checkpoints are written at epoch ends, but may take no more than this share of the time."""


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


@dataclass
class _State:
    """Everything that a checkpoint holds, besides the weights."""

    epoch: int = 0
    history: list[EpochLog] = field(default_factory=list)


class Trainer:
    """Trains a detector for one cell, from its checkpoint if there is one.

    Each epoch starts from a seed of its own, derived from the cell's and the epoch's number, so that a run resumed at
    the end of an epoch goes on exactly as an undisturbed one.
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
        self.detector, self.experiment, self.seed, self.checkpoint = detector, experiment, seed, checkpoint
        self.conditions = conditions
        self.training_step = compiled(detector.training_step) if conditions.compiled else detector.training_step
        self.device = next(detector.parameters()).device
        self.optimizer = make_optimizer(detector, experiment.optimizer)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups] if self.optimizer else []
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=experiment.precision == "float16")
        self.last_written, self.write_seconds = time.monotonic(), 0.0

    def run(
        self, data: TrainingImages, reporter: Reporter, on_epoch: Callable[[EpochLog], None] | None = None
    ) -> list[EpochLog]:
        """The history of all epochs, those before a resume included.

        on_epoch: called after each epoch.
        Raises CellError if a loss is not finite, InputError for a checkpoint that does not fit.
        """
        state = self._resumed()
        remembered = self._remembered(data, reporter)
        batches = batches_per_epoch(len(data.images), self.experiment)
        if state.epoch:
            reporter.say(f"resuming after epoch {state.epoch} of {self.experiment.epochs}")
        with reporter.task("training", (self.experiment.epochs - state.epoch) * batches) as task:
            for epoch in range(state.epoch, self.experiment.epochs):
                log = self._epoch(epoch, data, task, remembered)
                state.epoch, state.history = epoch + 1, [*state.history, log]
                self._save_if_due(state)
                if on_epoch is not None:
                    on_epoch(log)
        self.detector.finish_training()
        return state.history

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

    def _remembered(self, data: TrainingImages, reporter: Reporter) -> RememberedFeatures | None:
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
        return RememberedFeatures(self.detector.encoder, len(data.images), self.experiment.batch_size) if fits else None

    def _epoch(self, epoch: int, data: TrainingImages, task: Task, remembered: RememberedFeatures | None) -> EpochLog:
        started = time.perf_counter()
        seed_everything(derived_seed(self.seed, "epoch", epoch))
        self.detector.train()
        total = batches_per_epoch(len(data.images), self.experiment)
        losses = _Losses(epoch * total)
        images, factor = 0, 1.0
        order_seed = derived_seed(self.seed, "order", epoch)
        for index, batch in enumerate(epoch_batches(data, self.experiment, order_seed, self.device, remembered)):
            progress = (epoch * total + index) / (self.experiment.epochs * total)
            factor = rate_factor(self.experiment.schedule, progress)
            losses.add(self._step(batch, factor))
            images += len(batch.images)
            rate = images / (time.perf_counter() - started)
            task.advance(1, f"epoch {epoch + 1}/{self.experiment.epochs} loss {losses.latest:.4f} {rate:.0f} images/s")
        terms = losses.means()
        return EpochLog(
            epoch=epoch + 1,
            loss=sum(terms.values()),
            terms=terms,
            lr=self.experiment.optimizer.lr * factor,
            seconds=time.perf_counter() - started if self.conditions.sharing == 1 else None,
            images=images,
            diagnostics=self.detector.diagnostics(),
        )

    def _step(self, batch: Batch, factor: float) -> dict[str, Tensor]:
        for group, rate in zip(self.optimizer.param_groups if self.optimizer else [], self.base_rates, strict=True):
            group["lr"] = rate * factor
        with autocast(self.device, self.experiment.precision):
            terms = self.training_step(batch)
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

    def _resumed(self) -> _State:
        if not self.checkpoint.exists():
            return _State()
        try:
            saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.detector.load_learned_state(saved["detector"])
            if self.optimizer is not None:
                for own, group in zip(self.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True):
                    group["fused"] = own["fused"]  # as this device takes it, not the one that wrote the checkpoint
                self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            return _State(saved["epoch"], [EpochLog(**log) for log in saved["history"]])
        except Exception as fault:
            raise InputError(
                f"{self.checkpoint}: cannot be resumed from ({type(fault).__name__}); start the cell anew with --force"
            ) from None

    def _save_if_due(self, state: _State) -> None:
        """Write the checkpoint beside and rename it, unless writing would take too much of the time."""
        started = time.monotonic()
        if (
            started - self.last_written
        ) * CHECKPOINT_SHARE < self.write_seconds and state.epoch < self.experiment.epochs:
            return
        content = {
            "epoch": state.epoch,
            "history": [log.model_dump() for log in state.history],
            "detector": self.detector.learned_state(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "scaler": self.scaler.state_dict(),
        }
        partial = self.checkpoint.with_suffix(".part")
        torch.save(content, partial)
        os.replace(partial, self.checkpoint)
        self.last_written = time.monotonic()
        self.write_seconds = self.last_written - started


class _Losses:
    """Collects the named losses of an epoch on their device and looks at them now and then."""

    def __init__(self, first_step: int) -> None:
        self.step = first_step
        self.waiting: list[Tensor] = []
        self.names: tuple[str, ...] = ()
        self.rows: list[list[float]] = []

    @property
    def latest(self) -> float:
        """The sum of terms at the last look; NaN before the first."""
        return sum(self.rows[-1]) if self.rows else float("nan")

    def add(self, terms: dict[str, Tensor]) -> None:
        if terms:
            self.names = tuple(terms)
            self.waiting.append(torch.stack([term.detach().float() for term in terms.values()]))
            if len(self.waiting) == CHECK_EVERY or not self.rows:
                self.look()

    def look(self) -> None:
        """Bring the waiting losses over. Raises CellError at the first that is not finite."""
        if not self.waiting:
            return
        for row in torch.stack(self.waiting).tolist():
            self.step += 1
            if not np.isfinite(row).all():
                terms = ", ".join(f"{name}={value:.4g}" for name, value in zip(self.names, row, strict=True))
                raise CellError(
                    f"step {self.step}: loss is {sum(row)} ({terms}); try a lower optimizer.lr or gradient_clip"
                )
            self.rows.append(row)
        self.waiting.clear()

    def means(self) -> dict[str, float]:
        self.look()
        return dict(zip(self.names, np.mean(self.rows, axis=0).tolist(), strict=True)) if self.rows else {}


def batches_per_epoch(images: int, experiment: Experiment) -> int:
    """Whole batches only if `drop_last`; always at least one."""
    whole, rest = divmod(images, experiment.batch_size)
    return max(1, whole if experiment.drop_last else whole + bool(rest))


def autocast(device: torch.device, precision: str) -> Any:
    """Mixed precision as the experiment sets it; float16 needs a GPU."""
    if precision == "float16" and device.type != "cuda":
        raise InputError("precision float16 needs a CUDA device; use bfloat16 or float32 on the CPU")
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def epoch_batches(
    data: TrainingImages,
    experiment: Experiment,
    seed: int,
    device: torch.device,
    remembered: RememberedFeatures | None = None,
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
                features = tuple(remembered.of(chosen, images))
        yield Batch(images, categories, textures, features)
