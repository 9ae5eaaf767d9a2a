"""How much each signal varies on normal positions, so that signals of different kinds can be added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.reverse_distillation import distance_map

DECAY = 0.99
"""Decay of the moving averages over training steps."""


class Deviations(nn.Module):
    """Moving averages of the standard deviation of maps at the normal positions of training images.

    Attributes:
        means: (S,), the means of the maps of S signals.
        squares: (S,), the means of their squares.
        weight: (1,), the sum of the weights of all steps so far; 0 before the first one.
    """

    means: Tensor
    squares: Tensor
    weight: Tensor

    def __init__(self, signals: Sequence[str]) -> None:
        super().__init__()
        self.signals = tuple(signals)
        for name, count in (("means", len(self.signals)), ("squares", len(self.signals)), ("weight", 1)):
            self.register_buffer(name, torch.zeros(count))

    @torch.no_grad()
    def learn(self, pairs: dict[str, tuple[Sequence[Tensor], Sequence[Tensor]]], masks: Tensor) -> None:
        """Count the maps of a training step.

        Args:
            pairs: For each signal the two features that are compared, each (B, C_l, H_l, W_l) for each level.
            masks: (B, H, W) bool, True where a defect was drawn.
        """
        first = next(iter(pairs.values()))[0][0]
        size = (first.shape[-2], first.shape[-1])
        normal = (F.adaptive_max_pool2d(masks.float()[:, None], size)[:, 0] == 0).to(self.means.dtype)
        share = normal / normal.sum().clamp_min(1.0)
        maps = [distance_map(*pairs[name], size) for name in self.signals]
        for position, values in enumerate(maps):
            self.means[position].lerp_((values * share).sum().to(self.means.dtype), 1 - DECAY)
            self.squares[position].lerp_((values.square() * share).sum().to(self.means.dtype), 1 - DECAY)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - DECAY)

    def of(self, signal: str) -> Tensor:
        """Return the standard deviation of a signal, a scalar; 1 before the first step."""
        position = self.signals.index(signal)
        weight = self.weight[0].clamp_min(1e-12)
        mean, square = self.means[position] / weight, self.squares[position] / weight
        deviation = (square - mean.square()).clamp_min(0.0).sqrt()
        return torch.where((self.weight[0] > 0) & (deviation > 0), deviation, torch.ones_like(deviation))
