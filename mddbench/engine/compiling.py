"""`torch.compile` for a training step, which has to pay."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

COMPILING_PAYS = 10_000
"""From so many steps on compiling may save the time that it takes: docs/performance.md."""


def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """A training step that is compiled when it is first called, and draws the numbers that it would draw otherwise."""
    torch.compiler.reset()  # what other cells have compiled counts against a limit
    inductor: Any = import_module("torch._inductor.config")
    inductor.fallback_random = True
    return torch.compile(step)
