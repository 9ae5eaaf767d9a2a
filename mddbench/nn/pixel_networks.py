"""Small networks that turn images into maps and back, for methods that rebuild pixels and have no frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.precision import at_least_single
from mddbench.settings import Count
from mddbench.sizes import image_size_of, written_size

SLOPE = 0.2
"""Slope of the activations for negative values."""
DEVIATION = 0.02
"""Standard deviation of the initial weights of convolutions and norms."""
Widths = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]
"""Numbers of channels of levels, each of half the size of the one before."""


def as_signed(images: Tensor, levels: int, method: str) -> Tensor:
    """Bring images from [0, 1] to [-1, 1].

    Args:
        images: (B, 3, H, W) in [0, 1].
        levels: Number of times that a network halves their size.
        method: Name of the method, for the error.

    Returns:
        (B, 3, H, W) in [-1, 1], in at least single precision.

    Raises:
        InputError: If the size cannot be halved so often.
    """
    height, width = images.shape[-2:]
    if height % 2**levels or width % 2**levels:
        size = written_size(image_size_of(height, width))
        raise InputError(f"{method}: image_size {size} does not fit; use a multiple of {2**levels}")
    return at_least_single(images) * 2 - 1


def down(before: int, after: int) -> nn.Sequential:
    """Create a 3x3 convolution that halves the size of a map, a norm and an activation."""
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE, inplace=True))


def up(before: int, after: int) -> nn.Sequential:
    """Create a 3x3 transposed convolution that doubles the size of a map, a norm and an activation."""
    return nn.Sequential(
        nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def last_up(before: int, after: int) -> nn.ConvTranspose2d:
    """Create a 3x3 transposed convolution that doubles the size of a map, with nothing behind it."""
    return nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1)


def encoder_of(widths: Sequence[int], channels: int = 3) -> nn.Sequential:
    """Create a network (B, channels, H, W) -> (B, C, H / 2^L, W / 2^L) of L levels of these widths."""
    return nn.Sequential(*(down(before, after) for before, after in pairwise((channels, *widths))))


def decoder_of(widths: Sequence[int], channels: int = 3) -> nn.Sequential:
    """Create the mirrored network (B, C, H / 2^L, W / 2^L) -> (B, channels, H, W), without bounds."""
    ups = (up(before, after) for before, after in pairwise(reversed(widths)))
    return nn.Sequential(*ups, last_up(widths[0], channels))


def initialise_narrowly(module: nn.Module) -> None:
    """Draw the weights of convolutions around 0 and those of norms around 1, in place; their biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, DEVIATION)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, DEVIATION)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
