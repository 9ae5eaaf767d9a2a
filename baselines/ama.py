"""AMA: an adversarial autoencoder whose critic sees pairs, an image with itself and an image with its reconstruction.

Paper:     Somepalli et al., Unsupervised Anomaly Detection with Adversarial Mirrored AutoEncoders, UAI 2021. Only its
           abstract could be read.
Code read: the authors' somepago/AMA at e8ba811 (Apache-2.0), for CIFAR-10 at 32 pixels. None of it is used.
Differs:   Sizes are ours: the authors have images of 32 pixels. A critic's features are means over the positions, not sums,
           which would grow with the image. So the latent vectors' lengths have a smaller weight than the authors' 1.
           The critic learns in the same step as the autoencoder, with a rate of its own; the authors' takes five steps
           for each. The critic has no penalty of its gradient. Spectral norms alone bound it,
           so that each block stretches differences twofold at most.
           No anomalies with labels are ever used, which the authors' published command does. The last epoch counts;
           the authors keep the best by labelled anomalies.
           There is one model for all categories. The two betas of the optimiser are the same for all parts.
           The map is ours: AMA has none. It is the distance of the critic's last maps before their mean.
Variants:  `settings.two_sided: false`: only large distances are abnormal. In the authors' code, so are small ones.
Unsaid:    Results on industrial images: none were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.adversary import SpectralConv2d
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.pixel_networks import Widths, as_signed, encoder_of, initialise_narrowly
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Count, Fraction, Pixels, Positive, Strict

GRID = 4
"""Side of the map that becomes the latent vector."""
TINY = 1e-12
KEPT = 0.98
"""Share of the old value in the moving moments of the scores in training."""
Weight = Annotated[float, Field(ge=0, le=1000)]


class AMASettings(Strict):
    """The settings of AMA."""

    widths: Widths = Field(
        default=(32, 64, 128, 256, 256),
        description="The numbers of channels of the encoder's levels, each of half the size of the one before.",
    )
    latent: Count = Field(default=128, description="The number of channels of the latent vector.")
    generator_widths: Widths = Field(
        default=(128, 128, 64, 64, 32),
        description="The numbers of channels of the generator's blocks, each of which doubles the size. "
        "Images of another size are resized.",
    )
    critic_widths: Widths = Field(
        default=(32, 64, 128), description="The numbers of channels of the critic's blocks that halve the size."
    )
    critic_rate: Positive = Field(
        default=3.0, description="The critic's learning rate, relative to that of the autoencoder."
    )
    critic_pool: Count = Field(
        default=1, description="The side of the squares of pixels over which the critic averages images first."
    )
    regulariser: Weight = Field(default=0.01, description="The weight of the mean length of latent vectors.")
    sampling_from: Fraction = Field(
        default=0.1, description="The share of the training after which some images are replaced by atypical ones."
    )
    sampled: Fraction = Field(default=0.1, description="The share of a batch that is replaced, rounded; 0: none.")
    inward: Fraction = Field(
        default=0.5,
        description="Atypical images are generated from latent vectors times a number between 0 and this one.",
    )
    atypical_weight: Weight = Field(
        default=5.0, description="The weight of atypical images, whose losses have the opposite sign."
    )
    two_sided: bool = Field(
        default=True,
        description="True: an image's score is how far its distance is from the mean of those in training, in standard "
        "deviations. False: the distance itself.",
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class AMA(Detector[AMASettings]):
    """A mirrored autoencoder. The map is the smoothed distance of the critic's maps of both pairs; there is no pixel loss.

    Attributes:
        down: The levels of the encoder.
        latent: The layer that makes the latent vector.
        generator: The network that makes images of latent vectors.
        critic: The network that judges pairs.
        moments: (3,) moving averages of 1, of the distances of images in training, and of their squares, from 0 on.
    """

    label = "AMA"
    version = 1
    uses_encoder = False
    moments: Tensor

    def __init__(self, encoder: FrozenEncoder, settings: AMASettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        distance = "L1 distance of the critic's features of both pairs"
        self.image_score_rule = f"deviation of the {distance} from training" if settings.two_sided else distance
        self.down = encoder_of(settings.widths)
        self.latent = nn.Conv2d(settings.widths[-1], settings.latent, GRID)
        initialise_narrowly(self.down)
        self.generator = Generator(settings)
        self.critic = Critic(settings.critic_widths, settings.critic_pool)
        self.register_buffer("moments", torch.zeros(3))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the groups of the autoencoder and of the critic, each with its learning rate."""
        own = [*self.down.parameters(), *self.latent.parameters(), *self.generator.parameters()]
        return [
            {"params": own, "lr": lr},
            {"params": list(self.critic.parameters()), "lr": lr * self.settings.critic_rate},
        ]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images, and the share of the training that is done.

        Returns:
            Scalar loss terms: the critic's, on reconstructions without their graph; the autoencoder's through a frozen
            critic; and the weighted mean length of the latent vectors of normal images.
        """
        settings = self.settings
        images = as_signed(batch.images, len(settings.widths), "ama")
        count = round(settings.sampled * len(images)) if batch.progress >= settings.sampling_from else 0
        if count:
            images = torch.cat([self._atypical(images[:count]), images[count:]])
        latent = self._latent(images)
        rebuilt = self._image(latent, images)
        signs = torch.ones_like(images[:, 0, 0, 0])
        signs[:count] = -settings.atypical_weight
        answers, features = self.critic(torch.cat([images, images]), torch.cat([images, rebuilt.detach()]))
        same, other = answers.chunk(2)
        judged, _ = self.critic(images, rebuilt, frozen=True)
        self._watch(features.detach().chunk(2), count)
        return {
            "critic": (signs * (other - same)).mean(),
            "mirrored": -(signs * judged).mean(),
            "latent": settings.regulariser * (latent[count:].square().flatten(1).sum(dim=1) + TINY).sqrt().mean(),
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), the L1 distance of the critic's last maps of both pairs, smoothed.
        """
        return self._resized(self._differences(images).abs().sum(dim=1), images)

    def maps_and_scores(self, images: Tensor, category: int = 0) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Compute the maps (B, H, W), and the image scores (B,), which need the critic's features."""
        differences = self._differences(images)
        distances = differences.mean(dim=(2, 3)).abs().sum(dim=1)
        if self.settings.two_sided:
            mean, square = self.moments[1:] / (self.moments[0] + TINY)
            distances = (distances - mean).abs() / ((square - mean**2).clamp_min(0) + TINY).sqrt()
        return self._resized(differences.abs().sum(dim=1), images), distances

    def _differences(self, images: Tensor) -> Tensor:
        """The differences (B, C, h, w) of the critic's last maps of an image with itself and with its reconstruction."""
        signed = as_signed(images, len(self.settings.widths), "ama")
        rebuilt = self._image(self._latent(signed), signed)
        differences: Tensor = self.critic(signed, rebuilt)[1] - self.critic(signed, signed)[1]
        return differences

    def _resized(self, grids: Tensor, images: Tensor) -> Tensor:
        """Grids (B, h, w), resized to the images and smoothed."""
        size = (images.shape[-2], images.shape[-1])
        maps = F.interpolate(grids[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        return gaussian_smooth(maps, self.settings.sigma)

    def _latent(self, signed: Tensor) -> Tensor:
        """Latent vectors (B, L, 1, 1) of images on [-1, 1]."""
        vectors: Tensor = self.latent(F.adaptive_avg_pool2d(self.down(signed), GRID))
        return at_least_single(vectors)

    def _image(self, latent: Tensor, like: Tensor) -> Tensor:
        """Images of latent vectors (B, L, 1, 1), in the size of others."""
        made = at_least_single(self.generator(latent))
        size = (like.shape[-2], like.shape[-1])
        if made.shape[-2:] == size:
            return made
        return F.interpolate(made, size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def _atypical(self, signed: Tensor) -> Tensor:
        """Images of latent vectors that were moved towards the origin."""
        latent = self._latent(signed)
        shares = self.settings.inward * torch.rand(len(latent), 1, 1, 1, device=latent.device, dtype=latent.dtype)
        return self._image(shares * latent, signed)

    @torch.no_grad()
    def _watch(self, pairs: Sequence[Tensor], first: int) -> None:
        """Follow the distances of normal images, from the index `first` on, and their squares."""
        same, other = pairs
        distances = (other - same)[first:].mean(dim=(2, 3)).abs().sum(dim=1)
        moments = torch.stack([torch.ones_like(distances[0]), distances.mean(), distances.square().mean()])
        self.moments.lerp_(moments.to(self.moments), 1 - KEPT)


class Generator(nn.Module):
    """Residual blocks that double the size of a map, from a latent vector to an image.

    Attributes:
        first: The layer that makes a map of 4x4 of a vector.
        blocks: The residual blocks.
        last: The norm and the convolution behind them.
    """

    def __init__(self, settings: AMASettings) -> None:
        super().__init__()
        widths = settings.generator_widths
        self.first = nn.ConvTranspose2d(settings.latent, widths[0], GRID)
        afters = (*widths[1:], widths[-1])
        self.blocks = nn.ModuleList(UpBlock(before, after) for before, after in zip(widths, afters, strict=True))
        self.last = nn.Sequential(
            nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Make images (B, 3, H, W) on [-1, 1] of latent vectors (B, L, 1, 1)."""
        features = self.first(latent)
        for block in self.blocks:
            features = block(features)
        images: Tensor = self.last(features)
        return images


class UpBlock(nn.Module):
    """A residual block that doubles the size: norm, ReLU, repetition, 3x3, norm, ReLU, 3x3; beside it a 1x1 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm, self.first = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, padding=1)
        self.second_norm, self.second = nn.BatchNorm2d(after), nn.Conv2d(after, after, 3, padding=1)
        self.beside = nn.Conv2d(before, after, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2 H, 2 W)."""
        inner = self.first(F.interpolate(F.relu(self.norm(features)), scale_factor=2, mode="nearest"))
        inner = self.second(F.relu(self.second_norm(inner)))
        doubled: Tensor = inner + F.interpolate(self.beside(features), scale_factor=2, mode="nearest")
        return doubled


class Critic(nn.Module):
    """A network that judges pairs of images: residual blocks that halve the size, two that do not, and a linear layer.

    Attributes:
        pool: Side of the squares of pixels that are averaged first.
        blocks: The residual blocks.
        last: The linear layer behind the mean over all positions.
    """

    def __init__(self, widths: tuple[int, ...], pool: int) -> None:
        super().__init__()
        self.pool = pool
        befores = (6, *widths[:-1])
        halving = [CriticBlock(before, after, halves=True) for before, after in zip(befores, widths, strict=True)]
        halving[0].activates = False
        self.blocks = nn.ModuleList([*halving, *(CriticBlock(widths[-1], widths[-1], halves=False) for _ in range(2))])
        self.last = SpectralConv2d(widths[-1], 1, 1, bias=False)

    def forward(self, images: Tensor, others: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Judge pairs.

        Args:
            images: (B, 3, H, W) on [-1, 1].
            others: (B, 3, H, W), the second of each pair.
            frozen: True if the result should have no gradient with respect to the weights.

        Returns:
            (B,) judgements, and (B, C, h, w) last maps.
        """
        features = torch.cat([images, others], dim=1)
        if self.pool > 1:
            features = F.avg_pool2d(features, self.pool)
        for block in self.blocks:
            features = block(features, frozen)
        features = F.relu(at_least_single(features))
        judged = self.last(features.mean(dim=(2, 3), keepdim=True), frozen)
        return at_least_single(judged).flatten(), features


class CriticBlock(nn.Module):
    """A residual block of two 3x3 convolutions that do not stretch differences, and a 1x1 convolution beside them.

    Attributes:
        halves: True if it halves the size of a map.
        activates: False if its input is used as it is, as that of the first block.
    """

    def __init__(self, before: int, after: int, halves: bool) -> None:
        super().__init__()
        self.halves, self.activates = halves, True
        self.first = SpectralConv2d(before, after, 3, gain=1 / 3)  # so neither convolution stretches a map
        self.second = SpectralConv2d(after, after, 3, gain=1 / 3)
        self.beside = SpectralConv2d(before, after, 1)

    def forward(self, features: Tensor, frozen: bool) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W), or to half of that size."""
        inner = self.first(F.relu(features) if self.activates else features, frozen)
        inner = self.second(F.relu(inner), frozen)
        if self.halves:
            inner, features = F.avg_pool2d(inner, 2), F.avg_pool2d(features, 2)
        result: Tensor = inner + self.beside(features, frozen)
        return result
