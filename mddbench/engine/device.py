"""The device on which a cell runs."""

from __future__ import annotations

from typing import Any

import torch

from mddbench.errors import InputError


def choose_device(name: str) -> torch.device:
    """Choose the device for a name of the command line.

    Args:
        name: 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'. 'auto' is a GPU if there is one, otherwise the CPU.

    Returns:
        The device.

    Raises:
        InputError: If the device does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return _usable_device(name)
    except (RuntimeError, AssertionError) as fault:
        raise InputError(f"--device {name}: not usable here ({str(fault).splitlines()[0]}); use auto or cpu") from None


def _usable_device(name: str) -> torch.device:
    """Create the device. RuntimeError or AssertionError is raised if it cannot hold a tensor."""
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise RuntimeError("expected auto, cpu, cuda, cuda:1 or mps")
    device = torch.device(name)
    torch.empty(1, device=device)
    return device


def autocast(device: torch.device, precision: str) -> Any:
    """Return a context manager for the precision of an experiment.

    Args:
        device: Device of the model.
        precision: 'float32', 'bfloat16' or 'float16'. The last two mean mixed precision.

    Returns:
        PyTorch's context manager, which has no effect for 'float32'.

    Raises:
        InputError: For float16 on a device that is no GPU.
    """
    if precision == "float16" and device.type != "cuda":
        raise InputError("precision float16 needs a CUDA device; use bfloat16 or float32 on the CPU")
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work, so that measured times are correct."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
