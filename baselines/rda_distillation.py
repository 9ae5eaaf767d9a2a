"""Distillation with RDA's loss: reverse distillation whose student learns mean features, by their relations.

Paper:     Wu et al., Refine, Discriminate and Align: Stealing Encoders via Sample-Wise Prototypes and Multi-Relational
           Extraction, ECCV 2024 (arXiv 2312.00855). It copies an encoder through its answers. It is no method of anomaly
           detection, and this use of its loss is ours.
Code read: the authors' ShuchiWu/RDA at 85e285b (no licence; none of it is used).
Differs:   The paper has one vector for each image. Here each position of each level has one, and some positions are drawn
           in each step. The prototype of a position is the mean over the image and fixed views of it, each brought back
           into place; the authors take ten random crops. The student is RD4AD's, which sees the teacher's features of the
           image itself. So a row differs from RD4AD's in its loss only, unless `settings.rectified` is false. The
           authors' student sees five random crops.
           Both logarithms are kept away from zero. There is one model for all categories.
Variants:  `settings.views: []`: prototypes are the teacher's features. `settings.compared: prototype`: so are the
           targets of the map, which asks the teacher for each view, in tests too.
Unsaid:    All that concerns anomaly detection: levels, positions, views, map, image score. No numbers of such a use were
           found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.reverse_distillation import (
    Bottleneck,
    Decoder,
    distance_map,
    require_halving_levels,
    student_of,
)
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.student import StudentSettings, describe_student, require_equal_shapes
from mddbench.settings import Pixels
from mddbench.sizes import image_size_of

View = Literal["mirrored", "upside_down", "shifted"]
Weight = Annotated[float, Field(ge=0, le=1000)]


class RDADistillationSettings(StudentSettings):
    """The settings of the distillation with RDA's loss."""

    rectified: bool = Field(
        default=True,
        description="True if the student's features end in a ReLU, as those of a ResNet. false: a 1x1 convolution "
        "follows at each level, for features of both signs.",
    )
    views: Annotated[tuple[View, ...], Field(max_length=3)] = Field(
        default=("mirrored", "shifted"),
        description="The views of an image over which, with the image itself, the teacher's features are averaged. "
        "shifted: by one position of the deepest level, down and to the right; what leaves comes in again.",
    )
    compared: Literal["teacher", "prototype"] = Field(
        default="teacher",
        description="What maps compare the student with: the teacher's features of the image, or their mean over the views.",
    )
    positions: Annotated[int, Field(ge=2, le=2**14)] = Field(
        default=256,
        description="The number of positions that are drawn from the batch at each level. All, if there are fewer.",
    )
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = Field(
        default=0.07, description="What similarities of positions are divided by before the softmax."
    )
    alignment: Weight = Field(
        default=1.0, description="The weight of the alignment of student and prototype. That of the contrast is 1."
    )
    floor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.001,
        description="What is added to a squared distance and to 1 + cosine before the logarithm, which has no limit at 0.",
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class RDADistillation(Detector[RDADistillationSettings]):
    """Reverse distillation with RDA's loss. The map is the smoothed sum over levels of 1 - cos between teacher and student.

    Attributes:
        bottleneck: The embedding of the teacher's features.
        decoder: The student's decoder.
        signed: A 1x1 convolution for each level, or nothing.
    """

    label = "Distillation with RDA's loss"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: RDADistillationSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_halving_levels(encoder, "rda_distillation")
        self.smoothing = describe_smoothing(settings.sigma)
        self.network, student = describe_student(encoder, settings), student_of(encoder.name)
        self.bottleneck = Bottleneck(encoder.channels, settings.bottleneck_width, student)
        self.decoder = Decoder(encoder.channels, settings.decoder_blocks, student)
        self.signed = nn.ModuleList(
            nn.Identity() if settings.rectified else nn.Conv2d(channels, channels, 1) for channels in encoder.channels
        )

    @classmethod
    def training_settings(cls, settings: RDADistillationSettings) -> dict[str, Any]:
        """Return all settings except those of the maps alone."""
        return settings.model_dump(mode="json", exclude={"compared", "sigma"})

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            Two scalar loss terms, means over the levels: the contrast, and the weighted alignment.
        """
        settings, teacher = self.settings, self.teacher(batch)
        contrasts, alignments = [], []
        levels = zip(self._prototypes(batch.images, teacher), self._student(teacher, batch.images), strict=True)
        for prototypes, student in levels:
            wanted, found = as_vectors(prototypes), F.normalize(as_vectors(student), dim=1)
            drawn = torch.randperm(len(found), device=found.device)[: settings.positions]
            contrasts.append(contrast(found[drawn], wanted[drawn], settings.temperature))
            alignments.append(misalignment(found[drawn], wanted[drawn], settings.floor))
        return {
            "contrast": torch.stack(contrasts).mean(),
            "alignment": settings.alignment * torch.stack(alignments).mean(),
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        teacher: list[Tensor] = self.encoder(images)
        student = self._student(teacher, images)
        targets = self._prototypes(images, teacher) if self.settings.compared == "prototype" else teacher
        return gaussian_smooth(
            distance_map(targets, student, (images.shape[-2], images.shape[-1])), self.settings.sigma
        )

    def _student(self, teacher: list[Tensor], images: Tensor) -> list[Tensor]:
        """The student's features (B, C_l, H_l, W_l) of each level, rebuilt from the teacher's."""
        rebuilt = self.decoder(self.bottleneck(teacher))
        student = [last(level) for last, level in zip(self.signed, rebuilt, strict=True)]
        require_equal_shapes(teacher, student, self.encoder, image_size_of(*images.shape[-2:]), "rda_distillation")
        return student

    def _prototypes(self, images: Tensor, teacher: Sequence[Tensor]) -> list[Tensor]:
        """The means (B, C_l, H_l, W_l) of the teacher's features over views, of length 1 where all agree, else shorter."""
        strides, views = self.encoder.strides, self.settings.views
        sums = [F.normalize(at_least_single(level), dim=1) for level in teacher]
        for view in views:
            levels = self.encoder(seen(images, view, strides[-1]))
            for number, (level, stride) in enumerate(zip(levels, strides, strict=True)):
                back = seen(F.normalize(at_least_single(level), dim=1), view, -strides[-1] // stride)
                sums[number] = sums[number] + back
        return [each / (1 + len(views)) for each in sums]


def seen(maps: Tensor, view: View, step: int) -> Tensor:
    """Return a view of maps.

    Args:
        maps: (B, C, H, W).
        view: The view.
        step: By how many positions 'shifted' moves them, down and to the right. A negative number moves them back.

    Returns:
        (B, C, H, W).
    """
    if view == "shifted":
        return maps.roll((step, step), dims=(2, 3))
    return maps.flip(3 if view == "mirrored" else 2)


def as_vectors(maps: Tensor) -> Tensor:
    """Turn maps (B, C, H, W) into vectors (B * H * W, C), in at least single precision."""
    return at_least_single(maps).permute(0, 2, 3, 1).flatten(0, 2)


def contrast(student: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Compare each vector with its own prototype, with the other prototypes and with the other vectors.

    Source: the authors' code. Its denominator has the other pairs only, so it can be below zero.

    Args:
        student: (N, C), of length 1. N is at least 2.
        prototypes: (N, C), of length 1 at most.
        temperature: What dot products are divided by.

    Returns:
        A scalar: the mean of the logarithm of the sum over other pairs, minus the similarity of the own pair.
    """
    with full_precision(student):
        own = torch.eye(len(student), dtype=torch.bool, device=student.device)
        to_prototypes = student @ prototypes.T / temperature
        to_others = (student @ student.T / temperature).masked_fill(own, -torch.inf)
        others = torch.cat([to_prototypes.masked_fill(own, -torch.inf), to_others], dim=1)
        return (others.logsumexp(dim=1) - to_prototypes.diagonal()).mean()


def misalignment(student: Tensor, prototypes: Tensor, floor: float) -> Tensor:
    """Compute the logarithm of the squared distance over 1 + cosine of each vector and its prototype.

    Source: the authors' code, which adds nothing before the logarithm.

    Args:
        student: (N, C), of length 1.
        prototypes: (N, C), of length 1 at most.
        floor: What is added to both before the logarithm.

    Returns:
        A scalar, the mean over the vectors. It is log(floor / (2 + floor)) if all are equal.
    """
    distances = (student - prototypes).square().sum(dim=1)
    cosines = F.cosine_similarity(student, prototypes, dim=1)
    return ((distances + floor).log() - (1 + cosines + floor).log()).mean()
