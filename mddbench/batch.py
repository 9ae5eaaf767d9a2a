"""What the training loop hands to a method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Normal training images.

    images: (B, 3, H, W) float32 in [0, 1], RGB.
    categories: (B,) int64, the index of each image's category; known in training only.
    textures: (B, 3, H, W) float32 in [0, 1], pictures of anything to draw defects with; None unless the method wants them.
    features: the teacher's of the images, shallow to deep, if they are remembered; `Detector.teacher` takes or computes them.
    """

    images: Tensor
    categories: Tensor
    textures: Tensor | None = None
    features: tuple[Tensor, ...] | None = None


def as_images(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Decoded pixels (B, H, W, 3) uint8 as float32 images (B, 3, H, W) in [0, 1] on `device`, channels last in memory."""
    tensor = torch.from_numpy(np.array(pixels))
    if device.type == "cuda":  # from pinned memory, so that nothing waits for the copy
        tensor = tensor.pin_memory()
    tensor = tensor.to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2).float().div_(255.0)
