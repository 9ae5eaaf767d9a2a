"""The losses of DRD-Net (the two decoders) and of the class-aware memory, one function each.

F_T, F_R and F_I are the features of the teacher, the restoration decoder and the identity decoder.
The index n is the normal image, and a is its pseudo-anomalous twin.

Source of the first three: a published review of the paper (docs/mddnet.md). The losses of the memory are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.precision import at_least_single
from mddbench.nn.reverse_distillation import flat_cosine_distance
from mddbench.settings import Strict

Levels = Sequence[Tensor]
"""Features of several levels, one tensor (B, C_l, H_l, W_l) for each."""
Weight = Annotated[float, Field(ge=0, le=1e6)]


class LossWeights(Strict):
    """The weights of the loss terms. A term of weight 0 is left out."""

    restoration: Weight = Field(default=1.0, description="The weight of the restoration loss.")
    identity: Weight = Field(
        default=1.0,
        description="The weight of the identity loss. 0 also leaves out the identity decoder and the discrepancy loss.",
    )
    discrepancy: Weight = Field(default=1.0, description="The weight of the discrepancy loss.")
    classes: Weight = Field(default=1.0, description="The weight of the memory's class discrimination loss.")
    compactness: Weight = Field(default=1.0, description="The weight of the memory's compactness loss.")


def restoration(restored: Levels, teacher_normal: Levels) -> Tensor:
    """Compute L_restoration = sum_l 1 - cos(F_R(a), F_T(n)), where each level of an image is one vector.

    Args:
        restored: F_R(a), the features of the restoration decoder.
        teacher_normal: F_T(n), the teacher's features of the normal images.

    Returns:
        A scalar, the mean over the batch.
    """
    return flat_cosine_distance(teacher_normal, restored)


def identity(identical: Levels, teacher_abnormal: Levels) -> Tensor:
    """Compute L_identity = sum_l 1 - cos(F_I(a), F_T(a)), where each level of an image is one vector.

    Args:
        identical: F_I(a), the features of the identity decoder.
        teacher_abnormal: F_T(a), the teacher's features of the pseudo-anomalous images.

    Returns:
        A scalar, the mean over the batch.
    """
    return flat_cosine_distance(teacher_abnormal, identical)


def discrepancy(restored: Levels, identical: Levels, masks: Tensor, balanced: bool = True) -> Tensor:
    """Compute L_dist = sum_l ||M_l - G_l||.

    M_l = 1 - cos(F_R(a), F_I(a)) at each position, and G_l is the mask at level l.
    The norm is the mean of two weighted means of absolute differences. Their weights are G_l and 1 - G_l.
    A plain mean is smallest where the decoders agree everywhere, because few positions have a defect.
    With it the decoders become equal.

    Args:
        restored: F_R(a), the features of the restoration decoder.
        identical: F_I(a), the features of the identity decoder.
        masks: (B, H, W) bool, True where the twin has a defect.
        balanced: False for a plain mean as the norm.

    Returns:
        A scalar.
    """
    terms = []
    for restored_level, identical_level, mask in zip(restored, identical, mask_levels(masks, restored), strict=True):
        difference = (_distances(restored_level, identical_level) - mask).abs()
        halves = (_weighted_mean(difference, mask), _weighted_mean(difference, 1.0 - mask))
        terms.append((halves[0] + halves[1]) / 2 if balanced else difference.mean())
    return torch.stack(terms).sum()


def mask_levels(masks: Tensor, levels: Levels) -> list[Tensor]:
    """Resize masks to each level, as the share of each position that they cover.

    A share keeps defects that are smaller than a position. A threshold of one half would lose them.

    Args:
        masks: (B, H, W) bool.
        levels: Features whose sizes are taken.

    Returns:
        (B, H_l, W_l) in [0, 1] for each level.
    """
    area = masks[:, None].to(at_least_single(levels[0]).dtype)
    return [F.adaptive_avg_pool2d(area, (level.shape[-2], level.shape[-1]))[:, 0] for level in levels]


def class_discrimination(weights: Tensor, categories: Tensor, items: int, normal: Tensor) -> Tensor:
    """Compute -log of the addressing weight on the items of the image's own category.

    Args:
        weights: (B, P, C x K), rows that sum to 1.
        categories: (B,) int64, the category of each image.
        items: K, the number of items of a category.
        normal: (B, P) bool, True at positions without a defect.

    Returns:
        A scalar, the mean over normal positions.
    """
    category_weights = weights.reshape(*weights.shape[:2], -1, items).sum(dim=-1)
    own_weights = category_weights.gather(2, categories[:, None, None].expand(-1, category_weights.shape[1], 1))[..., 0]
    return _weighted_mean(-at_least_single(own_weights).clamp_min(1e-6).log(), normal)


def compactness(weights: Tensor, items: Tensor, queries: Tensor, normal: Tensor) -> Tensor:
    """Compute 1 - cos between each position's mixture of items and its embedding.

    It keeps the items near the data. Only the items get a gradient.

    Args:
        weights: (B, P, M), the addressing weights.
        items: (M, D).
        queries: (B, P, D), the embeddings.
        normal: (B, P) bool, True at positions without a defect.

    Returns:
        A scalar, the mean over normal positions.
    """
    mixtures = weights.detach() @ at_least_single(items)
    return _weighted_mean(1.0 - F.cosine_similarity(mixtures, at_least_single(queries.detach()), dim=-1), normal)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """1 - cos at each position."""
    return 1.0 - F.cosine_similarity(at_least_single(first), at_least_single(second), dim=1)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the values, or 0 if all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)
