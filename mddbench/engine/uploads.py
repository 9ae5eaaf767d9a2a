"""Copies to a GPU that run beside its computations, and work that is begun one item ahead of its use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mddbench.batch import on_device

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Give the items of an iterator, but begin each before the one ahead of it is given.

    >>> def numbers():
    ...     for number in range(3):
    ...         print(f"begin {number}")
    ...         yield number
    >>> for number in one_ahead(numbers()):
    ...     print(f"use {number}")
    begin 0
    begin 1
    use 0
    begin 2
    use 1
    use 2

    Args:
        items: The items. Making one begins its work.

    Yields:
        The same items in the same order.
    """
    waiting: list[Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def is_asynchronous(device: torch.device) -> bool:
    """Return True if a device computes while the host goes on."""
    return device.type == "cuda"


def record_event(device: torch.device) -> torch.cuda.Event | None:
    """Record what a device has been given so far, so that one can wait for that alone; None where nothing waits."""
    return torch.cuda.current_stream(device).record_event() if is_asynchronous(device) else None


@dataclass(frozen=True)
class Upload:
    """Arrays on their way to a device.

    Attributes:
        tensors: Their tensors there.
        done: Recorded on a GPU when they have arrived; None elsewhere.
    """

    tensors: tuple[Tensor, ...]
    done: torch.cuda.Event | None = None

    def wait(self) -> tuple[Tensor, ...]:
        """Let the device's computations wait for the copies, but not the host, and return the tensors."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.tensors[0].device)
            stream.wait_event(self.done)
            for tensor in self.tensors:
                tensor.record_stream(stream)  # so that its memory is not given to the next copy too early
        return self.tensors


class Uploader:
    """Copies arrays to a device, on a GPU from pinned memory and in a stream of their own.

    PyTorch keeps the pinned memory. A block of it is used again when its copy is done, so two batches on their way
    take two blocks.

    Attributes:
        device: The device.
        stream: The stream of the copies; None where there are no streams.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare copies to a device."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if is_asynchronous(device) else None  # type: ignore[no-untyped-call]

    def begin(self, *arrays: np.ndarray) -> Upload:
        """Begin to copy arrays. The host does not wait for the end.

        Args:
            arrays: The arrays, at least one.

        Returns:
            Their tensors, which hold the values after `wait`.
        """
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            tensors = tuple(on_device(array, self.device) for array in arrays)
            return Upload(tensors, record_event(self.device))
