"""What a training needs of a memory at the least, so that one that obviously cannot fit is refused before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder

FLOAT = 4
"""Bytes of a float32."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may use."""


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory that there are on a device in all; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = []
    with suppress(OSError, ValueError, AttributeError):  # not every system has these
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in LIMITS:
        with suppress(OSError, ValueError):  # 'max' is no number
            found.append(int(file.read_text(encoding="ascii")))
    return min(found, default=None)


def demand_memory(needed: int, device: torch.device, where: str, what: str) -> None:
    """Raise InputError if so many bytes are more than the device has. where, what: for the message."""
    there = memory_of(device)
    if there is not None and needed > there:
        raise InputError(
            f"{where}: {what} takes {needed / 2**30:.1f} GiB at least, {device} has {there / 2**30:.1f} GiB of memory; "
            "choose smaller settings"
        )


def bytes_of_batch(encoder: FrozenEncoder, images: int, size: int) -> int:
    """Bytes of a batch of images of `size` x `size` pixels and of their features."""
    places = zip(encoder.channels, encoder.strides, strict=True)
    return images * FLOAT * (3 * size**2 + sum(channels * (size // stride) ** 2 for channels, stride in places))


def bytes_of_model(build: Callable[[], Detector], optimizer: str) -> int:
    """Bytes of what a model learns and holds, with its gradients and what the optimiser remembers; built without memory, and 0
    for one that cannot be.
    """
    try:
        with torch.device("meta:0"):
            detector = build()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):  # it looks at values, and there are none
        return 0
    learned = sum(_bytes(value) for value in detector.parameters() if value.is_meta and value.requires_grad)
    held = sum(_bytes(value) for value in (*detector.parameters(), *detector.buffers()) if value.is_meta)
    return held + learned * (2 if optimizer == "sgd" else 3)


class Remembered:
    """Counts the bytes that steps inside remember for their gradients, weights apart."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
        self.bytes = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda value: value)

    def __enter__(self) -> Remembered:
        self.hooks.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self.hooks.__exit__(*failure)

    def _count(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return value


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
