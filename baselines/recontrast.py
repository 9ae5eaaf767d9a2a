"""ReContrast: reverse distillation between a frozen encoder and a copy of it that is trained along.

One bottleneck and one decoder read the features of both encoders. From those of the trained encoder they rebuild the
frozen one's features, and from those of the frozen encoder the trained one's.

Paper:     Guo et al., ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction, NeurIPS 2023.
Code read: the authors' guojiajeremy/ReContrast at 381ef13 (no licence), its script for several categories, and the same
           script in guojiajeremy/Dinomaly at c5c76d0 (Apache-2.0). None of it is used.
Differs:   The share of steps counts over the whole training, whose length is in epochs here.
           Maps keep the image's size. The authors resize them to 256 pixels before smoothing; at 256 it is the same.
           Any encoder with three levels works, as for RD4AD.
Variants:  The authors' own script is the default: AdamW with AMSGrad, and a decoder of 3, 4 and 6 blocks, deep to shallow.
           The script in Dinomaly's repository, whose results are published, has StableAdamW and 6, 4 and 3 blocks
           (`settings.decoder_blocks`, `optimizer.name`).
Unsaid:    The paper writes the loss per position. The code flattens each level to one vector, and so do we.
           The code keeps BatchNorm of the trained encoder in evaluation mode for several categories at once, and so do we.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single
from mddbench.nn.reverse_distillation import (
    Bottleneck,
    Decoder,
    distance_map,
    flat_cosine_distance,
    kaiming_initialise,
    require_halving_levels,
    student_of,
)
from mddbench.nn.scores import WindowScoreSettings, describe_highest, mean_of_highest
from mddbench.nn.smoothing import describe_window, window_smooth
from mddbench.nn.student import StudentSettings, describe_student, require_equal_shapes
from mddbench.nn.trained_encoder import TrainedEncoder
from mddbench.settings import Fraction, Positive
from mddbench.sizes import image_size_of

Deviations = Annotated[float, Field(ge=-1e6, le=1e6)]


class ReContrastSettings(StudentSettings, WindowScoreSettings):
    """The settings of ReContrast."""

    encoder_rate: Positive = Field(
        default=0.005, description="The learning rate of the trained encoder divided by that of bottleneck and decoder."
    )
    easy_first: Deviations = Field(
        default=-3.0,
        description="Positions count as learnt if their distance is this many standard deviations above the mean, "
        "at the first step. They get no gradient.",
    )
    easy_last: Deviations = Field(default=1.0, description="The same number from the end of the ramp on.")
    ramp: Fraction = Field(default=0.1, description="The share of the training in which it goes from first to last.")


class ReContrast(Detector[ReContrastSettings]):
    """Two encoders rebuild each other's features. The map is the smoothed mean of six maps of 1 - cos."""

    label = "ReContrast"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: ReContrastSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_halving_levels(encoder, "recontrast")
        self.smoothing = describe_window(settings.window, settings.sigma)
        self.image_score_rule = describe_highest(settings.highest)
        self.network, student = describe_student(encoder, settings), student_of(encoder.name)
        self.trained = TrainedEncoder(encoder)
        self.bottleneck = Bottleneck(encoder.channels, settings.bottleneck_width, student)
        self.decoder = Decoder(encoder.channels, settings.decoder_blocks, student, nn.GELU)
        self.to_frozen = outputs(encoder.channels)
        self.to_trained = outputs(encoder.channels)

    def parameter_groups(self, lr: float) -> Iterable[dict[str, Any]]:
        """Return two groups: the trained encoder with a rate of its own, and all that rebuilds."""
        parts = (self.bottleneck, self.decoder, self.to_frozen, self.to_trained)
        return [
            {"params": [value for part in parts for value in part.parameters()], "lr": lr},
            {"params": list(self.trained.parameters()), "lr": lr * self.settings.encoder_rate},
        ]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images: half the distance to each encoder, two scalars."""
        frozen, trained = self.teacher(batch), self.trained(batch.images)
        to_frozen, to_trained = self._rebuilt(frozen, trained, batch.images)
        limit = easy_limit(self.settings, batch.progress)
        return {
            "to_frozen": hard_cosine_distance(frozen, to_frozen, limit) / 2,
            "to_trained": hard_cosine_distance([level.detach() for level in trained], to_trained, limit) / 2,
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        height, width = images.shape[-2:]
        frozen, trained = self.encoder(images), self.trained(images)
        to_frozen, to_trained = self._rebuilt(frozen, trained, images)
        distances = distance_map([*frozen, *trained], [*to_frozen, *to_trained], (height, width))
        return window_smooth(distances / (2 * len(frozen)), self.settings.window, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores: the mean of the highest pixels of each map.

        Args:
            maps: (B, H, W).

        Returns:
            (B,).
        """
        return mean_of_highest(maps, self.settings.highest)

    def _rebuilt(
        self, frozen: list[Tensor], trained: list[Tensor], images: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Rebuild each encoder's features from those of the other one.

        Both pass bottleneck and decoder in one batch, so they share the averages of BatchNorm.

        Args:
            frozen: (B, C_l, H_l, W_l) features of the frozen encoder for each level.
            trained: Features of the trained encoder.
            images: (B, 3, H, W), for the message if their size does not fit.

        Returns:
            The rebuilt features of the frozen encoder, and those of the trained one. An InputError says if the size of
            the images does not fit.
        """
        both = [torch.cat(levels) for levels in zip(trained, frozen, strict=True)]
        decoded: list[Tensor] = self.decoder(self.bottleneck(both))
        require_equal_shapes(both, decoded, self.encoder, image_size_of(*images.shape[-2:]), "recontrast")
        # In the backward pass, halves of one split are joined at once; slices would each be filled up with zeros.
        halves = [level.chunk(2) for level in decoded]
        to_frozen = [layer(half) for layer, (half, _) in zip(self.to_frozen, halves, strict=True)]
        to_trained = [layer(half) for layer, (_, half) in zip(self.to_trained, halves, strict=True)]
        return to_frozen, to_trained


def outputs(channels: tuple[int, ...]) -> nn.ModuleList:
    """Make a 1x1 convolution for each level, with as many output channels as input channels."""
    layers = nn.ModuleList(nn.Conv2d(width, width, 1) for width in channels)
    kaiming_initialise(layers)
    return layers


def easy_limit(settings: ReContrastSettings, progress: float) -> float:
    """Compute the number of standard deviations above the mean up to which a position counts as learnt.

    Args:
        settings: The settings, with the ramp.
        progress: The share of the training that is done, in [0, 1).

    Returns:
        The number.
    """
    if progress >= settings.ramp:
        return settings.easy_last
    return settings.easy_first + (settings.easy_last - settings.easy_first) * progress / settings.ramp


def hard_cosine_distance(targets: list[Tensor], features: list[Tensor], limit: float) -> Tensor:
    """Compute `flat_cosine_distance` with a gradient at hard positions only.

    A position is hard if its own 1 - cos is not below the mean of the level and the batch, plus `limit` standard deviations.
    The value does not depend on the limit.

    Source: section 3.4 of the paper; the code.

    Args:
        targets: (B, C_l, H_l, W_l) for each of the L levels, without gradient.
        features: Of the same shapes.
        limit: The number of standard deviations.

    Returns:
        A scalar in [0, 2 L].
    """
    kept = []
    for target, feature in zip(targets, features, strict=True):
        fixed = feature.detach()
        distance = 1.0 - F.cosine_similarity(at_least_single(target), at_least_single(fixed), dim=1)
        easy = distance < distance.mean() + limit * distance.std()
        kept.append(torch.where(easy[:, None], fixed, feature))
    return flat_cosine_distance(targets, kept)
