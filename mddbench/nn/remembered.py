"""A frozen teacher's features of the training images, remembered from the first time that they are computed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mddbench.nn.encoder import FrozenEncoder

GIB = 2**30


class RememberedFeatures:
    """The features of N images that always look the same, kept on the device that computed them and as they came; each is
    computed in the first whole batch that asks for it. On the CPU what is remembered equals what is computed, to the last bit:
    that is why a batch of another size, whose last bits can differ, neither takes nor gives anything.
    """

    def __init__(self, encoder: FrozenEncoder, images: int, batch_size: int) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self.known = np.zeros(images, dtype=np.bool_)
        self.levels: list[Tensor] = []

    def of(self, chosen: NDArray[np.int64], images: Tensor) -> list[Tensor]:
        """The features of a batch, shallow to deep. chosen: (B,) which of the N images it holds; images: (B, 3, H, W)."""
        if len(chosen) != self.batch_size:
            return computed(self.encoder, images)
        places = torch.from_numpy(chosen).to(images.device)
        if self.known[chosen].all():
            return [_shown(level.index_select(0, places)) for level in self.levels]
        features = computed(self.encoder, images)
        stored = [_stored(level) for level in features]
        if not self.levels:
            self.levels = [level.new_empty((len(self.known), *level.shape[1:])) for level in stored]
        for level, part in zip(self.levels, stored, strict=True):
            level.index_copy_(0, places, part)
        self.known[chosen] = True
        return features


def computed(encoder: FrozenEncoder, images: Tensor) -> list[Tensor]:
    """The encoder's features of images, shallow to deep."""
    features: list[Tensor] = encoder(images)
    return features


def features_bytes(encoder: FrozenEncoder, image: Tensor) -> int:
    """What the features of one image (1, 3, H, W) take, in the precision that is set."""
    return sum(level.nbytes for level in computed(encoder, image))


def free_room(device: torch.device) -> float:
    """Bytes of a GPU that remembered features may take: half of what is free. No limit elsewhere but the one that is given."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else float("inf")


def _stored(level: Tensor) -> Tensor:
    """A level as it is kept: (B, H, W, C) if it is a map, so that its channels lie together."""
    return level.permute(0, 2, 3, 1) if level.dim() == 4 else level


def _shown(level: Tensor) -> Tensor:
    return level.permute(0, 3, 1, 2) if level.dim() == 4 else level
