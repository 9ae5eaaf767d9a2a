"""Ten random changes of a texture: of its colours, its sharpness and its angle.

Source: the list of Zavrtanik et al., DRAEM, ICCV 2021, section 3.3, with the ranges of the authors' code. The changes are
written anew from what the names in that list say. Last digits of the library that the authors call are not reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.perlin import rotated

SHADES = 256
"""Number of values of a channel."""


def changed(textures: Tensor, number: int) -> Tensor:
    """Apply some of the changes to each texture, in random order, each at most once.

    Args:
        textures: (B, 3, H, W) in [0, 1].
        number: Number of changes, at most that of `CHANGES`.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if not number:
        return textures
    orders = torch.rand(len(textures), len(CHANGES)).argsort(dim=1)  # on the host, to avoid waiting for the device
    for place in range(number):
        following = textures.clone()
        for index, change in enumerate(CHANGES):
            members = torch.nonzero(orders[:, place] == index)[:, 0].to(textures.device)
            if len(members):
                following[members] = change(textures[members]).clamp(0, 1)
        textures = following
    return textures


def _uniform(images: Tensor, low: float, high: float, channels: int = 1) -> Tensor:
    """Draw (B, channels, 1, 1) numbers, evenly from [low, high)."""
    return low + (high - low) * torch.rand(len(images), channels, 1, 1, device=images.device).to(images)


def _gamma(images: Tensor) -> Tensor:
    return images ** _uniform(images, 0.5, 2.0, channels=3)


def _brightness(images: Tensor) -> Tensor:
    """Scale and shift the luma; the chroma stays."""
    luma = (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    return images + (_uniform(images, 0.8, 1.2) - 1) * luma + _uniform(images, -30 / 255, 30 / 255)


def _sharpness(images: Tensor) -> Tensor:
    """Move away from the smoothed image (factor above 1) or towards it (below 1); the border stays."""
    kernel = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = images.clone()
    inner = F.conv2d(images.flatten(0, 1)[:, None], kernel[None, None])
    smooth[..., 1:-1, 1:-1] = inner.view(*images.shape[:2], *inner.shape[2:])
    return smooth + _uniform(images, 0.0, 3.0) * (images - smooth)


def _hue_and_saturation(images: Tensor) -> Tensor:
    """Shift the hue (a share of the circle) and the saturation in the HSV space."""
    value, highest = images.max(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    share = spread.clamp_min(1e-6)
    sixths = torch.where(
        highest == 0,
        (green - blue) / share,
        torch.where(highest == 1, 2 + (blue - red) / share, 4 + (red - green) / share),
    )
    hue = sixths / 6 + _uniform(images, -50 / 255, 50 / 255)
    saturation = (spread / value.clamp_min(1e-6) + _uniform(images, -50 / 255, 50 / 255)).clamp(0, 1)
    offsets = images.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    angle = (offsets + 6 * hue) % 6
    return value - value * saturation * torch.minimum(angle, 4 - angle).clamp(0, 1)


def _solarize(images: Tensor) -> Tensor:
    """Invert what is above a threshold, in half of the images."""
    above = images >= _uniform(images, 32 / 255, 128 / 255)
    return torch.where(above & (_uniform(images, 0, 1) < 0.5), 1 - images, images)


def _posterize(images: Tensor) -> Tensor:
    """Keep 1 to 8 bits of each value."""
    step = 2.0 ** torch.floor(_uniform(images, 0, 8))
    return torch.floor(images * 255 / step) * step / 255


def _invert(images: Tensor) -> Tensor:
    return 1 - images


def _autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel; up to 20 % of its values at both ends are cut off."""
    ordered = images.flatten(2).sort(dim=2).values
    last = ordered.shape[2] - 1
    cut = (_uniform(images, 0.0, 0.2)[..., 0] * last).long().expand(-1, images.shape[1], -1)
    low, high = ordered.gather(2, cut)[..., None], ordered.gather(2, last - cut)[..., None]
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-6), images)


def _equalize(images: Tensor) -> Tensor:
    """Replace each value of a channel by the share of darker pixels, so that all shades are equally frequent."""
    flat = (images * 255).round().long().flatten(0, 1).flatten(1)
    rows = torch.arange(len(flat), device=images.device)[:, None]
    counts = torch.bincount((SHADES * rows + flat).flatten(), minlength=SHADES * len(flat)).view(-1, SHADES)
    darker = (counts.cumsum(dim=1) - counts).gather(1, flat).view(*images.shape[:2], -1).to(images)
    most = darker.amax(dim=2, keepdim=True)
    return torch.where(most > 0, darker / most.clamp_min(1), images.flatten(2)).view(images.shape)


def _turn(images: Tensor) -> Tensor:
    """Rotate by up to 45 degrees; what comes in from outside is black."""
    return rotated(images, math.pi / 4 * _uniform(images, -1, 1).flatten(), "zeros")


CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarize,
    _posterize,
    _invert,
    _autocontrast,
    _equalize,
    _turn,
)
"""The changes, each from (B, 3, H, W) in [0, 1] to the same shape."""
