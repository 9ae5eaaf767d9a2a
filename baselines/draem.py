"""DRAEM: one network removes drawn defects from an image, a second one segments them from the image and its restoration.

Paper:     Zavrtanik et al., DRAEM - A Discriminatively Trained Reconstruction Embedding for Surface Anomaly Detection,
           ICCV 2021.
Code read: the authors' VitjanZ/DRAEM at 2dbf673 (MIT).
Differs:   There is one model for all categories; the authors train one per category.
           The range of the SSIM is 1. The authors' code widens it to 2 while a restoration falls below -0.5.
           The ten changes of textures are written anew, in RGB (`nn.texture_changes`). An epoch takes each image once,
           where the authors draw images with replacement.
Variants:  The authors' is the default, but for its textures, which come from a folder of pictures (DTD):
           `settings.synthesis.textures: [folder]`.
           The ADer benchmark's DRAEM is none: its training never draws a defect, so no variant follows it.
Unsaid:    That half of the images get no defect, that three in ten are rotated as a whole, and that the focal loss smooths
           its labels was read in the code. Images are not normalised. There is no encoder.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.blending import BlendSettings, blend, turned
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.ssim import structural_similarity
from mddbench.nn.texture_changes import CHANGES
from mddbench.settings import Count, Fraction, Strict
from mddbench.sizes import image_size_of, written_size

STRIDE = 32
"""Side of an image in pixels that the segmentation network reduces to one position."""
DEVIATION = 0.02
"""Standard deviation of the initial weights of convolutions and norms, as in the authors' code."""


class DRAEMSynthesis(BlendSettings):
    """Settings of DRAEM's drawn defects."""

    changes: Annotated[int, Field(ge=0, le=len(CHANGES))] = Field(
        default=3,
        description="Number of changes that each texture undergoes, drawn from ten changes of colour, sharpness and "
        "angle. 0 leaves textures as they are.",
    )
    probability: Fraction = Field(default=0.5, description="Probability that an image gets a defect.")
    turn_probability: Fraction = Field(
        default=0.3, description="Probability that a training image is rotated as a whole, before a defect is drawn."
    )
    turn_angle: Annotated[float, Field(ge=0, le=180)] = Field(
        default=90.0, description="Greatest angle of that rotation in degrees, in both directions."
    )


class DRAEMSettings(Strict):
    """The settings of DRAEM."""

    reconstruction_width: Count = Field(
        default=128, description="The number of channels of the first level of the network that removes defects."
    )
    segmentation_width: Count = Field(
        default=64, description="The number of channels of the first level of the network that segments them."
    )
    synthesis: DRAEMSynthesis = Field(default=DRAEMSynthesis(), description="The settings of the drawn defects.")
    window: Annotated[int, Field(ge=1, le=63)] = Field(
        default=11, description="The side of the window of the SSIM loss in pixels, an odd number."
    )
    focal_power: Annotated[float, Field(ge=0, le=16)] = Field(
        default=2.0, description="The power of the focal loss. 0: the cross-entropy."
    )
    label_smoothing: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=1e-5, description="The share of its label that the focal loss gives to the other class."
    )
    pool: Annotated[int, Field(ge=1, le=1023)] = Field(
        default=21,
        description="The side of the window, in pixels, over which a map is averaged before its maximum is taken: "
        "21 at 256 pixels. An odd number.",
    )


class DRAEM(Detector[DRAEMSettings]):
    """Restoration of drawn defects, and their segmentation. The map is the probability of a defect; it is not smoothed."""

    label = "DRAEM"
    version = 1
    uses_encoder = False

    def __init__(self, encoder: FrozenEncoder, settings: DRAEMSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        for name, side in (("window", settings.window), ("pool", settings.pool)):
            if side % 2 == 0:
                raise InputError(f"draem: {name} {side} has no middle; use an odd number of pixels")
        self.image_score_rule = f"max of the map averaged over {settings.pool}x{settings.pool}, zero outside"
        self.reconstruction = AutoEncoder(settings.reconstruction_width)
        self.segmentation = SkipNetwork(settings.segmentation_width)
        initialise(self.reconstruction)
        initialise(self.segmentation)

    @classmethod
    def wants_textures(cls, settings: DRAEMSettings) -> bool:
        """Return True if defects use textures from a folder."""
        return "folder" in settings.synthesis.textures

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of restoration and segmentation on a batch with drawn defects.

        Args:
            batch: The normal training images.

        Returns:
            Three scalar loss terms: the mean square and 1 - SSIM of the restoration, and the focal loss.
        """
        settings = self.settings
        with full_precision(batch.images):
            clean = turned(batch.images, settings.synthesis.turn_probability, settings.synthesis.turn_angle)
            abnormal, masks = blend(clean, settings.synthesis, batch.textures)
        restored, logits = self._both(abnormal)
        probabilities = at_least_single(logits).softmax(dim=1)
        return {
            "square": F.mse_loss(at_least_single(restored), clean),
            "similarity": 1 - structural_similarity(restored, clean, settings.window),
            "focal": focal_loss(probabilities, masks, settings.focal_power, settings.label_smoothing),
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W) in [0, 1], not smoothed.
        """
        return at_least_single(self._both(images)[1]).softmax(dim=1)[:, 1]

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores: the maximum of each map after averaging over `pool` x `pool` pixels.

        Args:
            maps: (B, H, W). Positions outside of a map count as zeros.

        Returns:
            (B,).
        """
        pool = self.settings.pool
        return F.avg_pool2d(maps[:, None], pool, 1, pool // 2).flatten(1).amax(dim=1)

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Restorations (B, 3, H, W) of images (B, 3, H, W), and logits (B, 2, H, W) of no defect and of a defect."""
        height, width = images.shape[-2:]
        if height % STRIDE or width % STRIDE:
            size = written_size(image_size_of(height, width))
            raise InputError(f"draem: image_size {size} does not fit; use a multiple of {STRIDE}")
        restored = self.reconstruction(images)
        return restored, self.segmentation(torch.cat([restored, images], dim=1))


def focal_loss(probabilities: Tensor, masks: Tensor, power: float, smoothing: float) -> Tensor:
    """Compute the focal loss with smoothed labels.

    Source: the authors' code. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, has no smoothing.

    Args:
        probabilities: (B, 2, H, W), of no defect and of a defect.
        masks: (B, H, W) bool, True on defects.
        power: The exponent of the weight of a pixel.
        smoothing: The share of a label that the other class gets; it is also added to the result, as a least value.

    Returns:
        A scalar, the mean over all pixels.
    """
    normal, defect = probabilities.unbind(dim=1)
    right, wrong = torch.where(masks, defect, normal), torch.where(masks, normal, defect)
    right = (1 - smoothing) * right + smoothing * wrong + smoothing
    return -((1 - right).clamp_min(0) ** power * right.log()).mean()


def convolutions(*channels: int) -> nn.Sequential:
    """Create 3x3 convolutions between numbers of channels, each followed by a norm and a ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def doubled(features: Tensor) -> Tensor:
    """Double the size of features (B, C, H, W), bilinearly with aligned corners."""
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)


class AutoEncoder(nn.Module):
    """Five levels down and four up, without connections between them.

    Attributes:
        down: Two convolutions at each level, shallow to deep.
        up: Three convolutions after each doubling, deep to shallow.
        out: The last convolution, to three channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 8, 8)]
        self.down = nn.ModuleList(
            convolutions(before, after, after) for before, after in zip([3, *widths], widths, strict=False)
        )
        ups = [width * factor for factor in (8, 4, 2, 1, 1)]
        self.up = nn.ModuleList(convolutions(before, before, before, after) for before, after in pairwise(ups))
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Restore images (B, 3, H, W) with defects; the result has the same shape and is not bounded."""
        features = self.down[0](images)
        for block in self.down[1:]:
            features = block(F.max_pool2d(features, 2))
        for block in self.up:
            features = block(doubled(features))
        restored: Tensor = self.out(features)
        return restored


class SkipNetwork(nn.Module):
    """Six levels down and five up. Each level on the way up sees the one of the same size on the way down.

    Attributes:
        down: Two convolutions at each level, shallow to deep.
        widen: The convolution after each doubling, deep to shallow.
        up: Two convolutions on the doubled features and those of the way down, deep to shallow.
        out: The last convolution, to two classes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 8, 8, 8)]
        self.down = nn.ModuleList(
            convolutions(before, after, after) for before, after in zip([6, *widths], widths, strict=False)
        )
        ups = [width * factor for factor in (8, 8, 4, 2, 1, 1)]
        self.widen = nn.ModuleList(convolutions(before, after) for before, after in pairwise(ups))
        self.up = nn.ModuleList(
            convolutions(after + skipped, after, after)
            for after, skipped in zip(ups[1:], reversed(widths[:-1]), strict=True)
        )
        self.out = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Segment defects.

        Args:
            images: (B, 6, H, W), restorations and images.

        Returns:
            (B, 2, H, W) logits.
        """
        levels = [self.down[0](images)]
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for widen, block in zip(self.widen, self.up, strict=True):
            features = block(torch.cat([widen(doubled(features)), levels.pop()], dim=1))
        logits: Tensor = self.out(features)
        return logits


def initialise(module: nn.Module) -> None:
    """Draw the weights of convolutions around 0 and those of norms around 1, in place; biases of convolutions stay."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, DEVIATION)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, DEVIATION)
            nn.init.zeros_(layer.bias)
