"""RD++: reverse distillation with a projection before the bottleneck, trained to ignore noise in the teacher's features.

Each level of the teacher is projected, and the bottleneck reads the projected levels. The student rebuilds the teacher's own.
Training also shows images with a patch of simplex noise. Their projection should look like that of the unchanged images.

Paper:     Tien et al., Revisiting Reverse Distillation for Anomaly Detection, CVPR 2023.
Code read: the authors' tientrandinh/Revisiting-Reverse-Distillation at 7f2ceb7 (MIT).
Differs:   There is one model for all categories; the authors train one per category, and keep the epoch
           with the best test scores.
           The term with the optimal transport (SSOT) is left out. The authors' code compares a batch with the same batch
           in another order, so it is zero but for rounding. The other terms keep their weights.
           Each batch has a step of its own. The authors add up the gradients of two batches of 16.
           Each image has noise of its own. In the authors' code all patches are the corner of one noise, drawn once.
           Patch and wavelengths scale with the image; at 256 pixels they are the authors'.
           Any encoder with three levels works, as for RD4AD. No projection is narrower than `narrowest`.
Variants:  The authors' is the default. `settings.bottleneck_width: 64` and schedule `step` at 0.8 give the variant of the
           ADer benchmark. Its code clears the gradients before each batch and steps after every second one, so half of
           the batches are lost.
Unsaid:    The paper weighs the terms in one sum. The code divides those of the projections by the sum of their weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.foreign_names import PROJECTED_DISTILLATION, renamed
from mddbench.nn.precision import at_least_single
from mddbench.nn.reverse_distillation import (
    Bottleneck,
    Decoder,
    distance_map,
    flat_cosine_distance,
    require_halving_levels,
    student_of,
)
from mddbench.nn.simplex import NoiseSettings, with_noise_patch
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.student import StudentSettings, describe_student, require_equal_shapes
from mddbench.settings import Count, Pixels, Positive
from mddbench.sizes import image_size_of

Weight = Annotated[float, Field(ge=0, le=1e4)]


class RDPlusPlusSettings(StudentSettings):
    """The settings of RD++."""

    narrowest: Count = Field(
        default=8,
        description="The least number of channels inside a projection. Else it has a half and a quarter of its level's.",
    )
    noise: NoiseSettings = Field(default=NoiseSettings(), description="The noise on the images.")
    projection_weight: Weight = Field(
        default=0.2, description="The weight of the projections' terms beside the distillation."
    )
    reconstruction_weight: Weight = Field(
        default=0.01, description="The weight of the distance between projections with noise and without."
    )
    contrast_weight: Weight = Field(
        default=0.1,
        description="The weight of the similarity between features with noise and projections without.",
    )
    transport_weight: Weight = Field(
        default=1.0,
        description="The weight of the term that is zero. The weights of the projections' terms are divided by the "
        "sum of all three.",
    )
    margin: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=0.5, description="The cosine similarity from which on the contrast term counts."
    )
    projection_rate: Positive = Field(
        default=0.2, description="The learning rate of the projections divided by that of bottleneck and decoder."
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class RDPlusPlus(Detector[RDPlusPlusSettings]):
    """Reverse distillation from projected features. The map is the smoothed sum over levels of 1 - cos, as in RD4AD."""

    label = "RD++"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: RDPlusPlusSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_halving_levels(encoder, "rdpp")
        if settings.transport_weight + settings.reconstruction_weight + settings.contrast_weight == 0:
            raise InputError("rdpp: the weights of the projections' terms are all 0; expected one above 0")
        self.smoothing = describe_smoothing(settings.sigma)
        self.network, student = describe_student(encoder, settings), student_of(encoder.name)
        self.projections = nn.ModuleList(Projection(width, settings.narrowest) for width in encoder.channels)
        self.bottleneck = Bottleneck(encoder.channels, settings.bottleneck_width, student)
        self.decoder = Decoder(encoder.channels, settings.decoder_blocks, student)

    def load_authors_state(self, content: Any, where: str) -> None:
        """Load the weights of a file by the authors of RD++.

        Args:
            content: The content of the file, tensors in dicts.
            where: The name of the file, for messages.
        """
        unread = ("bn.conv4.", "bn.bn4.")
        self.load_learned_state(renamed(self.learned_state(), content, PROJECTED_DISTILLATION, where, unread))

    def parameter_groups(self, lr: float) -> Iterable[dict[str, Any]]:
        """Return two groups: the projections with a rate of their own, and bottleneck and decoder."""
        rebuilding = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        return [
            {"params": list(self.projections.parameters()), "lr": lr * self.settings.projection_rate},
            {"params": rebuilding, "lr": lr},
        ]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images: distillation, reconstruction and contrast, weighted scalars."""
        teacher = self.teacher(batch)
        noisy = self.encoder(with_noise_patch(batch.images, self.settings.noise))
        # Both are projected at once: a projection treats each image alone.
        both = self._projected([torch.cat(levels) for levels in zip(teacher, noisy, strict=True)])
        projected, projected_noisy = map(list, zip(*(level.chunk(2) for level in both), strict=True))
        settings = self.settings
        weights = settings.transport_weight + settings.reconstruction_weight + settings.contrast_weight
        share = settings.projection_weight / weights
        reconstruction = position_cosine_distance(projected, projected_noisy)
        contrast = excess_similarity(noisy, projected, settings.margin)
        return {
            "distillation": flat_cosine_distance(teacher, self._rebuilt(projected, batch.images)),
            "reconstruction": share * settings.reconstruction_weight * reconstruction,
            "contrast": share * settings.contrast_weight * contrast,
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        height, width = images.shape[-2:]
        teacher = self.encoder(images)
        distances = distance_map(teacher, self._rebuilt(self._projected(teacher), images), (height, width))
        return gaussian_smooth(distances, self.settings.sigma)

    def _projected(self, levels: list[Tensor]) -> list[Tensor]:
        """The projected levels, of the same shapes as the levels."""
        return [projection(level) for projection, level in zip(self.projections, levels, strict=True)]

    def _rebuilt(self, projected: list[Tensor], images: Tensor) -> list[Tensor]:
        """The student's features, rebuilt from the projected levels of the images."""
        student: list[Tensor] = self.decoder(self.bottleneck(projected))
        require_equal_shapes(projected, student, self.encoder, image_size_of(*images.shape[-2:]), "rdpp")
        return student


class Projection(nn.Module):
    """Four 3x3 convolutions, C to C/2, C/4, C/2 and C channels. Each channel of an image is normalised after each of them."""

    def __init__(self, channels: int, narrowest: int) -> None:
        super().__init__()
        half, quarter = max(channels // 2, narrowest), max(channels // 4, narrowest)
        widths = (channels, half, quarter, half, channels)
        layers: list[nn.Module] = []
        for width, out in pairwise(widths):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.InstanceNorm2d(out), nn.LeakyReLU(inplace=True)]
        self.body = nn.Sequential(*layers)

    def forward(self, level: Tensor) -> Tensor:
        """Project a level (B, C, H, W); the result has the same shape."""
        projected: Tensor = self.body(level)
        return projected


def position_cosine_distance(ones: list[Tensor], others: list[Tensor]) -> Tensor:
    """Sum 1 - cos over the levels, where it is the mean over all positions of all images.

    Args:
        ones: (B, C_l, H_l, W_l) for each of the L levels.
        others: Of the same shapes.

    Returns:
        A scalar in [0, 2 L].
    """
    distances = [
        1.0 - F.cosine_similarity(at_least_single(one), at_least_single(other), dim=1).mean()
        for one, other in zip(ones, others, strict=True)
    ]
    return torch.stack(distances).sum()


def excess_similarity(ones: list[Tensor], others: list[Tensor], margin: float) -> Tensor:
    """Sum what the cosine has above a margin over the levels, where each level of an image is flattened to one vector.

    Args:
        ones: (B, C_l, H_l, W_l) for each of the L levels.
        others: Of the same shapes.
        margin: The similarity from which on a pair counts.

    Returns:
        A scalar in [0, L (1 - margin)]: the sum over levels of the mean over the batch.
    """
    similarities = [
        F.cosine_similarity(at_least_single(one).flatten(1), at_least_single(other).flatten(1))
        for one, other in zip(ones, others, strict=True)
    ]
    return torch.stack([(each - margin).clamp_min(0).mean() for each in similarities]).sum()
