"""ViTAD: a plain vision transformer rebuilds the features of a frozen one from its last block.

Paper:     Zhang et al., Exploring Plain ViT Reconstruction for Multi-class Unsupervised Anomaly Detection,
           arXiv 2312.07495.
Code read: the authors' zhangzjn/ADer, model/vitad.py and configs/benchmark/vitad (no licence for this part). None of it
           is used.
Differs:   The decoder has no patch embedding and no heads for 1000 classes, which the authors' has and never uses.
Variants:  The authors' is the default: DINO's ViT-S/16 at 256 pixels, targets after blocks 3, 6 and 9, and block 12 for
           the bottleneck, counted from 1 (`encoder.levels: [2, 5, 8, 11]`).
Unsaid:    The paper does not say that its loss is that of flattened levels, summed.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.reverse_distillation import distance_map, flat_cosine_distance
from mddbench.nn.scores import describe_pooled, pooled_maximum
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.token_levels import heads_of, require_token_levels
from mddbench.nn.tokens import Linear
from mddbench.nn.transformer import Block, as_map, as_tokens
from mddbench.settings import Count, Depth, Pixels, Strict

DEVIATION = 0.02
"""Standard deviation of the initial weights and positions, as in timm's vision transformers."""


class ViTADSettings(Strict):
    """The settings of ViTAD."""

    grid: Count = Field(
        default=16, description="The side of the grid of patches: the image size divided by the side of a patch."
    )
    blocks: Depth = Field(
        default=9,
        description="The number of the decoder's blocks, a multiple of the number of levels that it rebuilds.",
    )
    pool: Count = Field(
        default=16,
        description="The side of the window, in pixels, over which a map is averaged before its maximum is taken.",
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class ViTAD(Detector[ViTADSettings]):
    """The map is the smoothed sum over levels of 1 - cos. The encoder's last level is the one that the decoder reads.

    Attributes:
        positions: (1, grid^2, C), learnt embeddings of the positions.
    """

    label = "ViTAD"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: ViTADSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_token_levels(encoder, "vitad")
        targets = len(encoder.levels) - 1
        if targets < 1 or settings.blocks % targets:
            raise InputError(
                f"vitad: expected at least two levels, the last one for the bottleneck, and a number of blocks that is a "
                f"multiple of the others; found levels {list(encoder.levels)} and {settings.blocks} blocks"
            )
        self.smoothing = describe_smoothing(settings.sigma)
        self.image_score_rule = describe_pooled(settings.pool)
        width = encoder.channels[0]
        self.every = settings.blocks // targets
        self.bottleneck = nn.Linear(width, width)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, settings.grid**2, width), std=DEVIATION))
        self.decoder = nn.ModuleList(Block(width, heads_of(width)) for _ in range(settings.blocks))
        for layer in (layer for layer in self.decoder.modules() if isinstance(layer, Linear)):
            nn.init.trunc_normal_(layer.weight, std=DEVIATION)
            nn.init.zeros_(layer.bias)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the reconstruction loss, a scalar, on a batch of normal images."""
        *targets, embedding = self.teacher(batch)
        return {"reconstruction": flat_cosine_distance(targets, self._rebuilt(embedding))}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        *targets, embedding = self.encoder(images)
        distances = distance_map(targets, self._rebuilt(embedding), (images.shape[-2], images.shape[-1]))
        return gaussian_smooth(distances, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): the maximum of each map after averaging."""
        return pooled_maximum(maps, self.settings.pool)

    def _rebuilt(self, embedding: Tensor) -> list[Tensor]:
        """The levels (B, C, H, W), shallow to deep, that the decoder rebuilds from the encoder's last level."""
        grid, side = self.settings.grid, embedding.shape[-1]
        if embedding.shape[-2:] != (grid, grid):
            rows = embedding.shape[-2]
            if rows != side:
                raise InputError(f"vitad: images have {rows}x{side} patches; it takes square images only")
            raise InputError(f"vitad: images have {side} patches a side, settings.grid is {grid}; set it to {side}")
        tokens, rebuilt = self.bottleneck(as_tokens(embedding)) + self.positions, []
        for number, block in enumerate(self.decoder, 1):
            tokens = block(tokens)
            if number % self.every == 0:
                rebuilt.append(as_map(tokens, grid, grid))
        return rebuilt[::-1]
