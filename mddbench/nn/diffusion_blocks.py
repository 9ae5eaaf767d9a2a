"""Blocks of the networks of latent diffusion: residual blocks that are told a time, and attention with a context.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, appendix B, and the public code
of the authors (CompVis/latent-diffusion, MIT), through notes on it. None of it is used.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

MLP_RATIO = 4
"""Inner width of the two linear layers of a transformer block, relative to a token's."""
SMALL_EPS = 1e-6
"""What the norm before attention adds to the variance. Other norms add PyTorch's 1e-5."""
Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """Set all weights of a layer to 0, and return it. What follows it then starts without its part."""
    for value in layer.parameters():
        nn.init.zeros_(value)
    return layer


def convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """Create a 3x3 convolution that keeps the grid, or halves it with a stride of 2."""
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


class TimedBlock(nn.Module):
    """Two convolutions with a shortcut. The time shifts the channels between them.

    Attributes:
        first: Norm, SiLU and convolution.
        shift: The linear layer from the time to a shift of each channel.
        second: Norm, SiLU and convolution, whose weights start at 0.
        shortcut: A 1x1 convolution if the number of channels changes.
    """

    def __init__(self, before: int, after: int, time_width: int, groups: int) -> None:
        """Create the layers.

        Args:
            before: Number of channels of the input.
            after: Number of channels of the output.
            time_width: Number of values that describe a time.
            groups: Number of groups of the norms.
        """
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(groups, before), nn.SiLU(), convolution(before, after))
        self.shift = nn.Linear(time_width, after)
        self.second = nn.Sequential(nn.GroupNorm(groups, after), nn.SiLU(), zeroed(convolution(after, after)))
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Map features (B, C, H, W) with a described time (B, D) to (B, C', H, W)."""
        shifted = self.first(features) + self.shift(F.silu(time))[:, :, None, None]
        result: Tensor = self.shortcut(features) + self.second(shifted)
        return result


class ContextAttention(nn.Module):
    """Multi-head attention of tokens to a context, or to each other. Queries, keys and values have no bias."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        """Create the layers.

        Args:
            width: Number of channels of a token, a multiple of `heads`.
            context: Number of channels of what is attended to.
            heads: Number of heads.
        """
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(context, width, bias=False)
        self.values = nn.Linear(context, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Attend: tokens (B, N, C) to a context (B, M, D); the result is (B, N, C)."""
        parts = (self.queries(tokens), self.keys(context), self.values(context))
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        attended = F.scaled_dot_product_attention(*heads)
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class GatedFeed(nn.Module):
    """Two linear layers at each token. Half of the inner values, after a GELU, multiply the other half (GEGLU)."""

    def __init__(self, width: int) -> None:
        """Create the layers for tokens of `width` channels."""
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        values, gates = self.inner(tokens).chunk(2, dim=-1)
        result: Tensor = self.outer(values * F.gelu(gates))
        return result


class SpatialTransformer(nn.Module):
    """One transformer block over the positions of a map: attention to each other, to a context, and linear layers.

    Without a context, positions attend to each other twice. The result is added to the map; its part starts at 0.

    Attributes:
        norms: The layer norms before the three parts.
    """

    def __init__(self, width: int, heads: int, context: int | None, groups: int) -> None:
        """Create the block.

        Args:
            width: Number of channels of the map, a multiple of `heads` and of `groups`.
            heads: Number of heads of each attention.
            context: Number of channels of the context; None for none.
            groups: Number of groups of the first norm.
        """
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=SMALL_EPS)
        self.project_in, self.project_out = nn.Conv2d(width, width, 1), zeroed(nn.Conv2d(width, width, 1))
        self.self_attention = ContextAttention(width, width, heads)
        self.context_attention = ContextAttention(width, width if context is None else context, heads)
        self.feed = GatedFeed(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Map features (B, C, H, W), with a context (B, M, D) or None, to (B, C, H, W)."""
        first, second, third = self.norms
        tokens = self.project_in(self.norm(features)).flatten(2).transpose(1, 2)
        normed = first(tokens)
        tokens = tokens + self.self_attention(normed, normed)
        normed = second(tokens)
        tokens = tokens + self.context_attention(normed, normed if context is None else context)
        tokens = tokens + self.feed(third(tokens))
        result: Tensor = features + self.project_out(tokens.transpose(1, 2).unflatten(2, features.shape[2:]))
        return result


class Halving(nn.Module):
    """A convolution with stride 2."""

    def __init__(self, width: int) -> None:
        """Create the convolution for maps of `width` channels."""
        super().__init__()
        self.op = convolution(width, width, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C, H / 2, W / 2)."""
        halved: Tensor = self.op(features)
        return halved


class Doubling(nn.Module):
    """Each position becomes 2 x 2 equal ones; a convolution follows."""

    def __init__(self, width: int) -> None:
        """Create the convolution for maps of `width` channels."""
        super().__init__()
        self.conv = convolution(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C, 2 H, 2 W)."""
        doubled: Tensor = self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return doubled


class Stage(nn.ModuleList):
    """Layers in a row. Each is given what it takes: residual blocks the time, attention the context."""

    def forward(self, features: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """Map features (B, C, H, W) with a described time (B, D) and a context (B, M, E) or None to (B, C', H', W')."""
        for layer in self:
            if isinstance(layer, TimedBlock):
                features = layer(features, time)
            elif isinstance(layer, SpatialTransformer):
                features = layer(features, context)
            else:
                features = layer(features)
        return features
