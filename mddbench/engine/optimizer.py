"""The optimiser of a training and its learning rate over time, from the settings of an experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mddbench.detector import Detector
from mddbench.engine.stable_adamw import StableAdamW
from mddbench.errors import InputError
from mddbench.experiments.schema import OptimizerSettings, ScheduleSettings


def make_optimizer(detector: Detector, settings: OptimizerSettings) -> torch.optim.Optimizer | None:
    """Create the optimiser for the parameter groups of a detector.

    On a GPU, one fused kernel updates all parameters. On the CPU, fusing would save 1 to 5 % of a step.
    But it would change the last bits there, so it is not used.

    Args:
        detector: The model.
        settings: Settings of the optimiser.

    Returns:
        The optimiser; None for a method of a single pass.

    Raises:
        InputError: If a method of several passes has no parameter to train.
    """
    if detector.single_pass:
        return None
    if detector.brings_optimizer:
        return detector.own_optimizer()
    groups = [group for group in detector.parameter_groups(settings.lr) if group["params"]]
    if not groups:
        raise InputError(
            f"{detector.label} has no parameter to train; a method that only collects says `single_pass = True`"
        )
    decay = settings.weight_decay
    fused = all(value.is_cuda for group in groups for value in group["params"]) or None
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=decay, fused=fused)
    options: dict[str, Any] = {"eps": settings.eps, "amsgrad": settings.amsgrad, "weight_decay": decay}
    if settings.name == "stableadamw":
        return StableAdamW(groups, lr=settings.lr, betas=settings.betas, **options)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, betas=settings.betas, fused=fused, **options)


def rate_factor(schedule: ScheduleSettings, progress: float) -> float:
    """Compute the factor of the base learning rate at a moment of the training.

    >>> rate_factor(ScheduleSettings(name="step", at=0.8, factor=0.1), 0.8)
    0.1
    >>> rate_factor(ScheduleSettings(name="step", at=(0.8, 0.9), factor=0.5), 0.9)
    0.25
    >>> rate_factor(ScheduleSettings(name="cosine", factor=0.0, warmup=0.5), 0.25)
    0.5

    Args:
        schedule: Settings of the schedule.
        progress: Share of all steps that are done, in [0, 1).

    Returns:
        The factor.
    """
    if progress < schedule.warmup:
        return progress / schedule.warmup
    if schedule.name == "step":
        times = schedule.at if isinstance(schedule.at, tuple) else (schedule.at,)
        return schedule.factor ** sum(progress >= time - 1e-9 for time in times)
    if schedule.name == "cosine":
        share = (progress - schedule.warmup) / (1.0 - schedule.warmup)
        return float(schedule.factor + (1.0 - schedule.factor) * 0.5 * (1.0 + np.cos(np.pi * share)))
    return 1.0
