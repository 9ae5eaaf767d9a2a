"""ESAD without labels, or with synthetic ones: an autoencoder and a second encoder, whose codes should be short.

Paper:     Huang et al., ESAD: End-to-end Semi-supervised Anomaly Detection, BMVC 2021. Only its abstract could be read.
           The losses follow a re-implementation by others.
Code read: OutlierDetectionJL/OutlierDetectionNetworks.jl at 183c239 (MIT), for tables of numbers. None by the authors was
           found. None of it is used.
Differs:   The paper learns from a few labelled anomalies. Here training sees normal images only, and true labels would be
           test data. So this is never plain ESAD: either there are no labels, or defects are drawn and labels are theirs.
           Codes are maps, not vectors, so that their lengths make a map. Labels are given to positions. A position is
           defective if its part of the image has a defective pixel. All sizes are ours. Errors are means, not sums.
           There is one model for all categories.
Variants:  `settings.labels: none` or `synthetic`. Defective pixels then have to be rebuilt as the image with noise
           (`settings.target: noise`, as in the re-implementation), or as before the defect was drawn (`clean`, which is
           another method, near to DRAEM's first network).
Unsaid:    Networks, weights of the losses, the noise, how both parts of the score are weighted. Here each is divided by
           its mean in training. Results on industrial images: none were found.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.pixel_networks import Widths, as_signed, decoder_of, encoder_of, initialise_narrowly
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.synthesis import SynthesisSettings, synthesise
from mddbench.settings import Pixels, Positive, Strict

TINY = 1e-12
KEPT = 0.95
"""Share of the old value in the moving averages of training."""
Weight = Annotated[float, Field(ge=0, le=1000)]


class ESADSettings(Strict):
    """The settings of ESAD without labels and with synthetic labels."""

    labels: Literal["none", "synthetic"] = Field(
        default="none",
        description="none: all training images are normal. synthetic: defects are drawn on some of them.",
    )
    widths: Widths = Field(
        default=(32, 64, 128, 128),
        description="The numbers of channels of each encoder's levels, each of half the size of the one before. "
        "The decoder mirrors them.",
    )
    code: Annotated[int, Field(ge=1, le=4096)] = Field(default=64, description="The number of channels of a code.")
    length: Weight = Field(
        default=0.1,
        description="The weight of the length of the second code at normal positions, and of its inverse at defective ones; "
        "each is a mean over these positions.",
    )
    consistency: Weight = Field(default=1.0, description="The weight of the distance of both codes.")
    floor: Positive = Field(
        default=0.1,
        description="What is added to a length before it is inverted, so that a short one gives no huge loss.",
    )
    target: Literal["noise", "clean"] = Field(
        default="noise",
        description="What defective pixels have to be rebuilt as: the image with noise, or the image without the defect.",
    )
    noise: Positive = Field(
        default=0.6, description="The standard deviation of that noise on [-1, 1]; the result is cut to this range."
    )
    synthesis: SynthesisSettings = Field(
        default=SynthesisSettings(probability=0.5), description="The settings of the drawn defects."
    )
    code_weight: Weight = Field(
        default=1.0, description="The weight in the map of the second code's length; that of the pixels' error is 1."
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")
    image_score: Literal["mean", "max"] = Field(
        default="mean", description="An image's score: the mean of its map, or the maximum."
    )


class ESAD(Detector[ESADSettings]):
    """Encoder, decoder, encoder. The map is the error of the pixels plus the length of the second code.

    Attributes:
        first: The encoder of images.
        decoder: The decoder of its codes.
        second: The encoder of what was decoded, with weights of its own.
        typical: (2,) moving averages of the error of a pixel and of the length of a code on normal images.
    """

    label = "ESAD without labels"
    version = 1
    uses_encoder = False
    typical: Tensor

    def __init__(self, encoder: FrozenEncoder, settings: ESADSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        if settings.labels == "synthetic":
            self.label = "ESAD (synthetic labels)"
        self.smoothing = describe_smoothing(settings.sigma)
        self.image_score_rule = f"{settings.image_score} of the map"
        self.first, self.second = coder(settings), coder(settings)
        self.decoder = nn.Sequential(nn.Conv2d(settings.code, settings.widths[-1], 1), *decoder_of(settings.widths))
        self.register_buffer("typical", torch.ones(2))
        for part in (self.first, self.decoder, self.second):
            initialise_narrowly(part)

    @classmethod
    def wants_textures(cls, settings: ESADSettings) -> bool:
        """Return True if defects are drawn with textures from a folder."""
        return settings.labels == "synthetic" and "folder" in settings.synthesis.textures

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            Three scalar loss terms: the mean square of the error, and the weighted terms of the code's length and of
            both codes' distance.
        """
        settings = self.settings
        clean = as_signed(batch.images, len(settings.widths), "esad")
        images, masks = clean, torch.zeros_like(clean[:, 0], dtype=torch.bool)
        wanted = clean
        if settings.labels == "synthetic":
            with full_precision(clean):
                drawn, masks = synthesise(batch.images, batch.categories, settings.synthesis, batch.textures)
            images = at_least_single(drawn) * 2 - 1
            noisy = (images + settings.noise * torch.randn_like(images)).clamp(-1, 1)
            wanted = torch.where(masks[:, None], noisy if settings.target == "noise" else clean, images)
        rebuilt, first, second = self._passed(images)
        lengths = lengths_of(second)
        defective = F.adaptive_max_pool2d(masks[:, None].to(clean), lengths.shape[-2:])[:, 0] > 0
        short, long = mean_where(lengths, ~defective), mean_where(1 / (lengths + settings.floor), defective)
        errors = (rebuilt - images).square().mean(dim=1)
        self._watch(mean_where(errors.detach(), ~masks), short.detach())
        return {
            "reconstruction": F.mse_loss(rebuilt, wanted),
            "length": settings.length * (short + long),
            "consistency": settings.consistency * F.mse_loss(second, first),
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W): the squared error of a pixel over its mean in training, plus `code_weight` times the same of the
            second code's length, smoothed.
        """
        signed = as_signed(images, len(self.settings.widths), "esad")
        rebuilt, _, second = self._passed(signed)
        error, length = self.typical + TINY
        size = (images.shape[-2], images.shape[-1])
        lengths = F.interpolate(lengths_of(second)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        maps = (rebuilt - signed).square().mean(dim=1) / error + self.settings.code_weight * lengths / length
        return gaussian_smooth(maps, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): their means or their maxima."""
        flat = maps.flatten(1)
        return flat.mean(dim=1) if self.settings.image_score == "mean" else flat.amax(dim=1)

    def _passed(self, signed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is rebuilt of images (B, 3, H, W) on [-1, 1], and both codes (B, C, h, w)."""
        first = self.first(signed)
        rebuilt = self.decoder(first)
        return at_least_single(rebuilt), at_least_single(first), at_least_single(self.second(rebuilt))

    @torch.no_grad()
    def _watch(self, error: Tensor, length: Tensor) -> None:
        """Follow the mean error of normal pixels and the mean length of codes at normal positions."""
        self.typical.lerp_(torch.stack([error, length]).to(self.typical), 1 - KEPT)


def coder(settings: ESADSettings) -> nn.Sequential:
    """Create an encoder (B, 3, H, W) -> (B, code, H / 2^L, W / 2^L)."""
    return nn.Sequential(*encoder_of(settings.widths), nn.Conv2d(settings.widths[-1], settings.code, 1))


def lengths_of(codes: Tensor) -> Tensor:
    """Compute the lengths (B, h, w) of codes (B, C, h, w). The gradient of a code of zeros is zero."""
    return (codes.square().sum(dim=1) + TINY).sqrt()


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Average values where `chosen`, of the same shape, is True: a scalar, 0 if it never is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
