"""The losses of DRD-Net and of the class-aware memory, one function each.

F_T, F_R, F_I are the features of the teacher, the restoration decoder and the identity decoder; index n is the normal image,
a its pseudo-anomalous twin. Source of the first three: a published review of the paper (docs/mddnet.md); the memory's are
ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.precision import at_least_single
from mddbench.nn.reverse_distillation import flat_cosine_distance

Levels = Sequence[Tensor]
"""One tensor (B, C_l, H_l, W_l) a level."""


def restoration(restored: Levels, teacher_normal: Levels) -> Tensor:
    """L_restoration = sum_l 1 - cos(F_R(a), F_T(n)), each level of an image one vector; batch mean."""
    return flat_cosine_distance(teacher_normal, restored)


def identity(identical: Levels, teacher_abnormal: Levels) -> Tensor:
    """L_identity = sum_l 1 - cos(F_I(a), F_T(a)), each level of an image one vector; batch mean."""
    return flat_cosine_distance(teacher_abnormal, identical)


def discrepancy(restored: Levels, identical: Levels, masks: Tensor, balanced: bool = True) -> Tensor:
    """L_dist = sum_l ||M_l - G_l|| with M_l = 1 - cos(F_R(a), F_I(a)) at each position and G_l the mask at level l.

    The norm is the mean of two means of absolute differences, weighted by G_l and by 1 - G_l. A plain mean (balanced=False)
    is least where the decoders agree everywhere, since few positions have a defect, and there they collapse onto each other.
    masks: (B, H, W) bool.
    """
    terms = []
    for one, other, mask in zip(restored, identical, mask_levels(masks, restored), strict=True):
        off = (_distances(one, other) - mask).abs()
        parts = (_mean_where(off, mask), _mean_where(off, 1.0 - mask))
        terms.append((parts[0] + parts[1]) / 2 if balanced else off.mean())
    return torch.stack(terms).sum()


def mask_levels(masks: Tensor, levels: Levels) -> list[Tensor]:
    """Masks (B, H, W) at the size of each level, as the share of each position that they cover: (B, H_l, W_l) in [0, 1].

    A share keeps defects that are smaller than a position, which a threshold of one half would lose.
    """
    area = masks[:, None].to(at_least_single(levels[0]).dtype)
    return [F.adaptive_avg_pool2d(area, (level.shape[-2], level.shape[-1]))[:, 0] for level in levels]


def class_discrimination(weights: Tensor, categories: Tensor, items: int, normal: Tensor) -> Tensor:
    """Mean over normal positions of -log of the addressing weight on the image's own category's items.

    weights: (B, P, C x K) rows that sum to 1; categories: (B,); items: K; normal: (B, P) bool positions without a defect.
    """
    own = weights.reshape(*weights.shape[:2], -1, items).sum(dim=-1)
    chosen = own.gather(2, categories[:, None, None].expand(-1, own.shape[1], 1))[..., 0]
    return _mean_where(-at_least_single(chosen).clamp_min(1e-6).log(), normal)


def compactness(weights: Tensor, items: Tensor, queries: Tensor, normal: Tensor) -> Tensor:
    """Mean over normal positions of 1 - cos between a position's mixture of items and its embedding: items stay near the data.

    weights: (B, P, M); items: (M, D); queries: (B, P, D). The gradient reaches the items only.
    """
    mixtures = weights.detach() @ at_least_single(items)
    return _mean_where(1.0 - F.cosine_similarity(mixtures, at_least_single(queries.detach()), dim=-1), normal)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    return 1.0 - F.cosine_similarity(at_least_single(one), at_least_single(other), dim=1)


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of values weighted by `chosen`, 0 if nothing is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1e-6)
