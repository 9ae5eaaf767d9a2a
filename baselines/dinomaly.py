"""Dinomaly: a transformer decoder rebuilds, loosely, what a frozen vision transformer sees.

A dropout in the bottleneck, attention that cannot focus and a loss over groups of layers keep it from copying defects.

Paper:     Guo et al., Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection, CVPR 2025.
Code read: the authors' guojiajeremy/Dinomaly at c5c76d0 (Apache-2.0). None of it is used.
Differs:   Images have no centre crop; the authors resize them to 448 pixels and keep the middle 392.
           Maps keep the image's size. The authors resize them to 256 pixels before smoothing.
           Shares of steps count over the whole training, whose length is in epochs here.
Variants:  The authors' is the default: ViT-B/14 with registers, blocks 2 to 9 in two groups
           (`encoder.levels: [[2, 3, 4, 5], [6, 7, 8, 9]]`), class and register tokens (`encoder.prefix_tokens: true`).
           `settings.dropout: 0.4` is theirs for Real-IAD.
Unsaid:    The paper does not say that its loss is that of flattened groups, as in RD4AD's code.
           Its optimiser keeps AMSGrad's maximum, which StableAdamW's paper does not have.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.gradients import scaled_gradient
from mddbench.nn.precision import at_least_single
from mddbench.nn.reverse_distillation import distance_map, flat_cosine_distance
from mddbench.nn.scores import WindowScoreSettings, describe_highest, mean_of_highest
from mddbench.nn.smoothing import describe_window, window_smooth
from mddbench.nn.token_levels import TokenDecoder, mean_of_blocks, require_token_levels, token_levels
from mddbench.nn.transformer import LinearAttention, Mlp, SelfAttention, initialise_narrowly
from mddbench.settings import BelowOne, Depth, Fraction

ATTENTIONS = {"linear": LinearAttention, "softmax": SelfAttention}
EPS = 1e-8
"""What the decoder's normalisations add to the variance."""


class DinomalySettings(WindowScoreSettings):
    """The settings of Dinomaly."""

    dropout: BelowOne = Field(default=0.2, description="The probability of dropout in the bottleneck.")
    blocks: Depth = Field(default=8, description="The number of the decoder's blocks, a multiple of that of levels.")
    attention: Literal["linear", "softmax"] = Field(
        default="linear", description="The decoder's attention. linear cannot focus on single tokens."
    )
    easy: BelowOne = Field(
        default=0.9, description="The share of positions that count as easy, from the ramp's end on."
    )
    easy_gradient: Fraction = Field(default=0.1, description="The factor of the gradient at easy positions.")
    ramp: Fraction = Field(default=0.1, description="The share of the training in which easy positions come to count.")


class Dinomaly(Detector[DinomalySettings]):
    """The map is the smoothed mean over groups of blocks of 1 - cos between encoder and decoder."""

    label = "Dinomaly"
    version = 1
    asks_teacher = True
    takes_prefix_tokens = True

    def __init__(self, encoder: FrozenEncoder, settings: DinomalySettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_token_levels(encoder, "dinomaly", settings.blocks)
        self.smoothing = describe_window(settings.window, settings.sigma)
        self.image_score_rule = describe_highest(settings.highest)
        width, levels = encoder.channels[0], len(encoder.levels)
        self.bottleneck = Mlp(width, settings.dropout)
        self.decoder = TokenDecoder(width, settings.blocks, levels, ATTENTIONS[settings.attention], EPS)
        initialise_narrowly([self.bottleneck, self.decoder])

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loose reconstruction loss, a scalar, on a batch of normal images."""
        teacher, rebuilt = self._rebuilt(self.teacher(batch))
        easy = self.settings.easy
        easy *= min(1.0, batch.progress / self.settings.ramp) if self.settings.ramp else 1.0
        return {"reconstruction": loose_distance(teacher, rebuilt, easy, self.settings.easy_gradient)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        teacher, rebuilt = self._rebuilt(self.encoder(images))
        distances = distance_map(teacher, rebuilt, (images.shape[-2], images.shape[-1]))
        return window_smooth(distances / len(teacher), self.settings.window, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): the mean of the highest pixels of each map."""
        return mean_of_highest(maps, self.settings.highest)

    def _rebuilt(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of the encoder's levels, and the same maps as the decoder rebuilds them."""
        maps = features[: len(self.encoder.levels)]
        tokens = token_levels(features, len(maps))
        embedding = self.bottleneck(mean_of_blocks(tokens, self.encoder.levels))
        return maps, self.decoder(embedding, self.encoder.prefix_tokens, (maps[0].shape[-2], maps[0].shape[-1]))


def loose_distance(targets: list[Tensor], features: list[Tensor], easy: float, factor: float) -> Tensor:
    """Compute the mean over levels of `flat_cosine_distance`, with a smaller gradient at easy positions.

    A position is easy if its own 1 - cos is below that of all but the hardest share 1 - `easy` of the batch's positions.
    The value depends neither on the share nor on the factor.

    Source: section 3.4 of the paper; the code.

    Args:
        targets: (B, C, H, W) for each of the L levels, without gradient.
        features: Of the same shapes.
        easy: The share of positions that are easy, in [0, 1).
        factor: The factor of their gradient.

    Returns:
        A scalar in [0, 2].
    """
    loose = []
    for target, feature in zip(targets, features, strict=True):
        distance = 1.0 - F.cosine_similarity(at_least_single(target), at_least_single(feature.detach()), dim=1)
        hard = max(1, int(distance.numel() * (1.0 - easy)))
        limit = distance.flatten().topk(hard).values[-1]
        factors = distance.new_ones(()).where(distance >= limit, factor)
        loose.append(scaled_gradient(feature, factors[:, None]))
    return flat_cosine_distance(targets, loose) / len(targets)
