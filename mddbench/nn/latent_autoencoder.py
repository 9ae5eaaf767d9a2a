"""The autoencoder of a latent diffusion model: images to a Gaussian over codes on a coarser grid, and codes to images.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, section 3.1 and appendix E, and
the public code of the authors (CompVis/latent-diffusion, MIT), through notes on it. None of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.diffusion_blocks import SMALL_EPS, Doubling, convolution

COLOURS = 3
"""Number of channels of an image."""
LEAST, MOST = -30.0, 20.0
"""Limits of the logarithm of a code's variance."""


@dataclass(frozen=True)
class AutoencoderShape:
    """The sizes of an autoencoder. The defaults are those of Stable Diffusion (KL-f8).

    Attributes:
        channels: Number of channels of a code.
        width: Number of channels at the first level.
        multipliers: Number of channels of each level, divided by `width`. Each level has half the side of the one before.
        blocks: Number of residual blocks of a level of the encoder; the decoder has one more.
        groups: Number of groups of the norms.
    """

    channels: int = 4
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    groups: int = 32

    @property
    def factor(self) -> int:
        """Side of an image divided by that of its code."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)


class LatentAutoencoder(nn.Module):
    """The encoder and the decoder, with a 1x1 convolution on each side of the code.

    Attributes:
        encoder: The encoder.
        moments: The convolution behind it.
        code: The convolution before the decoder.
        decoder: The decoder.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        """Create the networks."""
        super().__init__()
        self.encoder, self.decoder = CodeEncoder(shape), CodeDecoder(shape)
        self.moments = nn.Conv2d(2 * shape.channels, 2 * shape.channels, 1)
        self.code = nn.Conv2d(shape.channels, shape.channels, 1)

    def encoded(self, images: Tensor, noise: Tensor) -> Tensor:
        """Draw codes from the Gaussians of images.

        Args:
            images: (B, 3, H, W), normalised as in the autoencoder's training.
            noise: (B, C, h, w) standard normal numbers that are the draw, or (1, C, h, w) for the same one for all images.

        Returns:
            (B, C, h, w), with h = H / factor.
        """
        mean, logarithm = self.moments(self.encoder(images)).chunk(2, dim=1)
        codes: Tensor = mean + torch.exp(0.5 * logarithm.clamp(LEAST, MOST)) * noise
        return codes

    def decoded(self, codes: Tensor) -> Tensor:
        """Rebuild images (B, 3, H, W) from codes (B, C, h, w), without a limit of the values."""
        images: Tensor = self.decoder(self.code(codes))
        return images


class CodeEncoder(nn.Module):
    """Levels of residual blocks that halve the side, and a middle with attention.

    Attributes:
        first: The first convolution.
        levels: The levels, fine to coarse.
        middle: Two residual blocks with attention between them.
        last: Norm, SiLU, and the convolution to mean and logarithm of the variance.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        """Create the layers."""
        super().__init__()
        self.first = convolution(COLOURS, shape.width)
        self.levels, before = nn.ModuleList(), shape.width
        for number, after in enumerate(shape.widths, 1):
            self.levels.append(EncoderLevel(before, after, shape, halves=number < len(shape.widths)))
            before = after
        self.middle = middle_of(before, shape.groups)
        self.last = head_of(before, 2 * shape.channels, shape.groups)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to (B, 2 C, h, w)."""
        features = self.first(images)
        for level in self.levels:
            features = level(features)
        moments: Tensor = self.last(self.middle(features))
        return moments


class EncoderLevel(nn.Module):
    """Residual blocks, and a convolution with stride 2 that is padded at the right and below only."""

    def __init__(self, before: int, after: int, shape: AutoencoderShape, halves: bool) -> None:
        """Create the blocks."""
        super().__init__()
        widths = [before] + [after] * shape.blocks
        self.blocks = nn.Sequential(*(PlainBlock(*pair, shape.groups) for pair in pairwise(widths)))
        self.halving = nn.Conv2d(after, after, 3, stride=2) if halves else None

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', H / 2, W / 2), or (B, C', H, W) at the last level."""
        features = self.blocks(features)
        return features if self.halving is None else self.halving(F.pad(features, (0, 1, 0, 1)))


class CodeDecoder(nn.Module):
    """A middle with attention, and levels of residual blocks that double the side.

    Attributes:
        first: The first convolution.
        middle: Two residual blocks with attention between them.
        levels: The levels, fine to coarse; they are used the other way round.
        last: Norm, SiLU, and the convolution to an image.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        """Create the layers."""
        super().__init__()
        widths = shape.widths
        self.first, self.middle = convolution(shape.channels, widths[-1]), middle_of(widths[-1], shape.groups)
        befores = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            DecoderLevel(before, after, shape, doubles=number > 0)
            for number, (before, after) in enumerate(zip(befores, widths, strict=True))
        )
        self.last = head_of(widths[0], COLOURS, shape.groups)

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes (B, C, h, w) to (B, 3, H, W)."""
        features = self.middle(self.first(codes))
        for level in reversed(self.levels):
            features = level(features)
        images: Tensor = self.last(features)
        return images


class DecoderLevel(nn.Module):
    """Residual blocks, one more than in the encoder, and a doubling of the side."""

    def __init__(self, before: int, after: int, shape: AutoencoderShape, doubles: bool) -> None:
        """Create the blocks."""
        super().__init__()
        widths = [before] + [after] * (shape.blocks + 1)
        self.blocks = nn.Sequential(*(PlainBlock(*pair, shape.groups) for pair in pairwise(widths)))
        self.doubling = Doubling(after) if doubles else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', 2 H, 2 W), or (B, C', H, W) at the finest level."""
        result: Tensor = self.doubling(self.blocks(features))
        return result


class PlainBlock(nn.Module):
    """Two convolutions with a shortcut.

    Attributes:
        first: Norm, SiLU and convolution.
        second: The same again.
        shortcut: A 1x1 convolution if the number of channels changes.
    """

    def __init__(self, before: int, after: int, groups: int) -> None:
        """Create the layers.

        Args:
            before: Number of channels of the input.
            after: Number of channels of the output.
            groups: Number of groups of the norms.
        """
        super().__init__()
        self.first, self.second = head_of(before, after, groups), head_of(after, after, groups)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C', H, W)."""
        result: Tensor = self.shortcut(features) + self.second(self.first(features))
        return result


class PositionAttention(nn.Module):
    """Attention of all positions of a map to each other, with one head. The result is added to the map."""

    def __init__(self, width: int, groups: int) -> None:
        """Create the layers for maps of `width` channels."""
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=SMALL_EPS)
        self.queries, self.keys, self.values, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C, H, W)."""
        normed = self.norm(features)
        tokens = [part(normed).flatten(2).transpose(1, 2) for part in (self.queries, self.keys, self.values)]
        attended = F.scaled_dot_product_attention(*tokens).transpose(1, 2).reshape(features.shape)
        result: Tensor = features + self.out(attended)
        return result


def head_of(before: int, after: int, groups: int) -> nn.Sequential:
    """Create a norm, a SiLU and a 3x3 convolution."""
    return nn.Sequential(nn.GroupNorm(groups, before, eps=SMALL_EPS), nn.SiLU(), convolution(before, after))


def middle_of(width: int, groups: int) -> nn.Sequential:
    """Create two residual blocks with attention between them."""
    return nn.Sequential(
        PlainBlock(width, width, groups), PositionAttention(width, groups), PlainBlock(width, width, groups)
    )
