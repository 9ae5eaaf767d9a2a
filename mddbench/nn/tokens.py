"""`nn.Linear`, `nn.Dropout` and `nn.MultiheadAttention` over tokens: the same functions, faster to train on the CPU.

On the CPU, PyTorch passes a linear layer to another library.
This library may use only half of the processor's vector width.
PyTorch also draws the random numbers of a dropout one by one. docs/performance.md has the figures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether PyTorch was built with oneDNN. This is tested once, since a compiled step cannot test it."""
IMAGES = 16
"""Smallest number of images for which PyTorch passes a 1x1 convolution to oneDNN on one thread.

Source: `use_mkldnn` in PyTorch's Convolution.cpp.
"""
LEVELS = 2**16
"""The probability of a dropout is rounded to a multiple of 1 / LEVELS."""


class Linear(nn.Linear):
    """`nn.Linear` with a bias; see `linear`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, P, C) to (B, P, C')."""
        return linear(tokens, self.weight, self.bias)


class Dropout(nn.Module):
    """`nn.Dropout`; see `dropout`.

    Attributes:
        probability: Probability that a value is set to 0, in [0, 1].
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """Drop values of any shape in training mode; return them unchanged in evaluation mode."""
        return dropout(values, self.probability) if self.training else values


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` (batch first) that projects queries once if they are the same for the whole batch.

    Parameters, initial values and results are those of PyTorch.
    """

    def __init__(self, channels: int, heads: int, probability: float) -> None:
        """Create the layer.

        Args:
            channels: Number of channels of a token, a multiple of `heads`.
            heads: Number of heads.
            probability: Dropout probability of an attention weight, in [0, 1].
        """
        super().__init__(channels, heads, probability, batch_first=True)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:  # type: ignore[override]
        """Attend from queries to keys and values.

        Args:
            queries: (B, P, C), or (1, P, C) if they are the same for the whole batch.
            keys: (B, T, C).
            values: (B, T, C).
            hidden: (P, T) bool, True where a query must not attend to a key.

        Returns:
            (B, P, C) tokens.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query_heads, key_heads, value_heads = (
            linear(tokens, weight, bias).reshape(len(tokens), -1, self.num_heads, self.head_dim).transpose(1, 2)
            for tokens, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        probability = self.dropout if self.training else 0.0
        if probability and query_heads.device.type == "cpu":
            scores = torch.matmul(query_heads * self.head_dim**-0.5, key_heads.transpose(-2, -1))
            scores = scores.masked_fill_(hidden, -torch.inf)
            attended = torch.matmul(dropout(scores.softmax(dim=-1), probability), value_heads)
        else:
            query_heads = query_heads.expand(len(key_heads), -1, -1, -1)
            attended = F.scaled_dot_product_attention(query_heads, key_heads, value_heads, ~hidden, probability)
        return linear(attended.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer to tokens.

    On the CPU it is computed as a 1x1 convolution, where oneDNN supports this.
    On one thread this holds only if the number of tokens is a multiple of IMAGES.

    Args:
        tokens: (B, P, C).
        weight: (C', C).
        bias: (C',).

    Returns:
        (B, P, C') tokens.
    """
    if tokens.device.type != "cpu" or not ONEDNN:
        return F.linear(tokens, weight, bias)
    batch, positions, channels = tokens.shape
    split = not torch.compiler.is_compiling() and torch.get_num_threads() == 1 and batch * positions % IMAGES == 0
    images = tokens.reshape(IMAGES, 1, -1, channels) if split else tokens[None]
    # The channels of a token stay side by side in memory.
    output = F.conv2d(images.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
    return output.permute(0, 2, 3, 1).reshape(batch, positions, -1)


def dropout(values: Tensor, probability: float) -> Tensor:
    """Set each value to 0 with a probability, and scale the others so that the mean stays the same.

    On the CPU it uses random numbers of 16 bits, four to a draw. The probability is rounded to a multiple of 1/65536.

    Args:
        values: Floats of any shape.
        probability: Probability that a value is set to 0, in [0, 1].

    Returns:
        Values of the same shape.
    """
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    dropped = round(probability * LEVELS)
    if dropped in (0, LEVELS):
        return values if dropped == 0 else values * 0.0
    words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: values.numel()].view(values.shape)
    factors = torch.ge(numbers, dropped - LEVELS // 2, out=torch.empty(values.shape, dtype=values.dtype))
    return values * factors.mul_(LEVELS / (LEVELS - dropped))
