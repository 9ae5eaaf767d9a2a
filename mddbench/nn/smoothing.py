"""Gaussian smoothing of anomaly maps, batched on their device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_smooth(maps: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Maps (B, H, W) smoothed with a Gaussian of `sigma` pixels, as `scipy.ndimage.gaussian_filter` does (mode 'reflect').

    sigma 0 returns the maps as they are.
    """
    if sigma == 0:
        return maps
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps.dtype)
    rows = F.conv2d(_mirrored(maps, radius, 1).unsqueeze(1), kernel.view(1, 1, -1, 1)).squeeze(1)
    return F.conv2d(_mirrored(rows, radius, 2).unsqueeze(1), kernel.view(1, 1, 1, -1)).squeeze(1)


def _mirrored(maps: Tensor, radius: int, dim: int) -> Tensor:
    """Padded by `radius` on both sides of a dimension with its mirror image, the edge repeated (d c b a | a b c d)."""
    length = maps.shape[dim]
    index = torch.arange(-radius, length + radius, device=maps.device) % (2 * length)
    return maps.index_select(dim, torch.where(index < length, index, 2 * length - 1 - index))
