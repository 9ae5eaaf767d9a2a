"""A second encoder that starts as the frozen one and is trained."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from mddbench.nn.encoder import FrozenEncoder


class TrainedEncoder(nn.Module):
    """A trainable copy of a frozen encoder. It stays in evaluation mode, so its BatchNorm keeps the averages it has.

    Attributes:
        backbone: timm's model, all of whose parameters are trained.
        channels_last_out: Whether the backbone gives features as (B, H, W, C), as Swin does.
        mean: (1, 3, 1, 1) mean for the normalisation of images.
        std: (1, 3, 1, 1) standard deviation for the normalisation of images.
    """

    def __init__(self, encoder: FrozenEncoder) -> None:
        """Copy an encoder with its weights.

        Args:
            encoder: The frozen encoder, which is not changed.
        """
        super().__init__()
        self.backbone: Any = deepcopy(encoder.backbone).requires_grad_(True)
        self.channels_last_out = encoder.channels_last_out
        self.register_buffer("mean", encoder.mean.clone(), persistent=False)
        self.register_buffer("std", encoder.std.clone(), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.eval()

    def train(self, mode: bool = True) -> TrainedEncoder:  # noqa: ARG002
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of images, with gradient.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            One (B, C_l, H / stride_l, W / stride_l) tensor for each level l, shallow to deep.
        """
        features: list[Tensor] = self.backbone((images - self.mean) / self.std)
        return [level.movedim(-1, 1) for level in features] if self.channels_last_out else features
