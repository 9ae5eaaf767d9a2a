"""DeSTSeg: a student rebuilds a teacher's clean features from an image with a defect, and a head segments where it fails.

Paper:     Zhang et al., DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection, CVPR 2023.
Code read: the authors' apple/ml-destseg at f6ea31f (Apple's sample code licence; none of it is used), and the port in
           zhangzjn/ADer at 902937a (no licence; none of it is used).
Differs:   There is one model for all categories; the authors train one per category.
           Training images are not rotated. The authors rotate those of some categories, which they name.
           Any encoder with three levels works: the student is a ResNet-18 whose widths are those of the levels.
           The image score averages a share of the map's pixels: at 256 pixels the authors' 100.
Variants:  The authors' is the default, but for its textures, which come from a folder of pictures (DTD):
           `settings.synthesis.textures: [folder]`. ADer has the same networks and rates (base rate 0.4), gradient_clip 5.0,
           and as image score the maximum: `settings.top: 0.00001` is one pixel.
Unsaid:    The student's loss is summed over the batch, so its rate goes with the batch size. The last norm of each block of
           the student's encoder starts at 0, as in timm's ResNet. The student's features end in a ReLU like those of a
           ResNet, which other teachers' features do not: `settings.rectified: false`.
"""

from __future__ import annotations

from typing import Annotated, Any

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
from mddbench.nn.reverse_distillation import kaiming_initialise, require_halving_levels
from mddbench.settings import BelowOne, Count, Positive, Strict
from mddbench.sizes import image_size_of, written_size


class DeSTSegSettings(Strict):
    """The settings of DeSTSeg."""

    synthesis: BlendSettings = Field(default=BlendSettings(), description="The settings of the drawn defects.")
    denoising_share: BelowOne = Field(
        default=0.2,
        description="The share of the training in which the student learns. Then it is frozen, and the head learns.",
    )
    residual_rate: Positive = Field(
        default=0.25,
        description="The rate of the head's residual blocks, as a multiple of the base rate (the student's).",
    )
    context_rate: Positive = Field(
        default=0.025, description="The rate of the rest of the head, as a multiple of the base rate (the student's)."
    )
    rectified: bool = Field(
        default=True,
        description="True if the student's features end in a ReLU, as those of a ResNet. false: they have both signs.",
    )
    head_width: Count = Field(default=256, description="The number of channels of the segmentation head.")
    dilations: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)] = Field(
        default=(6, 12, 18), description="The dilations of the head's parallel convolutions, in positions of its grid."
    )
    focal_power: Annotated[float, Field(ge=1, le=16)] = Field(
        default=4.0, description="The power of the focal loss. Below 1 its gradient would have no limit."
    )
    top: Annotated[float, Field(gt=0, le=1)] = Field(
        default=100 / 256**2,
        description="The share of the map's pixels, the highest ones, whose mean is the image score. "
        "The default is 100 pixels of 256 x 256. It is at least one pixel.",
    )


class DeSTSeg(Detector[DeSTSegSettings]):
    """A denoising student, then a segmentation head on the products of the teacher's and the student's features.

    The map is the probability of a defect. It is resized to the image and not smoothed.
    """

    label = "DeSTSeg"
    version = 1

    def __init__(self, encoder: FrozenEncoder, settings: DeSTSegSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_halving_levels(encoder, "destseg")
        self.image_score_rule = f"mean of the highest {100 * settings.top:g} % of the map"
        self.student = Student(encoder.channels, encoder.strides[0], settings.rectified)
        self.head = Head(sum(encoder.channels), settings.head_width, settings.dilations)

    @classmethod
    def wants_textures(cls, settings: DeSTSegSettings) -> bool:
        """Return True if defects use textures from a folder."""
        return "folder" in settings.synthesis.textures

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return three groups: the student at the base rate, and the two parts of the head at their multiples of it."""
        rates = {self.student: 1.0, self.head.blocks: self.settings.residual_rate}
        rates[self.head.context] = self.settings.context_rate
        return [{"params": list(part.parameters()), "lr": lr * rate} for part, rate in rates.items()]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of the student, and later those of the head, on a batch with drawn defects.

        The part that does not learn gets no gradient. In the student's time the head is not computed at all.

        Args:
            batch: The normal training images.

        Returns:
            Three scalar loss terms: the student's, and the L1 and focal losses of the head. Those of the other part are 0.

        Raises:
            InputError: If the image size does not fit, or if the head gets a batch of one image.
        """
        denoising = batch.progress < self.settings.denoising_share
        self.student.train(denoising)
        with full_precision(batch.images):
            abnormal, masks = blend(batch.images, self.settings.synthesis, batch.textures)
        nothing = at_least_single(batch.images.new_zeros(()))
        if denoising:
            levels = self._both(batch.images, abnormal)
            return {"denoising": denoising_loss(*levels), "distance": nothing, "focal": nothing}
        if len(abnormal) < 2:
            raise InputError(
                "destseg: a training batch of one image; its head averages over whole images, which cannot be normalised "
                "from one: give more images or another batch_size, or set drop_last=true"
            )
        with torch.no_grad():
            products = joined(*self._both(abnormal, abnormal))
        logits = at_least_single(self.head(products))
        distance, focal = segmentation_losses(logits, shrunk(masks, logits), self.settings.focal_power)
        return {"denoising": nothing, "distance": distance, "focal": focal}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W) in [0, 1], not smoothed.
        """
        products = joined(*self._both(images, images))
        probabilities = at_least_single(self.head(products)).sigmoid()
        return resized(probabilities, (images.shape[-2], images.shape[-1]))[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): the mean of the highest `top` share of pixels."""
        flat = maps.flatten(1)
        return flat.topk(max(1, round(self.settings.top * flat.shape[1])), dim=1).values.mean(dim=1)

    def _both(self, of_teacher: Tensor, of_student: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The features of teacher and student, each of images (B, 3, H, W); the student's images are normalised, too."""
        teacher: list[Tensor] = self.encoder(of_teacher)
        student: list[Tensor] = self.student((of_student - self.encoder.mean) / self.encoder.std)
        if any(t.shape != s.shape for t, s in zip(teacher, student, strict=True)):
            raise InputError(
                f"destseg: image_size {written_size(image_size_of(*of_student.shape[-2:]))} does not fit; teacher and student "
                f"have maps of {[(*t.shape[-2:],) for t in teacher]} and {[(*s.shape[-2:],) for s in student]} positions; "
                "use a multiple of 32"
            )
        return teacher, student


def denoising_loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum 1 - cos over levels and images, where each level of an image counts as the mean over its positions.

    Source: the authors' code. Their rate depends on the sum over the batch.

    Args:
        teacher: (B, C_l, H_l, W_l) for each level, of clean images.
        student: (B, C_l, H_l, W_l) for each level, of the same images with defects.

    Returns:
        A scalar in [0, 2 B L], for L levels.
    """
    distances = [
        (1 - (normalised(one) * normalised(other)).sum(dim=1)).mean(dim=(1, 2)).sum()
        for one, other in zip(teacher, student, strict=True)
    ]
    return torch.stack(distances).sum()


def segmentation_losses(logits: Tensor, masks: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Compute the L1 and the focal loss of a segmentation.

    Args:
        logits: (B, 1, h, w).
        masks: (B, 1, h, w) bool, True on defects.
        power: The exponent of the focal loss.

    Returns:
        Two scalars, means over all positions.
    """
    probabilities = logits.sigmoid()
    wrong = torch.where(masks, 1 - probabilities, probabilities)
    entropy = F.binary_cross_entropy_with_logits(logits, masks.to(logits), reduction="none")
    return wrong.mean(), (entropy * wrong**power).mean()


def shrunk(masks: Tensor, like: Tensor) -> Tensor:
    """Resize masks (B, H, W) bilinearly to the size of (B, 1, h, w), and return (B, 1, h, w) bool: at least one half."""
    return resized(masks[:, None].to(like), (like.shape[-2], like.shape[-1])) >= 0.5


def joined(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Multiply normalised features of teacher and student, and join the levels at the size of the first.

    Args:
        teacher: (B, C_l, H_l, W_l) for each level.
        student: (B, C_l, H_l, W_l) for each level.

    Returns:
        (B, sum C_l, H_1, W_1). Its sum over the channels of a level is -cos.
    """
    size = (teacher[0].shape[-2], teacher[0].shape[-1])
    levels = zip(teacher, student, strict=True)
    return torch.cat([resized(-normalised(one) * normalised(other), size) for one, other in levels], dim=1)


def normalised(features: Tensor) -> Tensor:
    """Scale each position of features (B, C, H, W) to length 1, in at least single precision."""
    return F.normalize(at_least_single(features), dim=1)


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly; corners are not aligned."""
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


class Student(nn.Module):
    """An encoder like ResNet-18 without pre-trained weights, and a decoder of two blocks for each of four levels.

    Attributes:
        stem: Brings images to the stride of the first level.
        encoder: Two blocks for each level of the teacher and for one more level, shallow to deep.
        decoder: Two blocks for the same levels, deep to shallow.
        rectified: Whether the features of the decoder end in a ReLU.
    """

    def __init__(self, channels: tuple[int, ...], stride: int, rectified: bool) -> None:
        """Create the student.

        Args:
            channels: Number of channels of the teacher's levels. The encoder's last level has twice the last of them.
            stride: Stride of the first level in pixels, a power of 2.
            rectified: Whether the features end in a ReLU.

        Raises:
            InputError: If the stride is no power of 2, or 1.
        """
        super().__init__()
        halvings = stride.bit_length() - 1
        if stride != 2**halvings or not halvings:
            raise InputError(f"destseg: the first level has stride {stride}; expected 2, 4 or another power of 2")
        first = channels[0]
        widths = (*channels, 2 * channels[-1])
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            *(nn.MaxPool2d(3, stride=2, padding=1) for _ in range(halvings - 1)),
        )
        self.encoder = nn.ModuleList(
            _two_blocks(before, width, 1 if level == 0 else 2)
            for level, (before, width) in enumerate(zip((first, *widths), widths, strict=False))
        )
        deep_first = widths[::-1]
        self.decoder = nn.ModuleList(
            _two_blocks(before, width, 1, rectified)
            for before, width in zip((deep_first[0], *deep_first), deep_first, strict=False)
        )
        kaiming_initialise(self)
        for name, value in self.encoder.named_parameters():
            if name.endswith("body.4.weight"):  # a block's last norm
                nn.init.zeros_(value)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of normalised images (B, 3, H, W): one tensor for each level of the teacher, shallow to deep."""
        features = self.stem(images)
        sizes = []
        for stage in self.encoder:
            features = stage(features)
            sizes.append((features.shape[-2], features.shape[-1]))
        levels = [self.decoder[0](features)]
        for stage, size in zip(self.decoder[1:], sizes[-2::-1], strict=True):
            levels.append(stage(resized(levels[-1], size)))
        return levels[:0:-1]


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is projected where the stride or the number of channels changes."""

    def __init__(self, channels: int, out: int, stride: int = 1, rectified: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            projection = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out))
        self.rectified = rectified

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H / stride, W / stride)."""
        summed: Tensor = self.body(features) + self.shortcut(features)
        return F.relu(summed) if self.rectified else summed


class Head(nn.Module):
    """Segments defects from the joined products.

    Attributes:
        blocks: Two residual blocks.
        context: Parallel dilated convolutions, then a 3x3 and a 1x1 convolution.
    """

    def __init__(self, channels: int, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = _two_blocks(channels, width, 1)
        kaiming_initialise(self.blocks)
        self.context = nn.Sequential(
            DilatedPyramid(width, dilations), *_activated(width, width, 3), nn.Conv2d(width, 1, 1)
        )

    def forward(self, products: Tensor) -> Tensor:
        """Map products (B, channels, h, w) to logits (B, 1, h, w) of a defect."""
        logits: Tensor = self.context(self.blocks(products))
        return logits


class DilatedPyramid(nn.Module):
    """Joins the mean of the whole image and 3x3 convolutions of several dilations.

    Source: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv 1706.05587.

    Attributes:
        whole: The projection of the mean.
        parts: The dilated convolutions.
        fuse: The convolution that joins all.
    """

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_activated(width, width, 1))
        self.parts = nn.ModuleList(nn.Sequential(*_activated(width, width, 3, dilation)) for dilation in dilations)
        self.fuse = nn.Sequential(*_activated((1 + len(dilations)) * width, width, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        whole = self.whole(features).expand_as(features)
        fused: Tensor = self.fuse(torch.cat([whole, *(part(features) for part in self.parts)], dim=1))
        return fused


def _two_blocks(channels: int, out: int, stride: int, rectified: bool = True) -> nn.Sequential:
    return nn.Sequential(Block(channels, out, stride), Block(out, out, rectified=rectified))


def _activated(channels: int, out: int, kernel: int, dilation: int = 1) -> tuple[nn.Module, ...]:
    """Return a convolution without bias that keeps the size, a norm and a ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)
