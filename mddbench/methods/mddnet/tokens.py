"""The bottleneck and the decoders of MDD-Net on the tokens of a plain vision transformer.

The paper's network rebuilds a pyramid of three levels. Here, groups of the transformer's blocks are the levels, all of
one size, and transformer blocks take the place of the convolutions. All of this is ours, not the paper's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.token_levels import TokenDecoder, mean_of_blocks
from mddbench.nn.transformer import LinearAttention, Mlp, SelfAttention, as_map, as_tokens, initialise_narrowly
from mddbench.settings import BelowOne, Depth, Strict

ATTENTIONS = {"linear": LinearAttention, "softmax": SelfAttention}
EPS = 1e-8
"""What the normalisations of the decoders add to the variance."""


class TokenSettings(Strict):
    """The settings of the network on tokens."""

    blocks: Depth = Field(default=8, description="The number of blocks of each decoder, a multiple of that of levels.")
    attention: Literal["linear", "softmax"] = Field(
        default="linear", description="The decoders' attention. linear cannot focus on single tokens."
    )
    dropout: BelowOne = Field(default=0.2, description="The probability of dropout in the bottleneck.")


class TokenBottleneck(nn.Module):
    """Averages the levels and passes each token through two linear layers with dropout.

    Attributes:
        levels: The levels of the encoder.
        out_channels: Number of channels of the embedding.
    """

    def __init__(self, encoder: FrozenEncoder, settings: TokenSettings) -> None:
        super().__init__()
        self.levels, self.out_channels = encoder.levels, encoder.channels[0]
        self.mlp = Mlp(self.out_channels, settings.dropout)
        initialise_narrowly([self.mlp])

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Embed levels (B, C, H, W) of one size as (B, C, H, W)."""
        embedded = self.mlp(mean_of_blocks([as_tokens(level) for level in levels], self.levels))
        return as_map(embedded, *levels[0].shape[-2:])


class TokenMapDecoder(nn.Module):
    """Rebuilds the levels from the embedding by transformer blocks."""

    def __init__(self, encoder: FrozenEncoder, settings: TokenSettings) -> None:
        super().__init__()
        attention = ATTENTIONS[settings.attention]
        self.blocks = TokenDecoder(encoder.channels[0], settings.blocks, len(encoder.levels), attention, EPS)
        initialise_narrowly([self.blocks])

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Rebuild the levels (B, C, H, W), shallow to deep, from an embedding (B, C, H, W)."""
        height, width = embedding.shape[-2:]
        levels: list[Tensor] = self.blocks(as_tokens(embedding), 0, (height, width))
        return levels
