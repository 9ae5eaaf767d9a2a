"""Embeddings of patches: each position of a feature grid with its neighbourhood, at several levels at once.

Source: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022, section 3.1.
The authors' code (Apache-2.0) was read beside it. It says how a neighbourhood becomes a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.precision import at_least_single

SIDE = 3
"""Side of a neighbourhood in the paper, in positions of a level's own grid."""


def embedding_width(channels: Sequence[int], width: int | None) -> int:
    """Return the number of channels of the embeddings.

    Args:
        channels: Number of channels of each level.
        width: Width that was asked for; None for all channels side by side.

    Returns:
        The number of channels.
    """
    return sum(channels) if width is None else width


def patch_embeddings(levels: Sequence[Tensor], width: int | None, side: int = SIDE, unit: bool = False) -> Tensor:
    """Embed each position of the first level's grid with its neighbourhood at all levels.

    Positions outside of a grid count as zeros.
    With a width, the side^2 C_l numbers of a neighbourhood are averaged in `width` equal, possibly overlapping ranges.
    Deeper levels are resized to the first level's grid, bilinearly. The levels are then joined and averaged again,
    in `width` ranges. Without a width, each channel's mean over the neighbourhood is taken, and the levels are joined.

    The authors resize before they average. Both are linear, so the order changes rounding only. Here, the map that is
    resized has `width` instead of side^2 C_l channels.

    Args:
        levels: (B, C_l, H_l, W_l) for each level, shallow to deep.
        width: Number of channels of the embeddings; None for sum C_l.
        side: Side of a neighbourhood, an odd number of positions; 1 for the position alone.
        unit: True to give each level's part of an embedding the length 1.

    Returns:
        (B, H_1, W_1, D), in at least single precision.
    """
    grid = (levels[0].shape[-2], levels[0].shape[-1])
    parts = [_resized(_neighbourhoods(at_least_single(level), width, side), grid) for level in levels]
    parts = [F.normalize(part, dim=1) for part in parts] if unit else parts
    joined = torch.cat(parts, dim=1).movedim(1, -1)
    return joined.contiguous() if width is None else _averaged(joined, width)


def _neighbourhoods(level: Tensor, width: int | None, side: int) -> Tensor:
    """Turn a level (B, C, H, W) into (B, width, H, W), or (B, C, H, W) without a width."""
    if width is None:
        return F.avg_pool2d(level, side, stride=1, padding=side // 2, count_include_pad=True) if side > 1 else level
    height, columns = level.shape[-2:]
    numbers = F.unfold(level, side, padding=side // 2).transpose(1, 2)
    return _averaged(numbers, width).transpose(1, 2).reshape(len(level), width, height, columns)


def _averaged(vectors: Tensor, width: int) -> Tensor:
    """Average the last dimension (..., C) in `width` equal ranges: (..., width)."""
    return F.adaptive_avg_pool1d(vectors.flatten(0, -2), width).reshape(*vectors.shape[:-1], width)


def _resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize maps (B, C, H, W) bilinearly to a grid."""
    if maps.shape[-2:] == grid:
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)
