"""One training step of a method: losses, gradients and the optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.detector import NO_LOSS, ONLY_COLLECTS, Detector
from mddbench.engine.compiling import compiled
from mddbench.engine.device import autocast
from mddbench.engine.optimizer import make_optimizer
from mddbench.errors import CellError, InputError
from mddbench.experiments.schema import EncoderSettings, Experiment, ScheduleSettings
from mddbench.nn.encoder import NO_ENCODER

UNUSED_BY_SINGLE_PASS = ("epochs", "drop_last", "gradient_clip", "schedule", "optimizer")
"""Settings of an experiment that a method of a single pass does not use."""


def for_method(experiment: Experiment, method: type[Detector]) -> Experiment:
    """Adapt an experiment to its method.

    A single pass is one epoch over all images, without settings of an optimiser.
    A method that learns from the pixels alone has the encoder 'none'.

    Args:
        experiment: The experiment.
        method: Class of its method.

    Returns:
        The experiment itself, unless the method is one of these.

    Raises:
        InputError: If the command line overrides a setting that the method does not use, if there is no encoder
            for a method that needs one, or if the encoder gives tokens that the method does not take.
    """
    for name in unused_overrides(experiment.overrides, method):
        reason = "sees each image once, without an optimiser" if method.single_pass else "has its own optimiser"
        reason = "uses no encoder" if name.partition(".")[0] == "encoder" else reason
        raise InputError(f"--set {name}: {experiment.method} {reason}; leave it out")
    if method.uses_encoder and experiment.encoder.name == NO_ENCODER:
        raise InputError(f"{experiment.name}: {experiment.method} needs an encoder, found '{NO_ENCODER}'")
    if experiment.encoder.prefix_tokens and not method.takes_prefix_tokens:
        raise InputError(
            f"{experiment.name}: {experiment.method} takes no class and register tokens; remove encoder.prefix_tokens"
        )
    changes: dict[str, Any] = {}
    if method.single_pass:
        constant = ScheduleSettings(name="constant")
        changes |= {"epochs": 1, "drop_last": False, "gradient_clip": None, "schedule": constant}
    if not method.uses_encoder:
        changes["encoder"] = EncoderSettings(name=NO_ENCODER, levels=())
    return experiment.model_copy(update=changes) if changes else experiment


def unused_overrides(overrides: Iterable[str], method: type[Detector]) -> list[str]:
    """Find the overrides of the command line that a method does not use.

    Args:
        overrides: Dotted settings.
        method: Class of the method.

    Returns:
        Those that a single pass, or a method with its own optimiser or without an encoder, does not use.
    """
    unused = UNUSED_BY_SINGLE_PASS if method.single_pass else ("optimizer",) if method.brings_optimizer else ()
    unused = unused if method.uses_encoder else (*unused, "encoder")
    return [name for name in overrides if name.partition(".")[0] in unused]


class TrainingStep:
    """Trains a detector by one batch at a time.

    Attributes:
        detector: The model.
        experiment: The experiment, adapted to the method.
        losses: Computes the losses of a batch: the detector's own step, compiled if that was requested.
        device: Device of the model.
        optimizer: The optimiser; None for a single pass.
        base_rates: Base learning rate of each parameter group.
        lr: The base learning rate of the training: the experiment's, or that of the method's own optimiser.
        scaler: Scales the loss for float16.
    """

    def __init__(
        self, detector: Detector, experiment: Experiment, compile_losses: bool = False, graphs: bool = False
    ) -> None:
        """Prepare the optimiser.

        Args:
            detector: The model, on its device.
            experiment: The experiment.
            compile_losses: True to compute the losses with `torch.compile`.
            graphs: True to record the kernels of the losses as CUDA graphs.

        Raises:
            InputError: If the method has no parameter to train, if the experiment does not suit it, or if the device
                has no CUDA graphs.
        """
        self.detector, self.experiment = detector, for_method(experiment, type(detector))
        self.device = next(detector.parameters()).device
        if graphs and self.device.type != "cuda":
            raise InputError(f"--cuda-graphs needs a CUDA device, found {self.device}; leave it out")
        self.losses = detector.training_step
        if compile_losses or graphs:
            self.losses = compiled(detector.training_step, compile_losses, graphs)
        self.optimizer = make_optimizer(detector, self.experiment.optimizer)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups] if self.optimizer else []
        self.lr = self.base_rates[0] if detector.brings_optimizer else self.experiment.optimizer.lr
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.experiment.precision == "float16")

    def __call__(self, batch: Batch, factor: float = 1.0) -> dict[str, Tensor]:
        """Train one step.

        Args:
            batch: Normal training images.
            factor: Factor of the base learning rates.

        Returns:
            Name -> scalar loss term.

        Raises:
            CellError: If the method gives no loss, or gives one although it only collects.
        """
        for group, rate in zip(self.optimizer.param_groups if self.optimizer else [], self.base_rates, strict=True):
            group["lr"] = rate * factor
        with autocast(self.device, self.experiment.precision):
            terms = self.losses(batch)
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

    def state(self) -> dict[str, Any]:
        """Return the states from which a training can be resumed."""
        return {
            "detector": self.detector.learned_state(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, saved: dict[str, Any]) -> None:
        """Take back what `state` returned. States of another model raise almost any error.

        Args:
            saved: The states, on any device.
        """
        self.detector.load_learned_state(saved["detector"])
        if self.optimizer is not None:
            for own, group in zip(self.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True):
                if "fused" in own:
                    group["fused"] = own["fused"]  # the checkpoint may come from another kind of device
            self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
