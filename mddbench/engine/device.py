"""The device that a cell runs on."""

from __future__ import annotations

from typing import Any

import torch

from mddbench.errors import InputError


def choose_device(name: str) -> torch.device:
    """'auto' takes a GPU if there is one. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("expected auto, cpu, cuda or mps")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as fault:
        raise InputError(f"--device {name}: not usable here ({str(fault).splitlines()[0]}); use auto or cpu") from None
    return device


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
