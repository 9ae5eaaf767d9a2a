"""Blocks of vision transformers that rebuild tokens: pre-norm blocks with several kinds of attention.

Tokens are (B, N, C). All layers compute what PyTorch's own do; `nn/tokens.py` says why they are faster on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.precision import at_least_single
from mddbench.nn.tokens import Dropout, Linear

MLP_RATIO = 4
"""Inner width of the two linear layers of a block, relative to a token's."""


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to each token."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        """Create the layers.

        Args:
            channels: Number C of channels of a token.
            dropout: Probability of the dropout at the input, after the GELU and at the output.
        """
        super().__init__()
        self.dropout = Dropout(dropout)
        self.first, self.second = Linear(channels, MLP_RATIO * channels), Linear(MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        inner: Tensor = self.dropout(F.gelu(self.first(self.dropout(tokens))))
        outer: Tensor = self.dropout(self.second(inner))
        return outer


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other, with one projection for queries, keys and values."""

    def __init__(self, channels: int, heads: int) -> None:
        """Create the attention.

        Args:
            channels: Number C of channels of a token, a multiple of `heads`.
            heads: Number of heads.
        """
        super().__init__()
        self.heads = heads
        self.project_in, self.project_out = Linear(channels, 3 * channels), Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend: tokens (B, N, C) to (B, N, C)."""
        queries, keys, values = (split_heads(part, self.heads) for part in self.project_in(tokens).chunk(3, dim=-1))
        attended: Tensor = self.project_out(join_heads(self.attend(queries, keys, values)))
        return attended

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Softmax attention of heads (B, heads, N, D); the result has the same shape."""
        return F.scaled_dot_product_attention(queries, keys, values)


class LinearAttention(SelfAttention):
    """Attention whose weights are products of positive features: elu + 1 of queries and keys, divided by their sum.

    It cannot focus on a single token, and its cost grows with the number of tokens, not with its square.
    """

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with heads (B, heads, N, D); the result has the same shape."""
        queries, keys, values = (at_least_single(part) for part in (queries, keys, values))
        queries, keys = F.elu(queries) + 1.0, F.elu(keys) + 1.0
        sums = queries @ keys.sum(dim=-2).unsqueeze(-1)
        return (queries @ (keys.transpose(-2, -1) @ values)) / sums


class CrossAttention(nn.Module):
    """Multi-head attention from some tokens to others."""

    def __init__(self, channels: int, heads: int) -> None:
        """Create the attention.

        Args:
            channels: Number C of channels of a token, a multiple of `heads`.
            heads: Number of heads.
        """
        super().__init__()
        self.heads = heads
        self.project_queries, self.project_read = Linear(channels, channels), Linear(channels, 2 * channels)
        self.project_out = Linear(channels, channels)

    def forward(self, tokens: Tensor, read: Tensor, keys_of: Tensor | None = None) -> Tensor:
        """Attend from some tokens to others.

        Args:
            tokens: (B, N, C), which attend.
            read: (B, M, C), which are read.
            keys_of: (B, M, C), the tokens that keys are made of. Values are made of those that are read. None: both.

        Returns:
            (B, N, C).
        """
        queries = split_heads(self.project_queries(tokens), self.heads)
        keys, values = self.project_read(read).chunk(2, dim=-1)
        if keys_of is not None:
            keys = self.project_read(keys_of).chunk(2, dim=-1)[0]
        keys, values = split_heads(keys, self.heads), split_heads(values, self.heads)
        attended: Tensor = self.project_out(join_heads(self.attend(queries, keys, values)))
        return attended

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Softmax attention of heads (B, heads, N, D) to (B, heads, M, D)."""
        return F.scaled_dot_product_attention(queries, keys, values)


class PositiveCosineAttention(CrossAttention):
    """Attention whose weights are the positive cosines of queries and keys, times a learnt scale for each head.

    The weights are not normalised: a query that resembles no key reads nothing.

    Attributes:
        scale: (heads, 1, 1), the learnt scale.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from heads (B, heads, N, D) to (B, heads, M, D)."""
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)
        return F.relu(cosines * self.scale) @ values


class Block(nn.Module):
    """A pre-norm block: attention of tokens to each other, then two linear layers, each added to its input."""

    def __init__(
        self,
        channels: int,
        heads: int,
        attention: Callable[[int, int], SelfAttention] = SelfAttention,
        eps: float = 1e-6,
    ) -> None:
        """Create the block.

        Args:
            channels: Number C of channels of a token.
            heads: Number of heads.
            attention: Class of the attention.
            eps: What the normalisations add to the variance.
        """
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels, eps), nn.LayerNorm(channels, eps)
        self.attention, self.mlp = attention(channels, heads), Mlp(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        attended = tokens + self.attention(self.norm_attention(tokens))
        block: Tensor = attended + self.mlp(self.norm_mlp(attended))
        return block


class CrossBlock(nn.Module):
    """A pre-norm block whose tokens read other tokens. One normalisation serves both.

    Attributes:
        residual: False if the attention's result replaces the tokens instead of being added to them.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        attention: Callable[[int, int], CrossAttention] = CrossAttention,
        residual: bool = True,
        eps: float = 1e-6,
    ) -> None:
        """Create the block.

        Args:
            channels: Number C of channels of a token.
            heads: Number of heads.
            attention: Class of the attention.
            residual: False to replace the tokens by what they read.
            eps: What the normalisations add to the variance.
        """
        super().__init__()
        self.residual = residual
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels, eps), nn.LayerNorm(channels, eps)
        self.attention, self.mlp = attention(channels, heads), Mlp(channels)

    def forward(self, tokens: Tensor, read: Tensor, keys_of: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, C), which read (B, M, C), to (B, N, C). Keys are made of `keys_of` (B, M, C), if given."""
        keys = None if keys_of is None else self.norm_attention(keys_of)
        attended: Tensor = self.attention(self.norm_attention(tokens), self.norm_attention(read), keys)
        attended = tokens + attended if self.residual else attended
        block: Tensor = attended + self.mlp(self.norm_mlp(attended))
        return block


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Split the channels of tokens (B, N, C) into heads (B, heads, N, C / heads)."""
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)


def join_heads(parts: Tensor) -> Tensor:
    """Join heads (B, heads, N, D) to tokens (B, N, heads * D)."""
    return parts.transpose(1, 2).flatten(2)


def as_tokens(level: Tensor) -> Tensor:
    """Turn a map (B, C, H, W) into tokens (B, H * W, C), row by row."""
    return level.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turn tokens (B, H * W, C) into a map (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def mean_of(tokens: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of equal shape."""
    return torch.stack(tuple(tokens)).mean(dim=0)


def initialise_narrowly(modules: Iterable[nn.Module]) -> None:
    """Draw the weights of linear layers from a normal distribution with deviation 0.01, cut off at 0.03; biases are 0.

    Args:
        modules: Networks, which are changed in place.
    """
    for layer in (layer for module in modules for layer in module.modules()):
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.03, b=0.03)
            nn.init.zeros_(layer.bias)
