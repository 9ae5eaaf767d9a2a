"""Cached features of the frozen teacher for the training images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mddbench.batch import on_device
from mddbench.nn.encoder import FrozenEncoder

GIB = 2**30
"""Number of bytes in a GiB."""


class FeatureCache:
    """Cached features of N images that always look the same.

    The features stay on the device that computed them, in the type in which they were computed.
    The features of an image are computed with the first full batch that contains it.

    On the CPU, cached features equal newly computed ones to the last bit.
    In a batch of another size the last bits can differ. So such a batch neither reads nor fills the cache.

    Attributes:
        encoder: The frozen teacher.
        batch_size: Number of images of a full batch.
        cached: (N,) bool, True for images whose features are cached.
        levels: For each level, (N, H, W, C) or (N, ...) features; empty before the first full batch.
    """

    def __init__(self, encoder: FrozenEncoder, images: int, batch_size: int) -> None:
        """Create an empty cache.

        Args:
            encoder: The frozen teacher.
            images: Number N of images.
            batch_size: Number of images of a full batch.
        """
        self.encoder, self.batch_size = encoder, batch_size
        self.cached = np.zeros(images, dtype=np.bool_)
        self.levels: list[Tensor] = []

    def features(self, chosen: NDArray[np.int64], images: Tensor) -> list[Tensor]:
        """Read the features of a batch from the cache, or compute them.

        Args:
            chosen: (B,) indices of the batch's images among the N images.
            images: (B, 3, H, W) in [0, 1].

        Returns:
            The features of each level, shallow to deep.
        """
        if len(chosen) != self.batch_size:
            return compute_features(self.encoder, images)
        indices = on_device(chosen, images.device)
        if self.cached[chosen].all():
            return [_channels_first(level.index_select(0, indices)) for level in self.levels]
        features = compute_features(self.encoder, images)
        stored = [_channels_last(level) for level in features]
        if not self.levels:
            self.levels = [level.new_empty((len(self.cached), *level.shape[1:])) for level in stored]
        for level, batch in zip(self.levels, stored, strict=True):
            level.index_copy_(0, indices, batch)
        self.cached[chosen] = True
        return features


def compute_features(encoder: FrozenEncoder, images: Tensor) -> list[Tensor]:
    """Return the encoder's features of images, shallow to deep."""
    features: list[Tensor] = encoder(images)
    return features


def features_bytes(encoder: FrozenEncoder, image: Tensor) -> int:
    """Return the number of bytes of the features of one image (1, 3, H, W), in the current precision."""
    return sum(level.nbytes for level in compute_features(encoder, image))


def free_room(device: torch.device) -> float:
    """Return how many bytes cached features may take on a device.

    Args:
        device: Device of the cache.

    Returns:
        Half of the free memory of a GPU; infinity elsewhere, where only the limit of the settings counts.
    """
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else float("inf")


def _channels_last(level: Tensor) -> Tensor:
    """Return a feature map as (B, H, W, C), so that the channels of a position are neighbours; keep others."""
    return level.permute(0, 2, 3, 1) if level.dim() == 4 else level


def _channels_first(level: Tensor) -> Tensor:
    return level.permute(0, 3, 1, 2) if level.dim() == 4 else level
