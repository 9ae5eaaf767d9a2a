"""Parts of a critic that is trained against a network in one and the same step.

Both players stand in one sum of losses. The terms of the critic see what the network made without its graph. The terms
of the network go through the critic with `frozen=True`, that is, with its weights detached. So each term reaches one player
only, and the gradients are those of two updates at the same time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.precision import full_precision

FIRST_ITERATIONS = 15
"""Number of power iterations at the start."""


class SpectralConv2d(nn.Module):
    """A convolution whose weights, as a matrix (out, in x side x side), have a fixed spectral norm.

    The norm is followed by one power iteration in each training pass that is not frozen.

    Source: Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018.

    Attributes:
        weight: (out, in, side, side), before its division by the norm.
        bias: (out,); None without a bias.
        left: (out,), the estimated left singular vector.
    """

    left: Tensor

    def __init__(
        self, before: int, after: int, side: int, stride: int = 1, bias: bool = True, gain: float = 1.0
    ) -> None:
        """Create the convolution. It keeps the size of a map that it does not stride over.

        Args:
            before: Number of channels of its input.
            after: Number of channels of its output.
            side: Side of its kernel in positions.
            stride: Its stride.
            bias: False for no bias.
            gain: The spectral norm of the weights. As an operator on maps, the convolution has up to `side` times that.
        """
        super().__init__()
        self.stride, self.padding, self.gain = stride, (side - 1) // 2, gain
        self.weight = nn.Parameter(torch.empty(after, before, side, side))
        nn.init.xavier_uniform_(self.weight)
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.register_buffer("left", F.normalize(torch.randn(after), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self._iterate()

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """Convolve.

        Args:
            features: (B, in, H, W).
            frozen: True if the result should have no gradient with respect to the weights.

        Returns:
            (B, out, H', W').
        """
        if self.training and not frozen:
            self._iterate()
        weight = self.weight.detach() if frozen else self.weight
        bias = self.bias.detach() if frozen and self.bias is not None else self.bias
        return F.conv2d(features, self.gain * weight / self.norm_of(weight), bias, self.stride, self.padding)

    def norm_of(self, weight: Tensor) -> Tensor:
        """Estimate the spectral norm of weights (out, in, side, side), a scalar. Singular vectors count as fixed."""
        with full_precision(weight):
            matrix = weight.flatten(1)
            left = self.left.clone()  # a later step changes it in place
            right = F.normalize(matrix.detach().T @ left, dim=0)
            return left @ matrix @ right

    @torch.no_grad()
    def _iterate(self) -> None:
        """Improve the estimated singular vector by one power iteration."""
        with full_precision(self.weight):
            matrix = self.weight.flatten(1)
            self.left.copy_(F.normalize(matrix @ F.normalize(matrix.T @ self.left, dim=0), dim=0))
