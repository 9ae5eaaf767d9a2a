"""GateNet head (synthetic defects): a gated segmentation head on frozen features, trained on drawn defects.

Paper:     Zhao et al., Suppress and Balance: A Simple Gated Network for Salient Object Detection, ECCV 2020
           (arXiv 2007.08074). It finds salient objects. It is no method of anomaly detection, and this use of its head is
           ours.
Code read: the authors' Xiaoqi-Zhao-DLUT/GateNet-RGB-Saliency at 35b3f3f (MIT). None of it is used.
Differs:   The encoder is frozen; the authors train it. There are as many levels as the encoder gives, and all have one width;
           the authors have five levels of 64 to 512 channels. What is learnt are drawn defects, as DRAEM and DeSTSeg
           draw them. These two are the methods of the same kind, so that rows differ in their networks only. Images are
           not turned or recoloured.
           The mean of the whole image passes no norm, since one image alone cannot be normalised over its batch.
           Maps may have any even height and width. Convolutions before a norm have no bias.
Variants:  `settings.loss: focal` in place of the authors' cross-entropy.
Unsaid:    All that concerns anomaly detection: sizes, defects, image score. No numbers of such a use were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.blending import BlendSettings, blend
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.scores import describe_highest, mean_of_highest
from mddbench.settings import Count, Strict
from mddbench.sizes import image_size_of, written_size

FOLD = 2
"""Side of the squares of positions that are folded into channels."""


class GateNetHeadSettings(Strict):
    """The settings of the GateNet head."""

    width: Count = Field(default=64, description="The number of channels of each level of the decoder.")
    folded_width: Count = Field(
        default=64,
        description="The number of channels of the pyramid on the deepest level, before four positions are folded into one.",
    )
    dilations: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)] = Field(
        default=(2, 4, 6), description="The dilations of the pyramid's parallel convolutions, in folded positions."
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        default="cross_entropy",
        description="The loss of both outputs: the cross-entropy, or the focal loss, in which easy pixels count less.",
    )
    focal_power: Annotated[float, Field(ge=1, le=16)] = Field(
        default=2.0, description="The power of the focal loss. Below 1 its gradient would have no limit."
    )
    synthesis: BlendSettings = Field(default=BlendSettings(), description="The settings of the drawn defects.")
    highest: Annotated[float, Field(gt=0, le=1)] = Field(
        default=100 / 256**2,
        description="The share of a map's pixels, the highest ones, whose mean is the image's score. "
        "The default is 100 pixels of 256 x 256. It is at least one pixel.",
    )


class GateNetHead(Detector[GateNetHeadSettings]):
    """A gated head that segments drawn defects. The map is the probability of a defect, not smoothed.

    Attributes:
        head: The only part that learns.
    """

    label = "GateNet head (synthetic defects)"
    version = 1

    def __init__(self, encoder: FrozenEncoder, settings: GateNetHeadSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.image_score_rule = describe_highest(settings.highest)
        self.head = GatedHead(encoder.channels, settings)

    @classmethod
    def wants_textures(cls, settings: GateNetHeadSettings) -> bool:
        """Return True if defects use textures from a folder."""
        return "folder" in settings.synthesis.textures

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch with drawn defects.

        Args:
            batch: The normal training images.

        Returns:
            Two scalar loss terms, means over all pixels: that of the decoder's output, and that of its sum with the
            parallel output.
        """
        with full_precision(batch.images):
            abnormal, masks = blend(batch.images, self.settings.synthesis, batch.textures)
        decoded, summed = self._logits(abnormal)
        power = self.settings.focal_power if self.settings.loss == "focal" else 0.0
        return {
            "decoded": segmentation_loss(decoded, masks[:, None], power),
            "summed": segmentation_loss(summed, masks[:, None], power),
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W) in [0, 1], not smoothed.
        """
        return self._logits(images)[1].sigmoid()[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): the mean of the highest `highest` share of pixels."""
        return mean_of_highest(maps, self.settings.highest)

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs (B, 1, H, W) for images (B, 3, H, W), in at least single precision."""
        levels: list[Tensor] = self.encoder(images)
        height, width = levels[-1].shape[-2:]
        if height % FOLD or width % FOLD:
            given = written_size(image_size_of(*images.shape[-2:]))
            raise InputError(
                f"gatenet_head: image_size {given} does not fit; its deepest level has {height}x{width} positions, which "
                f"cannot be folded in pairs; use a multiple of {FOLD * self.encoder.strides[-1]}"
            )
        if self.training and len(images) * height * width == FOLD**2:
            raise InputError(
                "gatenet_head: a training batch of one image, whose deepest level folds into one position; one value cannot "
                "be normalised: give a larger batch_size or image_size"
            )
        size = (images.shape[-2], images.shape[-1])
        decoded, beside = (resized(at_least_single(logits), size) for logits in self.head(levels))
        return decoded, decoded + beside


class GatedHead(nn.Module):
    """A decoder whose levels are weighted by gates, and a parallel branch that sees all levels at once.

    A gate is one number for each image, level and branch. The deepest level first passes a folded pyramid.

    Source: the paper, section 3.

    Attributes:
        transitions: Bring each level to the decoder's width, shallow to deep.
        gates: Compute the two gates of each level, shallow to deep.
        decoder: A convolution for each level, shallow to deep. The first one gives the decoder's output.
        parallel: The parallel branch.
    """

    def __init__(self, channels: tuple[int, ...], settings: GateNetHeadSettings) -> None:
        super().__init__()
        width = settings.width
        pyramid = FoldedPyramid(channels[-1], settings.folded_width, width, settings.dilations)
        deepest = nn.Sequential(pyramid, nn.BatchNorm2d(width), nn.PReLU())
        self.transitions = nn.ModuleList([*(activated(each, width, 3) for each in channels[:-1]), deepest])
        self.gates = nn.ModuleList(
            nn.Sequential(activated(each + width, width, 3), nn.Conv2d(width, 2, 3, padding=1)) for each in channels
        )
        self.decoder = nn.ModuleList([
            nn.Conv2d(width, 1, 3, padding=1),
            *(activated(width, width, 3) for _ in channels[1:]),
        ])
        self.parallel = nn.Sequential(
            activated(len(channels) * width + 1, width, 3),
            activated(width, width, 3),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Segment.

        Args:
            levels: (B, C_l, H_l, W_l) for each level, shallow to deep.

        Returns:
            The outputs of decoder and parallel branch, logits (B, 1, H_1, W_1). The prediction is their sum.
        """
        passed = [transition(level) for transition, level in zip(self.transitions, levels, strict=True)]
        size, weighted = (levels[0].shape[-2], levels[0].shape[-1]), []
        decoded: Tensor = passed[-1]
        for number in reversed(range(len(levels))):
            above = resized(decoded, (levels[number].shape[-2], levels[number].shape[-1]))
            gates = (
                self.gates[number](torch.cat([levels[number], above], dim=1)).sigmoid().mean(dim=(2, 3), keepdim=True)
            )
            of_decoder, of_parallel = gates.chunk(2, dim=1)
            gated = of_decoder * passed[number]
            deepest = number == len(levels) - 1  # whose `above` is the level itself
            decoded = self.decoder[number](gated if deepest else above + gated)
            weighted.append(resized(of_parallel * passed[number], size))
        beside: Tensor = self.parallel(torch.cat([decoded, *weighted], dim=1))
        return decoded, beside


class FoldedPyramid(nn.Module):
    """Parallel dilated convolutions on a map whose 2x2 neighbours are folded into channels, and unfolded again.

    So each weight of a dilated convolution sees a square and not a single position.

    Source: the paper, section 3.3.

    Attributes:
        narrow: Brings the map to its width.
        point: The convolution of single folded positions.
        parts: The dilated convolutions.
        whole: The projection of the mean of the whole image.
        fuse: The convolution that joins all.
        last: The convolution behind the unfolding.
    """

    def __init__(self, channels: int, width: int, out: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        folded = FOLD**2 * width
        inner = folded // 2
        self.narrow = activated(channels, width, 3)
        self.point = activated(folded, inner, 1)
        self.parts = nn.ModuleList(activated(folded, inner, 3, dilation) for dilation in dilations)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(folded, inner, 1), nn.PReLU())
        self.fuse = activated((2 + len(dilations)) * inner, folded, 1)
        self.last = nn.Conv2d(width, out, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W). H and W are even."""
        folded = F.pixel_unshuffle(self.narrow(features), FOLD)
        point = self.point(folded)
        branches = [point, *(part(folded) for part in self.parts), self.whole(folded).expand_as(point)]
        fused: Tensor = self.last(F.pixel_shuffle(self.fuse(torch.cat(branches, dim=1)), FOLD))
        return fused


def segmentation_loss(logits: Tensor, masks: Tensor, power: float) -> Tensor:
    """Compute the cross-entropy of a segmentation, weighted by how wrong each pixel is.

    Args:
        logits: (B, 1, H, W).
        masks: (B, 1, H, W) bool, True on defects.
        power: The exponent of the weights. 0: all pixels have the weight 1.

    Returns:
        A scalar, the mean over all pixels.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks.to(logits), reduction="none")
    if power:
        probabilities = logits.sigmoid()
        entropy = entropy * torch.where(masks, 1 - probabilities, probabilities) ** power
    return entropy.mean()


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly; corners are not aligned."""
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


def activated(channels: int, out: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Return a convolution without bias that keeps the size, a norm and a PReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.PReLU())
