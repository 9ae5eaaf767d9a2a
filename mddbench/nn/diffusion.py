"""The chain of a diffusion model: how much noise each time has, noised values, and one step back without new noise.

Sources: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020, for the chain; Song et al., Denoising Diffusion
Implicit Models, ICLR 2021, for the step; Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models,
CVPR 2022, for the amounts of noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TIMES = 1000
"""Number of times of the chain, counted from 0. The last one is nearly noise alone."""
FIRST, LAST = 0.00085, 0.012
"""Variance of the noise that is added at the first and at the last time."""
LONGEST_PERIOD = 10_000.0
"""Longest period of the waves that describe a time, divided by 2 pi."""


class NoiseSchedule(nn.Module):
    """The amounts of signal and noise at each time. Square roots of the added variances are evenly spaced.

    Attributes:
        signal: (TIMES,), what clean values are multiplied by.
        spread: (TIMES,), what noise of deviation 1 is multiplied by.
    """

    signal: Tensor
    spread: Tensor

    def __init__(self) -> None:
        """Compute the amounts."""
        super().__init__()
        added = torch.linspace(FIRST**0.5, LAST**0.5, TIMES, dtype=torch.float64).square()
        kept = (1 - added).cumprod(dim=0)
        kind = torch.get_default_dtype()
        self.register_buffer("signal", kept.sqrt().to(kind), persistent=False)
        self.register_buffer("spread", (1 - kept).sqrt().to(kind), persistent=False)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Mix clean values with noise.

        Args:
            clean: (B, C, H, W).
            noise: (B, C, H, W), or (1, C, H, W) if it is the same for all images.
            times: (B,) times, whole numbers from 0 to TIMES - 1.

        Returns:
            (B, C, H, W).
        """
        return self.at(self.signal, times) * clean + self.at(self.spread, times) * noise

    def clean_from(self, noisy: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Compute the clean values from noisy ones (B, C, H, W) and the noise in them, at times (B,)."""
        return (noisy - self.at(self.spread, times) * noise) / self.at(self.signal, times)

    def noise_from(self, noisy: Tensor, clean: Tensor, times: Tensor) -> Tensor:
        """Compute the noise in noisy values (B, C, H, W) from the clean ones, at times (B,)."""
        return (noisy - self.at(self.signal, times) * clean) / self.at(self.spread, times)

    def step_back(self, noisy: Tensor, noise: Tensor, now: Tensor, then: Tensor) -> Tensor:
        """Go from one time to an earlier one. The same noise is left, only less of it (DDIM with eta 0).

        Args:
            noisy: (B, C, H, W) at the time `now`.
            noise: (B, C, H, W), the noise that was predicted for it.
            now: (B,) times.
            then: (B,) earlier times.

        Returns:
            (B, C, H, W) at the time `then`.
        """
        return self.noised(self.clean_from(noisy, noise, now), noise, then)

    @staticmethod
    def at(amounts: Tensor, times: Tensor) -> Tensor:
        """Return the amounts (TIMES,) at times (B,), as (B, 1, 1, 1)."""
        return amounts[times][:, None, None, None]


def evenly_back(start: int, steps: int) -> list[int]:
    """Return `steps` + 1 evenly spaced times from `start` down to 0, rounded."""
    return [round(start * (steps - step) / steps) for step in range(steps + 1)]


def time_embedding(times: Tensor, width: int) -> Tensor:
    """Describe times by cosines and sines of many periods.

    Args:
        times: (B,) times.
        width: Number of values, an even number.

    Returns:
        (B, width) in double precision: first all cosines, then all sines, short periods first.
    """
    half = width // 2
    exponents = torch.arange(half, device=times.device, dtype=torch.float64) / half
    angles = times.double()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
