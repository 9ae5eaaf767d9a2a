"""MemAE (features): the memory of MemAE between the features of a frozen encoder, in place of pixels.

Paper:     Gong et al., Memorizing Normality to Detect Anomaly, ICCV 2019, for the memory. Its text could be read in
           part only. The rest is ours.
Code read: the authors' donggong1/memae-anomaly-detection at ceece77 (MIT), which is for videos. None of it is used.
Differs:   Features of a frozen encoder are rebuilt, not pixels, so this is no MemAE of the authors.
           Two 1x1 convolutions on each side of the memory take the place of the autoencoder, so that no position sees
           its neighbours. Features are divided by their mean length in training, level by level.
           The map and the image's score (the maximum) are those of the field.
Unsaid:    All sizes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.memory_items import AddressedMemory, AddressingSettings, entropy
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Count, Pixels, Strict

TINY = 1e-6
KEPT = 0.9
"""Share of the old value in the moving average of the features' length."""


class MemAEFeaturesSettings(Strict):
    """The settings of MemAE (features)."""

    level: Annotated[int, Field(ge=0, le=63)] = Field(
        default=1, description="The level, counted from 0 among those of the experiment, to whose grid all are brought."
    )
    width: Count = Field(default=128, description="The number of channels of a query and of an item.")
    addressing: AddressingSettings = Field(
        default=AddressingSettings(), description="The settings of the memory and of its reading."
    )
    entropy: Annotated[float, Field(ge=0, le=10)] = Field(
        default=2e-4, description="The weight of the mean entropy of the memory's weights in the loss."
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class MemAEFeatures(Detector[MemAEFeaturesSettings]):
    """Features pass a memory and are rebuilt. The map is the smoothed distance of features to the rebuilt ones.

    Attributes:
        down: The network before the memory, at each position alone.
        memory: The memory, which is read at each position.
        up: The network behind the memory, at each position alone.
        lengths: (levels,) moving averages of the root mean square of the features of each level.
    """

    label = "MemAE (features)"
    version = 1
    asks_teacher = True
    lengths: Tensor

    def __init__(self, encoder: FrozenEncoder, settings: MemAEFeaturesSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        channels, width = sum(encoder.channels), settings.width
        self.down, self.up = pointwise(channels, width, width), pointwise(width, width, channels)
        self.memory = AddressedMemory(width, settings.addressing)
        self.register_buffer("lengths", torch.ones(len(encoder.channels)))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            Two scalar loss terms: the mean square of the error of scaled features, and the weighted entropy.
        """
        levels = [at_least_single(level) for level in self.teacher(batch)]
        with torch.no_grad():
            lengths = torch.stack([level.square().mean().sqrt() for level in levels])
            self.lengths.lerp_(lengths.to(self.lengths), 1 - KEPT)
        features = self._joined(levels)
        rebuilt, weights = self._rebuilt(features)
        return {"reconstruction": F.mse_loss(rebuilt, features), "entropy": self.settings.entropy * entropy(weights)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        features = self._joined([at_least_single(level) for level in self.encoder(images)])
        rebuilt, _ = self._rebuilt(features)
        grids = (rebuilt - features).norm(dim=1, keepdim=True)
        size = (images.shape[-2], images.shape[-1])
        maps = F.interpolate(grids, size, mode="bilinear", align_corners=False)[:, 0]
        return gaussian_smooth(maps, self.settings.sigma)

    def diagnostics(self) -> dict[str, float]:
        """Return the share of items that are alive, and the share of positions that get an answer."""
        return self.memory.diagnostics()

    def _joined(self, levels: list[Tensor]) -> Tensor:
        """All levels (B, C_l, H_l, W_l), scaled, on the grid of one of them: (B, sum C_l, H, W)."""
        middle = levels[min(self.settings.level, len(levels) - 1)]
        grid = (middle.shape[-2], middle.shape[-1])
        scaled = [level / (length + TINY) for level, length in zip(levels, self.lengths, strict=True)]
        return torch.cat([F.interpolate(each, grid, mode="bilinear", align_corners=False) for each in scaled], dim=1)

    def _rebuilt(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What is rebuilt of features (B, C, H, W), and the memory's weights (B, H, W, N)."""
        read, weights = self.memory(self.down(features).movedim(1, -1))
        return at_least_single(self.up(read.movedim(-1, 1))), weights


def pointwise(before: int, between: int, after: int) -> nn.Sequential:
    """Create two 1x1 convolutions with a norm and an activation between them."""
    return nn.Sequential(
        nn.Conv2d(before, between, 1), nn.BatchNorm2d(between), nn.LeakyReLU(0.2), nn.Conv2d(between, after, 1)
    )
