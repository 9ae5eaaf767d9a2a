"""Gaussian smoothing of anomaly maps, batched on their device.

Each axis is smoothed by one matrix product: on a CPU that is several times faster than a convolution with so long a kernel,
and the mirrored edge is part of the matrix.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mddbench.nn.precision import at_least_single, full_precision


def gaussian_smooth(maps: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Maps (B, H, W) smoothed with a Gaussian of `sigma` pixels, at least in single precision; sigma 0 leaves them as they are.

    Equals `scipy.ndimage.gaussian_filter` with mode 'reflect'.
    """
    if sigma == 0:
        return maps
    with full_precision(maps):
        maps = at_least_single(maps)
        rows = _smoothing_matrix(maps.shape[1], sigma, truncate).to(maps)
        columns = _smoothing_matrix(maps.shape[2], sigma, truncate).to(maps)
        return rows @ maps @ columns.T


def describe_smoothing(sigma: float) -> str:
    """As a protocol card says it."""
    return f"Gaussian, sigma {sigma:g} pixels" if sigma else "none"


@lru_cache(maxsize=8)
def _smoothing_matrix(length: int, sigma: float, truncate: float) -> Tensor:
    """(length, length) float64: row i holds the weights that make the smoothed value at i.

    Positions outside are mirrored with the edge repeated (d c b a | a b c d), as often as the kernel needs.
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    places = (torch.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = torch.where(places < length, places, 2 * length - 1 - places)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, mirrored, kernel.expand(length, -1))
