"""The batch of training images that the training loop passes to a method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of normal training images.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1], RGB.
        categories: (B,) int64, the index of each image's category. It is known in training only.
        textures: (B, 3, H, W) float32 in [0, 1], pictures of any kind to draw defects with.
            None unless the method wants them.
        features: Cached features of the frozen teacher for these images, shallow to deep. None if there are none.
            `Detector.teacher` returns them, or computes them where they are None.
        progress: Share of all training steps that were done before this one, in [0, 1).
            It is for methods with phases.
        first_epoch: True in the first epoch, in which every image is seen for the first time.
            It is for methods that collect something beside their training.
    """

    images: Tensor
    categories: Tensor
    textures: Tensor | None = None
    features: tuple[Tensor, ...] | None = None
    progress: float = 0.0
    first_epoch: bool = False


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device. The host does not wait for a GPU.

    Args:
        values: The array.
        device: Where it is wanted.

    Returns:
        A tensor of the same shape and type.
    """
    tensor = torch.from_numpy(np.array(values))
    if device.type == "cuda":  # from pinned memory the copy runs without making the host wait
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def as_images(pixels: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Turn decoded pixels into images on a device.

    Args:
        pixels: (B, H, W, 3) uint8, RGB. A tensor is on the device already.
        device: Where the images are wanted.

    Returns:
        (B, 3, H, W) float32 in [0, 1], with channels last in memory.
    """
    tensor = pixels if isinstance(pixels, Tensor) else on_device(pixels, device)
    return tensor.permute(0, 3, 1, 2).float().div_(255.0)
