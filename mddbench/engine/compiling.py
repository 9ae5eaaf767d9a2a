"""`torch.compile` and CUDA graphs for training steps, where they save time."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

COMPILING_PAYS = 10_000
"""Least number of steps for which compiling may save more time than it takes: see docs/performance.md."""


def compiled(step: Callable[..., Any], fused: bool = True, graphs: bool = False) -> Callable[..., Any]:
    """Compile a training step. The compilation happens at the first call.

    Args:
        step: The training step.
        fused: True to fuse its operations into new kernels, which takes up to minutes. Their last bits differ.
        graphs: True to record its kernels as CUDA graphs, which a GPU then starts as one. What cannot be recorded
            runs as it is.

    Returns:
        The compiled step, which draws the same random numbers as the original one.
    """
    torch.compiler.reset()  # the functions that other cells have compiled count against a limit
    inductor: Any = import_module("torch._inductor.config")
    inductor.fallback_random = True
    if not fused:
        fast = torch.compile(step, backend="cudagraphs")
    else:
        fast = torch.compile(step, mode="reduce-overhead") if graphs else torch.compile(step)
    return _in_turn(fast) if graphs else fast


def _in_turn(step: Callable[..., Any]) -> Callable[..., Any]:
    """Tell PyTorch before each call that the results of the last one are no longer needed, whose memory it then uses."""

    def call(*arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return step(*arguments)

    return call
