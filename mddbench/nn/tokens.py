"""`nn.Linear`, `nn.Dropout` and `nn.MultiheadAttention` over tokens, the same functions, faster to train on the CPU.

There PyTorch leaves a linear layer to a library that may use half of the processor's width, and draws the numbers of a dropout
one by one: docs/performance.md has the figures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether PyTorch was built with it; asked once, since a compiled step cannot ask."""
IMAGES = 16
"""On one thread PyTorch hands a convolution of one pixel to oneDNN from so many images on: `use_mkldnn` in Convolution.cpp."""
LEVELS = 2**16
"""A probability of dropout is rounded to so many parts."""


class Linear(nn.Linear):
    """`nn.Linear` with a bias; see `linear`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, C')."""
        return linear(tokens, self.weight, self.bias)


class Dropout(nn.Module):
    """`nn.Dropout`; see `dropout`."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape; unchanged in evaluation."""
        return dropout(values, self.probability) if self.training else values


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` (batch first; its parameters, initial values and results), for queries that may be the same for
    the whole batch: they are projected once then.
    """

    def __init__(self, channels: int, heads: int, probability: float) -> None:
        """probability: of a weight's dropout. channels must be a multiple of heads."""
        super().__init__(channels, heads, probability, batch_first=True)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:  # type: ignore[override]
        """queries: (B, P, C) or (1, P, C); keys, values: (B, T, C); hidden: (P, T) bool, True where a query may not look.

        Returns (B, P, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        asking, asked, told = (
            linear(tokens, weight, bias).reshape(len(tokens), -1, self.num_heads, self.head_dim).transpose(1, 2)
            for tokens, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        probability = self.dropout if self.training else 0.0
        if probability and asking.device.type == "cpu":
            scores = torch.matmul(asking * self.head_dim**-0.5, asked.transpose(-2, -1))
            read = torch.matmul(dropout(scores.masked_fill_(hidden, -torch.inf).softmax(dim=-1), probability), told)
        else:
            asking = asking.expand(len(asked), -1, -1, -1)
            read = F.scaled_dot_product_attention(asking, asked, told, ~hidden, probability)
        return linear(read.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Tokens (B, P, C), weight (C', C), bias (C',) -> (B, P, C').

    On the CPU as a convolution of one pixel, where oneDNN does those: on one thread of tokens by sixteens only (IMAGES).
    """
    if tokens.device.type != "cpu" or not ONEDNN:
        return F.linear(tokens, weight, bias)
    batch, places, channels = tokens.shape
    alone = not torch.compiler.is_compiling() and torch.get_num_threads() == 1 and batch * places % IMAGES == 0
    images = tokens.reshape(IMAGES, 1, -1, channels) if alone else tokens[None]
    found = F.conv2d(images.permute(0, 3, 1, 2), weight[:, :, None, None], bias)  # the channels still side by side
    return found.permute(0, 2, 3, 1).reshape(batch, places, -1)


def dropout(values: Tensor, probability: float) -> Tensor:
    """Values of any shape, each set to 0 with the probability, or else scaled so that its mean stays.

    On the CPU with numbers of 16 bits, four to a draw, and a probability rounded to 1/65536.
    """
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    dropped = round(probability * LEVELS)
    if dropped in (0, LEVELS):
        return values if dropped == 0 else values * 0.0
    words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: values.numel()].view(values.shape)
    kept = torch.ge(numbers, dropped - LEVELS // 2, out=torch.empty(values.shape, dtype=values.dtype))
    return values * kept.mul_(LEVELS / (LEVELS - dropped))
