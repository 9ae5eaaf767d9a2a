"""Maps and scores of a trained model, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.batch import as_images
from mddbench.data.dataset import Split
from mddbench.detector import Detector
from mddbench.engine.device import autocast
from mddbench.engine.uploads import is_asynchronous, one_ahead, record_event

BATCH_SIZE = 32
"""Number of images that are scored at once."""


@dataclass(frozen=True)
class Scored:
    """The results of a batch, in the method's type, but at least float32. On a GPU they may still be on their way.

    Attributes:
        indices: Indices of its images.
        maps: (B, H, W) anomaly maps on the device.
        copies: The maps and the scores (B,), copied to the host. They are valid after `wait`.
        done: Recorded on a GPU when the copies have arrived; None elsewhere.
    """

    indices: slice
    maps: torch.Tensor
    copies: tuple[torch.Tensor, torch.Tensor]
    done: torch.cuda.Event | None

    def wait(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Wait for the copies, but not for what the device was given since, and return maps and scores."""
        if self.done is not None:
            self.done.synchronize()
        maps, scores = self.copies
        return maps.numpy(), scores.numpy()


@torch.inference_mode()
def infer(detector: Detector, pixels: NDArray[np.uint8], precision: str, category: int, start: int = 0) -> Scored:
    """Compute maps and scores of decoded images. The host does not wait for a GPU.

    Args:
        detector: The trained model, in evaluation mode.
        pixels: (B, H, W, 3) uint8, RGB.
        precision: 'float32', 'bfloat16' or 'float16'.
        category: Index of the images' category. Only a method that asks for test labels is told it.
        start: Index of the first image.

    Returns:
        Maps and scores.
    """
    device = next(detector.parameters()).device
    images = as_images(pixels, device)
    with autocast(device, precision):
        maps, scores = detector.maps_and_scores(images, category)
    copies = maps.to("cpu", non_blocking=True), scores.to("cpu", non_blocking=True)
    return Scored(slice(start, start + len(pixels)), maps, copies, record_event(device))


def infer_split(detector: Detector, split: Split, precision: str, category: int) -> Iterator[Scored]:
    """Compute maps and scores of the images of one category, batch by batch.

    A GPU computes the next batch while the host has one.

    Args:
        detector: The trained model, in evaluation mode.
        split: The images.
        precision: 'float32', 'bfloat16' or 'float16'.
        category: Index of the category in the dataset, as for `infer`.

    Yields:
        The results of each batch.
    """
    batches = (
        infer(detector, split.images[start : start + BATCH_SIZE], precision, category, start)
        for start in range(0, len(split), BATCH_SIZE)
    )
    yield from one_ahead(batches) if is_asynchronous(next(detector.parameters()).device) else batches
