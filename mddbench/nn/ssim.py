"""The structural similarity of two images, in batches on their device.

Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE Transactions on Image
Processing 13(4), 2004, with a Gaussian window and the constants K1 = 0.01 and K2 = 0.03.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mddbench.nn.precision import at_least_single, full_precision

DEVIATION = 1.5
"""Standard deviation of the window in pixels."""
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""What keeps the two fractions finite, for values in [0, 1]."""


def structural_similarity(first: Tensor, second: Tensor, window: int = 11) -> Tensor:
    """Compute the mean structural similarity, at least in single precision.

    Positions outside of an image count as zeros in both images.

    Args:
        first: (B, C, H, W), values of about [0, 1].
        second: (B, C, H, W), values of about [0, 1].
        window: Side of the Gaussian window in pixels, an odd number.

    Returns:
        A scalar in [-1, 1]: the mean over pixels, channels and images.
    """
    with full_precision(first):
        first, second = at_least_single(first), at_least_single(second)
        rows = _window_matrix(first.shape[-2], window, first)
        columns = _window_matrix(first.shape[-1], window, first)
        products = torch.stack([first, second, first * first, second * second, first * second])
        mean_1, mean_2, square_1, square_2, product = rows @ products @ columns.mT
        means = mean_1 * mean_2
        both = mean_1 * mean_1 + mean_2 * mean_2
        luminance = (2 * means + LUMINANCE) / (both + LUMINANCE)
        contrast = (2 * (product - means) + CONTRAST) / (square_1 + square_2 - both + CONTRAST)
        similarity: Tensor = (luminance * contrast).mean()
        return similarity


def _window_matrix(length: int, window: int, like: Tensor) -> Tensor:
    """Return (length, length) weights of the type of `like`; row i holds the weights of the local mean at i."""
    offsets = torch.arange(-(window // 2), window // 2 + 1, device=like.device)
    kernel = torch.exp(-0.5 * (offsets.double() / DEVIATION) ** 2)
    kernel /= kernel.sum()
    places = torch.arange(length, device=like.device)
    distances = places - places[:, None]
    weights = kernel[(distances + window // 2).clamp(0, window - 1)]
    return torch.where(distances.abs() <= window // 2, weights, 0.0).to(like)
