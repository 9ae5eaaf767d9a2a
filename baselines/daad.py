"""DAAD: an autoencoder whose every connection passes a memory of blocks; the size of a block steers what can be rebuilt.

Paper:     Hou et al., Divide-and-Assemble: Learning Block-wise Memory for Unsupervised Anomaly Detection, ICCV 2021.
           Only its opening could be read. The module and the losses follow summaries by others.
Code read: none of DAAD; none by the authors was found.
Differs:   All sizes are ours: widths, blocks, number of items, weights of the losses. So is the score.
           Addressing has a temperature and a threshold. A plain softmax of cosines hardly selects: with 500 items its
           largest weight is at most 7.4 times its least, and what is read is nearly the mean of all items.
           The adversary learns in the same step as the network, with a rate of its own and the losses that do not
           saturate. Its weights have a spectral norm of 1. Losses are means where the summaries have norms, and that of
           features is relative to them. There is one model for all categories; the paper has one for each. The memory
           then holds them all.
Variants:  `settings.adversary: true`: the adversary, and its features in loss and map, as in the paper.
           `settings.skips: false` with the adversary and without its features is a MemAE with an adversary, as MemAAE (Zhang et
           al., arXiv 2110.08306) is for time series; its second half, prediction, has no counterpart for images.
Unsaid:    Whether items are shared by parts of the channels (here they are), how the two parts of the score are weighted,
           and how a map is smoothed. Nothing is scaled by test images.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.adversary import SpectralConv2d
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.memory_items import AddressedMemory, AddressingSettings, BlockMemory
from mddbench.nn.pixel_networks import SLOPE, Widths, as_signed, down, initialise_narrowly, last_up, up
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Count, Pixels, Positive, Strict

TINY = 1e-12
KEPT = 0.95
"""Share of the old value in the moving averages of errors."""
Weight = Annotated[float, Field(ge=0, le=1000)]


class BlockAddressingSettings(AddressingSettings):
    """How a memory of blocks is read: by cosines, which need a temperature."""

    items: Count = Field(default=200, description="The number N of items of a memory.")
    similarity: Literal["dot", "cosine"] = Field(
        default="cosine", description="What is compared: the dot product of block and item, or their cosine."
    )
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = Field(
        default=0.1, description="What similarities are divided by before the softmax. Low values select sharply."
    )


class DAADSettings(Strict):
    """The settings of DAAD."""

    widths: Widths = Field(
        default=(32, 64, 128, 256),
        description="The numbers of channels of the encoder's levels, each of half the size of the one before.",
    )
    block: Annotated[int, Field(ge=1, le=8192)] = Field(
        default=16,
        description="The side of a block in pixels of the image. At each level it is this number divided by the level's "
        "stride, but at least one position.",
    )
    groups: Count = Field(
        default=4, description="The number of parts of the channels of each level, which are blocks of their own."
    )
    skips: bool = Field(
        default=True, description="False: only the deepest level reaches the decoder, through its memory."
    )
    addressing: BlockAddressingSettings = Field(
        default=BlockAddressingSettings(),
        description="The settings of the memories, one for each level, and of their reading.",
    )
    adversary: bool = Field(default=False, description="Whether an adversary tells images from rebuilt ones.")
    adversary_widths: Widths = Field(
        default=(32, 64, 128, 256), description="The numbers of channels of the adversary's levels."
    )
    adversary_rate: Positive = Field(
        default=2.0, description="The adversary's learning rate, relative to that of the network."
    )
    adversarial: Weight = Field(default=0.02, description="The weight of the loss of not being told apart.")
    alignment: Weight = Field(
        default=0.1,
        description="The weight of the loss of the adversary's features: the mean square of their distance, relative to "
        "that of the features themselves.",
    )
    feature_weight: Weight = Field(
        default=1.0,
        description="The weight in the map of the distance of the adversary's features; that of pixels is 1.",
    )
    sigma: Pixels = Field(default=2.0, description="The standard deviation of the smoothing, in pixels.")
    image_score: Literal["mean", "max"] = Field(
        default="max", description="An image's score: the mean of its map, or the maximum."
    )


class DAAD(Detector[DAADSettings]):
    """An autoencoder of pixels with a memory of blocks on every connection. The map is the error, relative to training.

    Attributes:
        down: The levels of the encoder, shallow to deep.
        memories: The memory of each connection, shallow to deep; without skips the deepest one only.
        up: The levels of the decoder, deep to shallow.
        adversary: The adversary; None without one.
        errors: (2,) moving averages of the errors of pixels and of the adversary's features in training.
    """

    label = "DAAD"
    version = 1
    uses_encoder = False
    errors: Tensor

    def __init__(self, encoder: FrozenEncoder, settings: DAADSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        if settings.adversary:
            self.label = "DAAD with adversary" if settings.skips else "MemAE with adversary"
        self.smoothing = describe_smoothing(settings.sigma)
        self.image_score_rule = f"{settings.image_score} of the map"
        widths = settings.widths
        if odd := [width for width in widths if width % settings.groups]:
            raise InputError(f"daad: groups {settings.groups} do not divide {odd[0]} channels of widths {list(widths)}")
        self.down = nn.ModuleList(down(before, after) for before, after in zip((3, *widths), widths, strict=False))
        self.memories = nn.ModuleList(
            BlockMemory(width, max(1, settings.block // 2 ** (depth + 1)), settings.groups, settings.addressing)
            for depth, width in enumerate(widths)
            if settings.skips or depth == len(widths) - 1
        )
        factor = 2 if settings.skips else 1  # what comes from below and what comes from the side
        ups = [up(width * (factor if depth else 1), widths[-2 - depth]) for depth, width in enumerate(widths[:0:-1])]
        self.up = nn.ModuleList([*ups, last_up(widths[0] * (factor if ups else 1), 3)])
        initialise_narrowly(self.down)
        initialise_narrowly(self.up)
        self.adversary = Adversary(settings.adversary_widths) if settings.adversary else None
        self.register_buffer("errors", torch.ones(2))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the groups of the network and, if there is one, of the adversary, each with its learning rate."""
        adversary = set() if self.adversary is None else set(self.adversary.parameters())
        own = [value for value in self.parameters() if value.requires_grad and value not in adversary]
        groups: list[dict[str, Any]] = [{"params": own, "lr": lr}]
        if self.adversary is not None:
            groups.append({"params": list(self.adversary.parameters()), "lr": lr * self.settings.adversary_rate})
        return groups

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            Scalar loss terms: the mean square of the error on [-1, 1]; with an adversary also its own loss, and the two
            weighted terms by which it moves the network.
        """
        images = as_signed(batch.images, len(self.settings.widths), "daad")
        rebuilt = self.rebuilt(images)
        terms = {"reconstruction": F.mse_loss(rebuilt, images)}
        errors = [lengths(rebuilt - images).mean()]
        if self.adversary is not None:
            answers, _ = self.adversary(torch.cat([images, rebuilt.detach()]))
            real, made = answers.chunk(2)
            terms["adversary"] = F.softplus(-real).mean() + F.softplus(made).mean()
            with torch.no_grad():
                _, wanted = self.adversary(images, frozen=True)
            answers, features = self.adversary(rebuilt, frozen=True)
            terms["adversarial"] = self.settings.adversarial * F.softplus(-answers).mean()
            relative = F.mse_loss(features, wanted) / (wanted.square().mean() + TINY)
            terms["alignment"] = self.settings.alignment * relative
            errors.append(lengths(features - wanted).mean())
        with torch.no_grad():
            self.errors[: len(errors)].lerp_(torch.stack(errors).to(self.errors), 1 - KEPT)
        return terms

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W): the length of a pixel's error over its mean in training, plus `feature_weight` times the same of the
            adversary's features, smoothed.
        """
        signed = as_signed(images, len(self.settings.widths), "daad")
        rebuilt = self.rebuilt(signed)
        maps = lengths(rebuilt - signed) / (self.errors[0] + TINY)
        if self.adversary is not None and self.settings.feature_weight:
            (_, wanted), (_, features) = self.adversary(signed), self.adversary(rebuilt)
            grids = lengths(features - wanted)[:, None] / (self.errors[1] + TINY)
            size = (images.shape[-2], images.shape[-1])
            wide = F.interpolate(grids, size, mode="bilinear", align_corners=False)[:, 0]
            maps = maps + self.settings.feature_weight * wide
        return gaussian_smooth(maps, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): their means or their maxima."""
        flat = maps.flatten(1)
        return flat.mean(dim=1) if self.settings.image_score == "mean" else flat.amax(dim=1)

    def diagnostics(self) -> dict[str, float]:
        """Return the shares of living items and of answered blocks, each the least of all memories."""
        found = [each.diagnostics() for each in self.modules() if isinstance(each, AddressedMemory)]
        return {name: min(each[name] for each in found) for name in found[0]}

    def rebuilt(self, signed: Tensor) -> Tensor:
        """Rebuild images.

        Args:
            signed: (B, 3, H, W) on [-1, 1].

        Returns:
            (B, 3, H, W), without bounds.
        """
        levels = [signed]
        for block in self.down:
            levels.append(block(levels[-1]))
        chosen = levels[1:] if self.settings.skips else levels[-1:]
        read = [memory(level)[0] for memory, level in zip(self.memories, chosen, strict=True)]
        features = read.pop()
        for number, block in enumerate(self.up):
            features = block(torch.cat([features, read.pop()], dim=1) if number and self.settings.skips else features)
        return at_least_single(features)


class Adversary(nn.Module):
    """A network that tells images from rebuilt ones, and whose last map is used as a feature.

    Attributes:
        levels: Convolutions of 4x4 with stride 2.
        last: The linear layer behind the mean over all positions.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            SpectralConv2d(before, after, 4, stride=2) for before, after in zip((3, *widths), widths, strict=False)
        )
        self.last = SpectralConv2d(widths[-1], 1, 1, bias=False)

    def forward(self, images: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Judge images.

        Args:
            images: (B, 3, H, W) on [-1, 1].
            frozen: True if the result should have no gradient with respect to the weights.

        Returns:
            (B,) logits, high for images, and (B, C, h, w) features.
        """
        features = images
        for level in self.levels:
            features = F.leaky_relu(level(features, frozen), SLOPE)
        features = at_least_single(features)
        answers = self.last(features.mean(dim=(2, 3), keepdim=True), frozen)
        return at_least_single(answers).flatten(), features


def lengths(differences: Tensor) -> Tensor:
    """Compute lengths (B, H, W) over the channels of (B, C, H, W)."""
    return (differences.square().sum(dim=1) + TINY).sqrt()
