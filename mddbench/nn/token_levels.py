"""Levels of a plain vision transformer, and the decoder that rebuilds them.

A level is the output of a block, or the mean of those of several blocks. All levels have the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder, Level
from mddbench.nn.transformer import Block, SelfAttention, as_map, as_tokens, mean_of

HEAD = 64
"""Number of channels of an attention head, as in all common vision transformers."""


class TokenDecoder(nn.Module):
    """Transformer blocks whose outputs rebuild the levels of the encoder in reverse: the last ones the shallowest."""

    def __init__(
        self,
        channels: int,
        blocks: int,
        levels: int,
        attention: Callable[[int, int], SelfAttention] = SelfAttention,
        eps: float = 1e-6,
    ) -> None:
        """Create the decoder.

        Args:
            channels: Number C of channels of a token.
            blocks: Number of blocks, a multiple of the number of levels.
            levels: Number L of levels.
            attention: Class of the attention.
            eps: What the normalisations add to the variance.
        """
        super().__init__()
        self.levels = levels
        self.blocks = nn.ModuleList(Block(channels, heads_of(channels), attention, eps) for _ in range(blocks))

    def forward(self, embedding: Tensor, prefix: int, size: tuple[int, int]) -> list[Tensor]:
        """Rebuild the levels.

        Args:
            embedding: (B, prefix + H * W, C), the tokens of the bottleneck.
            prefix: Number of class and register tokens before those of the patches. They are not part of the result.
            size: Height H and width W of the grid of patches.

        Returns:
            (B, C, H, W) for each of the L levels, shallow to deep: the mean of the outputs of the level's blocks.
        """
        outputs = []
        for block in self.blocks:
            embedding = block(embedding)
            outputs.append(embedding)
        return [as_map(level[:, prefix:], *size) for level in reversed_groups(outputs, self.levels)]


def reversed_groups(outputs: Sequence[Tensor], levels: int) -> list[Tensor]:
    """Average a decoder's outputs in equal groups, the last ones first.

    Args:
        outputs: The outputs of all blocks in their order. Their number is a multiple of `levels`.
        levels: Number of groups.

    Returns:
        The means; the first one answers to the shallowest level of the encoder.
    """
    size, backwards = len(outputs) // levels, outputs[::-1]
    return [mean_of(backwards[start : start + size]) for start in range(0, len(outputs), size)]


def token_levels(features: Sequence[Tensor], levels: int) -> list[Tensor]:
    """Turn a teacher's features into tokens, those of class and registers first.

    Args:
        features: (B, C, H, W) for each level, then (B, T, C) for each level if such tokens were requested.
        levels: Number of levels.

    Returns:
        (B, T + H * W, C) for each level.
    """
    tokens = [as_tokens(level) for level in features[:levels]]
    prefixes = features[levels:]
    if not prefixes:
        return tokens
    return [torch.cat(pair, dim=1) for pair in zip(prefixes, tokens, strict=True)]


def mean_of_blocks(tokens: Sequence[Tensor], levels: Sequence[Level]) -> Tensor:
    """Average levels, so that every block of the encoder counts once.

    Args:
        tokens: (B, N, C) for each level.
        levels: The levels of the encoder, of one block or of several.

    Returns:
        (B, N, C).
    """
    sizes = [len(level) if isinstance(level, tuple) else 1 for level in levels]
    if len(set(sizes)) == 1:
        return mean_of(tokens)
    total = sum(level * size for level, size in zip(tokens, sizes, strict=True))
    return torch.as_tensor(total) / sum(sizes)


def heads_of(channels: int) -> int:
    """Return the number of attention heads for tokens of some channels; one head for few channels."""
    return max(1, channels // HEAD)


def require_token_levels(encoder: FrozenEncoder, method: str, blocks: int | None = None) -> None:
    """Check that all levels of an encoder are of one size, as those of a plain vision transformer are.

    Args:
        encoder: The frozen teacher.
        method: Name of the method, for messages.
        blocks: Number of blocks that rebuild the levels; None if there are none.

    Raises:
        InputError: If they are not, or if the blocks cannot be divided among the levels.
    """
    if len(set(encoder.strides)) != 1 or len(set(encoder.channels)) != 1:
        raise InputError(
            f"{method}: expected levels of one size, as those of a plain vision transformer; "
            f"'{encoder.name}' at levels {list(encoder.levels)} has strides {list(encoder.strides)}"
        )
    if encoder.channels[0] % heads_of(encoder.channels[0]):
        raise InputError(
            f"{method}: '{encoder.name}' has {encoder.channels[0]} channels; expected a multiple of {HEAD}"
        )
    if blocks is not None and blocks % len(encoder.levels):
        raise InputError(
            f"{method}: {blocks} blocks cannot be divided among {len(encoder.levels)} levels; use a multiple"
        )
