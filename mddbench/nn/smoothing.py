"""Gaussian smoothing of anomaly maps, in batches on their device.

Each axis is smoothed by one matrix product.
On a CPU this is several times faster than a convolution with such a long kernel.
The mirrored edge is part of the matrix.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mddbench.nn.precision import at_least_single, full_precision


def gaussian_smooth(maps: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Smooth maps with a Gaussian, at least in single precision.

    The result equals `scipy.ndimage.gaussian_filter` with mode 'reflect'.

    Args:
        maps: (B, H, W) floats.
        sigma: Standard deviation in pixels; 0 leaves the maps as they are.
        truncate: Radius of the kernel in standard deviations.

    Returns:
        (B, H, W) smoothed maps.
    """
    if sigma == 0:
        return maps
    with full_precision(maps):
        maps = at_least_single(maps)
        rows = _smoothing_matrix(maps.shape[1], sigma, truncate).to(maps)
        columns = _smoothing_matrix(maps.shape[2], sigma, truncate).to(maps)
        return rows @ maps @ columns.T


def window_smooth(maps: Tensor, window: int, sigma: float) -> Tensor:
    """Smooth maps with a Gaussian that is cut to a window, at least in single precision.

    Beyond the edge the maps count as zero. A window that is narrow beside sigma is nearly a plain average.

    Args:
        maps: (B, H, W) floats.
        window: Side of the window in pixels, an odd number; 1 leaves the maps as they are.
        sigma: Standard deviation in pixels, above 0.

    Returns:
        (B, H, W) smoothed maps.
    """
    if window == 1:
        return maps
    with full_precision(maps):
        maps = at_least_single(maps)
        rows = _window_matrix(maps.shape[1], window, sigma).to(maps)
        columns = _window_matrix(maps.shape[2], window, sigma).to(maps)
        return rows @ maps @ columns.T


def describe_smoothing(sigma: float) -> str:
    """Describe the smoothing for a protocol card; sigma is in pixels."""
    return f"Gaussian, sigma {sigma:g} pixels" if sigma else "none"


def describe_window(window: int, sigma: float) -> str:
    """Describe `window_smooth` for a protocol card; sigma is in pixels."""
    return f"Gaussian in {window}x{window} pixels, sigma {sigma:g} pixels" if window > 1 else "none"


@lru_cache(maxsize=8)
def _smoothing_matrix(length: int, sigma: float, truncate: float) -> Tensor:
    """Return (length, length) float64 weights; row i holds the weights of the smoothed value at i.

    Positions outside are mirrored with the edge repeated: d c b a | a b c d. A long kernel mirrors several times.
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    positions = (torch.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = torch.where(positions < length, positions, 2 * length - 1 - positions)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, mirrored, kernel.expand(length, -1))


@lru_cache(maxsize=8)
def _window_matrix(length: int, window: int, sigma: float) -> Tensor:
    """Return (length, length) float64 weights; row i holds the weights of the smoothed value at i."""
    distances = (torch.arange(length)[:, None] - torch.arange(length)).abs().double()
    kernel = torch.exp(-0.5 * (torch.arange(window, dtype=torch.float64) - window // 2).square() / sigma**2)
    weights = torch.exp(-0.5 * distances.square() / sigma**2) / kernel.sum()
    return torch.where(distances <= window // 2, weights, 0.0)
