"""Latent diffusion on features, after DiAD: a small network removes noise from features, guided by the features themselves.

Paper:     He et al., A Diffusion-Based Framework for Multi-Class Anomaly Detection (DiAD), AAAI 2024, for the idea: an image is
           rebuilt from noise by a latent diffusion model that a second network guides at the coarsest level.
Code read: the authors' lewandofskee/DiAD at d281300 (no licence), through notes on it. None of it is used.
Differs:   This is not DiAD, and its numbers cannot be compared with the published ones:
           (a) what is diffused are standardised features of a frozen ImageNet encoder, not the code of an autoencoder;
           (b) both networks start from random weights, not from Stable Diffusion;
           (c) so none is half frozen and none is a copy of the other: both are trained, as a whole;
           (d) the distance is measured in the features that are diffused, not in those of a second network;
           (e) noise is added up to `start`, not to the end of the chain, and it is the same for every image;
           (f) the networks predict the features without noise. DiAD's predict the noise (`predicts: noise`). Noise of all
           channels does not fit through networks that are narrower than the features.
           The weights that score are moving averages. There is no context, such as DiAD's empty prompt.
           The fusion's convolutions start at random. In the released code they start at 0, and so do the layers before them,
           which nothing else trains while the guide enters at the coarsest level only: both stay at 0 (`fusion: zero`).
Variants:  `settings.everywhere` guides all levels: the way around the noise is then wide, and defects are rebuilt, too.
           `settings.fusion` and `settings.start` are the other two settings that the original invites to vary.
Unsaid:    All sizes.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.diffusion import TIMES, NoiseSchedule, evenly_back
from mddbench.nn.diffusion_blocks import convolution, zeroed
from mddbench.nn.diffusion_unet import Fusion, GuidanceNetwork, UNet, UNetShape
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import BelowOne, Count, Depth, Pixels, Strict

TINY = 1e-6
"""What the variance of a channel is kept away from zero by."""
EARLY = 10.0
"""The moving averages forget faster in the first steps: after n steps they keep (1 + n) / (EARLY + n) at most."""


class DiffusionFeaturesSettings(Strict):
    """The settings of latent diffusion on features."""

    grid: Count = Field(default=16, description="The side of the grid to which the features of all levels are resized.")
    width: Annotated[int, Field(ge=2, le=2**20, multiple_of=2)] = Field(
        default=64, description="The number of channels at the first level of both networks."
    )
    multipliers: Annotated[tuple[Count, ...], Field(min_length=2, max_length=8)] = Field(
        default=(1, 2, 2),
        description="The number of channels of each level, divided by `width`. Sides halve from level to level.",
    )
    blocks: Depth = Field(default=1, description="The number of residual blocks of a level on the way down.")
    heads: Count = Field(
        default=4, description="The number of heads of attention, which is at the coarsest level only."
    )
    groups: Count = Field(default=8, description="The number of groups of the norms.")
    predicts: Literal["noise", "features"] = Field(
        default="features",
        description="What the network predicts: the features without noise, or the noise, as DiAD's.",
    )
    everywhere: bool = Field(
        default=False, description="True: the guide enters at all levels. False: at the coarsest one only, as DiAD's."
    )
    fusion: Fusion = Field(
        default="random",
        description="How the fusion of the level above the coarsest starts: random, or zero as in DiAD's code, where it never "
        "moves. none: no fusion.",
    )
    standardised: Count = Field(
        default=100,
        description="The number of first training steps from which the channels' means and deviations are taken.",
    )
    average: BelowOne = Field(
        default=0.999, description="The share of the old value in the moving average of the weights, at each step."
    )
    start: Annotated[int, Field(ge=1, lt=TIMES)] = Field(
        default=400, description="The time, of 1 to 999, up to which test features are noised before they are rebuilt."
    )
    steps: Annotated[int, Field(ge=1, le=TIMES)] = Field(
        default=5, description="The number of steps in which they are rebuilt."
    )
    sigma: Pixels = Field(default=2.5, description="The standard deviation of the smoothing, in pixels.")


class GuidedDenoiser(nn.Module):
    """The U-Net and the network that guides it.

    Attributes:
        unet: The U-Net.
        guidance: The network that guides it.
    """

    def __init__(self, channels: int, settings: DiffusionFeaturesSettings) -> None:
        """Create both networks, for features of so many channels."""
        super().__init__()
        shape = UNetShape(
            channels=channels,
            width=settings.width,
            multipliers=settings.multipliers,
            blocks=settings.blocks,
            attended=(len(settings.multipliers) - 1,),
            heads=settings.heads,
            context=None,
            groups=settings.groups,
        )
        shape.demand_fit(settings.grid, "diffusion_features", "settings.grid")
        width = settings.width
        stem = nn.Sequential(convolution(channels, width), nn.SiLU(), zeroed(convolution(width, width)))
        self.unet = UNet(shape)
        self.guidance = GuidanceNetwork(shape, stem, settings.fusion, settings.everywhere)

    def forward(self, noisy: Tensor, hint: Tensor, times: Tensor) -> Tensor:
        """Predict from noisy features and a hint, both (B, C, H, W), at times (B,); the result has the same shape."""
        guide = self.guidance(noisy, hint, times, None)
        return at_least_single(self.unet(noisy, times, None, guide))


class DiffusionFeatures(Detector[DiffusionFeaturesSettings]):
    """Features are noised and rebuilt. The map is the cosine distance of features to the rebuilt ones, smoothed.

    Attributes:
        schedule: The amounts of noise.
        denoiser: The networks that are trained.
        averaged: The same networks with the moving averages of their weights, which score.
        mean: (C,) mean of each channel in the first steps.
        square: (C,) mean square of each channel in the first steps.
        seen: Number of training steps so far.
        noise: (1, C, grid, grid), the noise of all test images.
    """

    label = "Latent diffusion on features (after DiAD)"
    version = 1
    asks_teacher = True
    mean: Tensor
    square: Tensor
    seen: Tensor
    noise: Tensor

    def __init__(self, encoder: FrozenEncoder, settings: DiffusionFeaturesSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        channels = sum(encoder.channels)
        self.schedule = NoiseSchedule()
        self.denoiser = GuidedDenoiser(channels, settings)
        self.averaged = deepcopy(self.denoiser).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("square", torch.ones(channels))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, channels, settings.grid, settings.grid))

    @classmethod
    def training_settings(cls, settings: DiffusionFeaturesSettings) -> dict[str, Any]:
        """Return all settings except those of the maps alone."""
        return settings.model_dump(mode="json", exclude={"start", "steps", "sigma"})

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            One scalar loss term: the mean square of the error of what is predicted, at a random time for each image.
        """
        joined = self._joined(self.teacher(batch))
        self._follow(joined)
        clean = self._standardised(joined)
        times = torch.randint(0, TIMES, (len(clean),), device=clean.device)
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
        predicted = self.denoiser(self.schedule.noised(clean, noise, times), clean, times)
        return {"diffusion": F.mse_loss(predicted, noise if self.settings.predicts == "noise" else clean)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        clean = self._standardised(self._joined(self.encoder(images)))
        channels = list(self.encoder.channels)
        levels = zip(
            torch.split(clean, channels, dim=1), torch.split(self._rebuilt(clean), channels, dim=1), strict=True
        )
        grids = torch.stack([1 - F.cosine_similarity(before, after, dim=1) for before, after in levels], dim=1)
        size = (images.shape[-2], images.shape[-1])
        maps = F.interpolate(grids.mean(dim=1, keepdim=True), size, mode="bilinear", align_corners=False)[:, 0]
        return gaussian_smooth(maps, self.settings.sigma)

    def _joined(self, levels: list[Tensor]) -> Tensor:
        """All levels (B, C_l, H_l, W_l) on the grid: (B, C, grid, grid)."""
        size = (self.settings.grid, self.settings.grid)
        return torch.cat(
            [F.interpolate(at_least_single(each), size, mode="bilinear", align_corners=False) for each in levels], dim=1
        )

    @torch.no_grad()
    def _follow(self, joined: Tensor) -> None:
        """Follow the channels' statistics in the first steps, and the weights in all steps."""
        share = torch.where(self.seen < self.settings.standardised, 1 / (1 + self.seen), torch.zeros_like(self.seen))
        self.mean.lerp_(joined.mean(dim=(0, 2, 3)).to(self.mean), share)
        self.square.lerp_(joined.square().mean(dim=(0, 2, 3)).to(self.square), share)
        kept = torch.clamp((1 + self.seen) / (EARLY + self.seen), max=self.settings.average)
        for average, value in zip(self.averaged.parameters(), self.denoiser.parameters(), strict=True):
            average.lerp_(value, 1 - kept)
        self.seen += 1

    def _standardised(self, joined: Tensor) -> Tensor:
        """Features (B, C, H, W) with the mean 0 and the deviation 1 of each channel, as it was in the first steps."""
        deviation = (self.square - self.mean.square()).clamp(min=0).add(TINY).sqrt()
        return (joined - self.mean[:, None, None]) / deviation[:, None, None]

    def _rebuilt(self, clean: Tensor) -> Tensor:
        """What the networks make of features (B, C, H, W) that were noised."""
        times = torch.tensor(evenly_back(self.settings.start, self.settings.steps), device=clean.device)
        noisy = self.schedule.noised(clean, self.noise, times[:1])
        for now, then in pairwise([times[place : place + 1] for place in range(len(times))]):
            predicted = self.averaged(noisy, clean, now.expand(len(clean)))
            if self.settings.predicts == "features":
                predicted = self.schedule.noise_from(noisy, predicted, now)
            noisy = self.schedule.step_back(noisy, predicted, now, then)
        return noisy
