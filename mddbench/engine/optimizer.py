"""The optimiser of a training, and its learning rate over time, as an experiment sets them."""

from __future__ import annotations

import numpy as np
import torch

from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.experiments.schema import OptimizerSettings, ScheduleSettings


def make_optimizer(detector: Detector, settings: OptimizerSettings) -> torch.optim.Optimizer | None:
    """The optimiser over the detector's parameter groups; None for a method of a single pass. Raises InputError for another one
    that has nothing to optimise.

    On a GPU its step is one kernel for all parameters. On the CPU that would take 1 to 5 % off a step, in other last bits.
    """
    if detector.single_pass:
        return None
    groups = [group for group in detector.parameter_groups(settings.lr) if group["params"]]
    if not groups:
        raise InputError(
            f"{detector.label} has no parameter to train; a method that only collects says `single_pass = True`"
        )
    decay = settings.weight_decay
    fused = all(value.is_cuda for group in groups for value in group["params"]) or None
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=decay, fused=fused)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, betas=settings.betas, weight_decay=decay, fused=fused)


def rate_factor(schedule: ScheduleSettings, progress: float) -> float:
    """What the base learning rate is multiplied with; progress: the share of all steps that are done, in [0, 1).

    >>> rate_factor(ScheduleSettings(name="step", at=0.8, factor=0.1), 0.8)
    0.1
    >>> rate_factor(ScheduleSettings(name="cosine", factor=0.0, warmup=0.5), 0.25)
    0.5
    """
    if progress < schedule.warmup:
        return progress / schedule.warmup
    if schedule.name == "step":
        return schedule.factor if progress >= schedule.at - 1e-9 else 1.0
    if schedule.name == "cosine":
        share = (progress - schedule.warmup) / (1.0 - schedule.warmup)
        return float(schedule.factor + (1.0 - schedule.factor) * 0.5 * (1.0 + np.cos(np.pi * share)))
    return 1.0
