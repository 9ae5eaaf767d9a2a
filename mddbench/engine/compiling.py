"""`torch.compile` for training steps, where it saves time."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

COMPILING_PAYS = 10_000
"""Least number of steps for which compiling may save more time than it takes: see docs/performance.md."""


def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a training step. The compilation happens at the first call.

    Args:
        step: The training step.

    Returns:
        The compiled step, which draws the same random numbers as the original one.
    """
    torch.compiler.reset()  # the functions that other cells have compiled count against a limit
    inductor: Any = import_module("torch._inductor.config")
    inductor.fallback_random = True
    return torch.compile(step)
