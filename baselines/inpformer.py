"""INP-Former: each image yields its own normal prototypes, and a decoder rebuilds the image's tokens from them alone.

Paper:     Luo et al., Exploring Intrinsic Normal Prototypes within a Single Image for Universal Anomaly Detection,
           CVPR 2025.
Code read: the authors' luow23/INP-Former at 17d2653 (MIT). None of it is used.
Differs:   Images have no centre crop; the authors resize them to 448 pixels and keep the middle 392.
           Maps keep the image's size. The authors resize them to 256 pixels before smoothing.
Variants:  The authors' is the default: ViT-B/14 with registers, blocks 2 to 9 in two groups
           (`encoder.levels: [[2, 3, 4, 5], [6, 7, 8, 9]]`).
Unsaid:    The paper's pixel AP was measured on masks that were cut at > 0, which enlarges defects; the present code cuts
           at > 0.5, as we do, and its README names lower numbers.
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
from mddbench.nn.gradients import scaled_gradient
from mddbench.nn.precision import at_least_single
from mddbench.nn.reverse_distillation import distance_map, flat_cosine_distance
from mddbench.nn.scores import WindowScoreSettings, describe_highest, mean_of_highest
from mddbench.nn.smoothing import describe_window, window_smooth
from mddbench.nn.token_levels import heads_of, mean_of_blocks, require_token_levels, reversed_groups
from mddbench.nn.transformer import CrossBlock, Mlp, PositiveCosineAttention, as_map, as_tokens, initialise_narrowly
from mddbench.settings import Count, Depth

EPS = 1e-8
"""What the blocks' normalisations add to the variance."""


class INPFormerSettings(WindowScoreSettings):
    """The settings of INP-Former."""

    prototypes: Count = Field(default=6, description="The number of prototypes that are taken from each image.")
    blocks: Depth = Field(default=8, description="The number of the decoder's blocks, a multiple of that of levels.")
    coherence: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.2, description="The weight of the distance between tokens and their nearest prototypes in the loss."
    )
    mining: Annotated[float, Field(ge=0, le=100)] = Field(
        default=3.0,
        description="The gradient at a position is multiplied by (its distance / the mean distance) to this power.",
    )


class INPFormer(Detector[INPFormerSettings]):
    """The map is the smoothed mean over groups of blocks of 1 - cos between encoder and decoder.

    Attributes:
        queries: (prototypes, C), learnt tokens that become the prototypes of an image by reading its tokens.
    """

    label = "INP-Former"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: INPFormerSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_token_levels(encoder, "inpformer", settings.blocks)
        self.smoothing = describe_window(settings.window, settings.sigma)
        self.image_score_rule = describe_highest(settings.highest)
        width = encoder.channels[0]
        heads = heads_of(width)
        self.bottleneck = Mlp(width)
        self.queries = nn.Parameter(torch.randn(settings.prototypes, width))
        self.extractor = CrossBlock(width, heads, eps=EPS)
        self.decoder = nn.ModuleList(
            CrossBlock(width, heads, PositiveCosineAttention, residual=False, eps=EPS) for _ in range(settings.blocks)
        )
        initialise_narrowly([self.bottleneck, self.extractor, self.decoder])

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss terms on a batch of normal images, two scalars."""
        teacher = self.teacher(batch)
        rebuilt, tokens, prototypes = self._rebuilt(teacher)
        terms = {"reconstruction": mined_distance(teacher, rebuilt, self.settings.mining)}
        if self.settings.coherence:
            terms["coherence"] = self.settings.coherence * coherence(tokens, prototypes)
        return terms

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        teacher = self.encoder(images)
        distances = distance_map(teacher, self._rebuilt(teacher)[0], (images.shape[-2], images.shape[-1]))
        return window_smooth(distances / len(teacher), self.settings.window, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): the mean of the highest pixels of each map."""
        return mean_of_highest(maps, self.settings.highest)

    def _rebuilt(self, teacher: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Rebuild the encoder's levels.

        Args:
            teacher: (B, C, H, W) for each level.

        Returns:
            The rebuilt levels, the tokens (B, H * W, C) that were read, and the prototypes (B, K, C).
        """
        tokens = mean_of_blocks([as_tokens(level) for level in teacher], self.encoder.levels)
        prototypes: Tensor = self.extractor(self.queries.expand(len(tokens), -1, -1), tokens)
        current, outputs = self.bottleneck(tokens), []
        for block in self.decoder:
            current = block(current, prototypes)
            outputs.append(current)
        height, width = teacher[0].shape[-2:]
        rebuilt = [as_map(level, height, width) for level in reversed_groups(outputs, len(teacher))]
        return rebuilt, tokens, prototypes


def mined_distance(targets: list[Tensor], features: list[Tensor], power: float) -> Tensor:
    """Compute the mean over levels of `flat_cosine_distance`, with a larger gradient at hard positions.

    The gradient at a position is multiplied by (d / mean d)^power, where d is the position's own 1 - cos and the mean is
    over the batch. The value does not depend on the power.

    Source: section 3.5 of the paper; the code.

    Args:
        targets: (B, C, H, W) for each of the L levels, without gradient.
        features: Of the same shapes.
        power: At least 0; 0 leaves the gradient as it is.

    Returns:
        A scalar in [0, 2].
    """
    mined = []
    for target, feature in zip(targets, features, strict=True):
        distance = 1.0 - F.cosine_similarity(at_least_single(target), at_least_single(feature.detach()), dim=1)
        mined.append(scaled_gradient(feature, (distance / distance.mean())[:, None] ** power))
    return flat_cosine_distance(targets, mined) / len(targets)


def coherence(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Compute the mean distance 1 - cos of tokens to the nearest prototype of their image.

    Source: section 3.3 of the paper.

    Args:
        tokens: (B, N, C).
        prototypes: (B, K, C).

    Returns:
        A scalar in [0, 2].
    """
    directions = F.normalize(at_least_single(tokens), dim=-1)
    cosines = directions @ F.normalize(at_least_single(prototypes), dim=-1).transpose(1, 2)
    return (1.0 - cosines).amin(dim=2).mean()
