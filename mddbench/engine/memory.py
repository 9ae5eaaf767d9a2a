"""The least memory that a training needs, so that a training that cannot fit is refused before it starts."""

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
from mddbench.sizes import ImageSize, pixel_count, position_count

FLOAT_BYTES = 4
"""Bytes of a float32."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files in which Linux reports the memory limit of a container."""


def memory_of(device: torch.device) -> int | None:
    """Return the total memory of a device.

    Args:
        device: A GPU; for any other device the memory of the machine or container counts.

    Returns:
        Bytes, None if the system does not report them.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = []
    with suppress(OSError, ValueError, AttributeError):  # not every system has these names
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in LIMITS:
        with suppress(OSError, ValueError):  # the content can be 'max', which is no number
            limits.append(int(file.read_text(encoding="ascii")))
    return min(limits, default=None)


def demand_memory(needed: int, device: torch.device, experiment: str, purpose: str) -> None:
    """Check that a device has enough memory.

    Args:
        needed: Number of bytes.
        device: The device.
        experiment: Name of the experiment, for the message.
        purpose: What needs the memory, for the message.

    Raises:
        InputError: If more bytes are needed than the device has.
    """
    available = memory_of(device)
    if available is not None and needed > available:
        raise InputError(
            f"{experiment}: {purpose} takes {needed / 2**30:.1f} GiB at least, "
            f"{device} has {available / 2**30:.1f} GiB of memory; choose smaller settings"
        )


def bytes_of_batch(encoder: FrozenEncoder, images: int, size: ImageSize) -> int:
    """Compute the bytes of a batch of images and of their features.

    Args:
        encoder: The frozen teacher.
        images: Number of images.
        size: The size of the images.

    Returns:
        Bytes in float32.
    """
    levels = zip(encoder.channels, encoder.strides, strict=True)
    features = sum(channels * position_count(size, stride) for channels, stride in levels)
    return images * FLOAT_BYTES * (3 * pixel_count(size) + features)


def bytes_of_model(build: Callable[[], Detector], optimizer: str) -> int:
    """Compute the bytes of a model's parameters and buffers, with the gradients and the state of the optimiser.

    The model is built on PyTorch's 'meta' device, so it takes no memory.

    Args:
        build: Builds the model.
        optimizer: Name of the optimiser.

    Returns:
        Bytes; 0 for a model that cannot be built on that device.
    """
    try:
        with torch.device("meta:0"):
            detector = build()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):  # it reads values, which do not exist there
        return 0
    learned = sum(_bytes(value) for value in detector.parameters() if value.is_meta and value.requires_grad)
    total = sum(_bytes(value) for value in (*detector.parameters(), *detector.buffers()) if value.is_meta)
    return total + learned * (2 if optimizer == "sgd" else 3)


class SavedForBackward:
    """Counts the bytes that PyTorch saves for the gradients of the steps inside a `with` block, without the weights.

    Attributes:
        counted: Addresses of the storages that were counted, and of those of the weights.
        bytes: Number of bytes so far.
        hooks: PyTorch's context manager that reports each saved tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        """Create a counter.

        Args:
            model: The model, whose parameters and buffers do not count.
        """
        self.counted = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
        self.bytes = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda value: value)

    def __enter__(self) -> SavedForBackward:
        self.hooks.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self.hooks.__exit__(*failure)

    def _count(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.counted:
            self.counted.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return value


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
