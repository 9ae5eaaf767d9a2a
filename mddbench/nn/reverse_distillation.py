"""The blocks of reverse distillation: a bottleneck that compresses a teacher's pyramid, and a decoder that rebuilds it.

The student of the authors mirrors the teacher. `STUDENTS` describes it for torchvision's ResNets.
For any other pyramid, the widths are in proportion to those of its levels, as for WideResNet-50-2.
Three 1x1-3x3-1x1 blocks embed the pyramid with an inner width of C3 and give 2 C3 channels.
The decoder has 3, 4 and 6 such blocks with half of each level's width.

Source: Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022, sections 3.2-3.3.
The authors' code (MIT) was read beside it, and decides where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single

Activation: TypeAlias = type[nn.ReLU] | type[nn.GELU]
"""Class of the activations of a network."""


@dataclass(frozen=True)
class Student:
    """The blocks of a student, which depend on the teacher.

    Attributes:
        basic: True for blocks of two 3x3 convolutions, False for blocks of 1x1, 3x3 and 1x1 convolutions.
        narrowing: Output channels of a 1x1-3x3-1x1 block divided by the channels of its 3x3 convolution.
        embedding: Number of blocks after the fusion.
        decoder: Number of blocks in each stage of the decoder, deep to shallow.
    """

    basic: bool = False
    narrowing: int = 2
    embedding: int = 3
    decoder: tuple[int, ...] = (3, 4, 6)

    def block(
        self, channels: int, inner: int, out: int, scale: str = "none", activation: Activation = nn.ReLU
    ) -> nn.Module:
        """Create a block.

        Args:
            channels: Number of input channels.
            inner: Number of inner channels; ignored for a basic block.
            out: Number of output channels.
            scale: 'down' to halve the map, 'up' to double it, 'none' to keep its size.
            activation: Class of the activations.

        Returns:
            The block.
        """
        if self.basic:
            return BasicBlock(channels, out, scale, activation)
        return ResidualBlock(channels, inner, out, scale, activation)

    def described(self, decoder: tuple[int, ...] | None = None) -> str:
        """Describe the student for a protocol card.

        Args:
            decoder: Number of blocks in each stage of the decoder, None for the student's own.

        Returns:
            The description.
        """
        kind = "basic blocks" if self.basic else f"bottleneck blocks, 1/{self.narrowing} wide"
        return (
            f"{kind}: {self.embedding} in the embedding, {'/'.join(map(str, decoder or self.decoder))} in the decoder"
        )


WIDE = Student()
"""The student of WideResNet-50-2, and of every teacher that is not in STUDENTS."""
STUDENTS = {
    "resnet18": Student(basic=True, embedding=2, decoder=(2, 2, 2)),
    "resnet34": Student(basic=True),
    "resnet50": Student(narrowing=4),
    "resnet101": Student(narrowing=4, decoder=(3, 4, 23)),
    "resnet152": Student(narrowing=4, decoder=(3, 8, 36)),
    "wide_resnet50_2": WIDE,
    "wide_resnet101_2": Student(decoder=(3, 4, 23)),
}
"""timm's name of a teacher without its tag -> the authors' student.

The authors' embedding for ResNet-101 has basic blocks, which do not fit its levels.
This is taken for a mistake, and the embedding for ResNet-152 is used instead.
"""


def student_of(encoder: str) -> Student:
    """Return the student for a teacher, given timm's name with or without a tag."""
    return STUDENTS.get(encoder.partition(".")[0], WIDE)


class Bottleneck(nn.Module):
    """Multi-scale feature fusion and one-class embedding of three levels.

    Attributes:
        down1: Brings the first level to the size and channels of the third.
        down2: Brings the second level to the size and channels of the third.
        embed: Blocks that compress the fused levels.
        out_channels: Number of output channels, 2 C3.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 128, student: Student = WIDE) -> None:
        """Create the bottleneck.

        Args:
            channels: Number of channels of the three levels. Each level has half the resolution of the one before.
            width: Inner channels of the embedding's blocks, in 1/128 of the authors' number (ADer: 64).
                Basic blocks have no inner channels.
            student: Blocks of the student.

        Raises:
            InputError: If the width leaves no inner channel, or if it is not 128 for basic blocks.
        """
        super().__init__()
        first, second, third = channels
        self.down1 = nn.Sequential(*_downsample(first, second), *_downsample(second, third))
        self.down2 = nn.Sequential(*_downsample(second, third))
        out = 2 * third
        inner = out * width // (128 * student.narrowing)
        if inner < 1:
            least = -(-128 * student.narrowing // out)
            raise InputError(f"bottleneck_width {width} leaves no channel of {third}; expected at least {least}")
        if student.basic and width != 128:
            raise InputError(f"bottleneck_width {width}: this encoder's blocks have no inner channels; leave it at 128")
        blocks = [student.block(3 * third, inner, out, scale="down")]
        blocks += [student.block(out, inner, out) for _ in range(student.embedding - 1)]
        self.embed = nn.Sequential(*blocks)
        self.out_channels = out
        kaiming_initialise(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse and embed the features.

        Args:
            features: (B, C_l, H_l, W_l) for each of the three levels, shallow to deep.

        Returns:
            (B, 2 C3, H3 / 2, W3 / 2) embedding.
        """
        first, second, third = features
        fused = torch.cat([self.down1(first), self.down2(second), third], dim=1)
        return cast(Tensor, self.embed(fused))


class Decoder(nn.Module):
    """Rebuilds the three levels from the embedding, deep to shallow.

    Attributes:
        stages: One sequence of blocks for each level, deep to shallow.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        blocks: tuple[int, ...] | None = None,
        student: Student = WIDE,
        activation: Activation = nn.ReLU,
    ) -> None:
        """Create the decoder.

        Args:
            channels: Number of channels of the levels, shallow to deep.
            blocks: Number of blocks in each stage, deep to shallow; None for the student's own.
            student: Blocks of the student.
            activation: Class of the activations.
        """
        super().__init__()
        stages: list[nn.Module] = []
        width_in = 2 * channels[-1]
        for out, repeats in zip(reversed(channels), blocks or student.decoder, strict=True):
            inner = out // student.narrowing
            stage = [student.block(width_in, inner, out, "up", activation)]
            stage += [student.block(out, inner, out, "none", activation) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*stage))
            width_in = out
        self.stages = nn.ModuleList(stages)
        kaiming_initialise(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Rebuild the levels.

        Args:
            embedding: (B, 2 C3, H3 / 2, W3 / 2) output of the bottleneck.

        Returns:
            (B, C_l, H_l, W_l) for each level, shallow to deep.
        """
        levels: list[Tensor] = []
        current = embedding
        for stage in self.stages:
            current = stage(current)
            levels.append(current)
        return levels[::-1]


class ResidualBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut."""

    def __init__(
        self, channels: int, inner: int, out: int, scale: str = "none", activation: Activation = nn.ReLU
    ) -> None:
        """Create the block.

        Args:
            channels: Number of input channels.
            inner: Number of channels of the 3x3 convolution.
            out: Number of output channels.
            scale: 'down' halves the map by a stride.
                'up' doubles it by a 2x2 transposed convolution instead of the 3x3 convolution.
                Both project the shortcut in the same way. 'none' keeps the size of the map.
            activation: Class of the activations.
        """
        super().__init__()
        # This layer is created first, since the initial weights of a seed depend on the order.
        middle = _three_by_three(inner, inner, scale)
        self.shortcut = _shortcut(channels, out, scale)
        self.body = nn.Sequential(
            _with_norm(nn.Conv2d(channels, inner, 1, bias=False), inner),
            _inner(activation),
            _with_norm(middle, inner),
            _inner(activation),
            _with_norm(nn.Conv2d(inner, out, 1, bias=False), out),
        )
        self.last = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H', W')."""
        return cast(Tensor, self.last(self.body(x) + self.shortcut(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first one halves or doubles the map as in `ResidualBlock`."""

    def __init__(self, channels: int, out: int, scale: str = "none", activation: Activation = nn.ReLU) -> None:
        """Create the block.

        Args:
            channels: Number of input channels.
            out: Number of output channels.
            scale: 'down', 'up' or 'none', as in `ResidualBlock`.
            activation: Class of the activations.
        """
        super().__init__()
        self.shortcut = _shortcut(channels, out, scale)
        self.body = nn.Sequential(
            _with_norm(_three_by_three(channels, out, scale), out),
            _inner(activation),
            _with_norm(_three_by_three(out, out, "none"), out),
        )
        self.last = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H', W')."""
        return cast(Tensor, self.last(self.body(x) + self.shortcut(x)))


def require_halving_levels(encoder: FrozenEncoder, method: str) -> None:
    """Check that the encoder gives three levels, each at twice the stride of the one before.

    Args:
        encoder: The frozen teacher.
        method: Name of the method, for the message.

    Raises:
        InputError: If the levels are others.
    """
    ratios = [deep / shallow for shallow, deep in zip(encoder.strides, encoder.strides[1:], strict=False)]
    if len(encoder.strides) != 3 or any(ratio != 2 for ratio in ratios):
        raise InputError(
            f"{method}: expected an encoder with three levels, each at twice the stride of the one before; "
            f"'{encoder.name}' at levels {list(encoder.levels)} has strides {list(encoder.strides)}"
        )


def flat_cosine_distance(targets: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Sum 1 - cos over the levels, where each level of an image is flattened to one vector.

    It is computed at least in single precision, also under mixed precision.

    Args:
        targets: (B, C_l, H_l, W_l) for each of the L levels.
        features: (B, C_l, H_l, W_l) for each of the L levels.

    Returns:
        A scalar in [0, 2 L]: the sum over levels of the mean over the batch.

    Source: the authors' code; the paper's equation 2 is per position.
    """
    distances = [
        1.0 - F.cosine_similarity(at_least_single(target).flatten(1), at_least_single(feature).flatten(1)).mean()
        for target, feature in zip(targets, features, strict=True)
    ]
    return torch.stack(distances).sum()


def distance_map(targets: Sequence[Tensor], features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum 1 - cos at each position over the levels.

    Each level is resized bilinearly, with aligned corners.

    Args:
        targets: (B, C_l, H_l, W_l) for each of the L levels.
        features: (B, C_l, H_l, W_l) for each of the L levels.
        size: Height H and width W of the result in pixels.

    Returns:
        (B, H, W) map in [0, 2 L].
    """
    maps = [
        F.interpolate(
            1.0 - F.cosine_similarity(at_least_single(target), at_least_single(feature), dim=1).unsqueeze(1),
            size,
            mode="bilinear",
            align_corners=True,
        )
        for target, feature in zip(targets, features, strict=True)
    ]
    return torch.cat(maps, dim=1).sum(dim=1)


def kaiming_initialise(module: nn.Module) -> None:
    """Initialise convolutions as in ResNet (normal, fan-out, ReLU).

    Transposed convolutions keep PyTorch's default, as in the authors' code.

    Args:
        module: Network whose convolutions are initialised in place.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _downsample(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def _three_by_three(channels: int, out: int, scale: str) -> nn.Module:
    """Return a 3x3 convolution, with stride 2 for 'down'; for 'up' a transposed 2x2 convolution instead."""
    if scale == "up":
        return nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False)
    return nn.Conv2d(channels, out, 3, stride=2 if scale == "down" else 1, padding=1, bias=False)


def _shortcut(channels: int, out: int, scale: str) -> nn.Module:
    if scale == "up":
        return _with_norm(nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False), out)
    return _with_norm(nn.Conv2d(channels, out, 1, stride=2, bias=False), out) if scale == "down" else nn.Identity()


def _inner(activation: Activation) -> nn.Module:
    """Return an activation between two layers; ReLU then works in place."""
    return nn.ReLU(inplace=True) if activation is nn.ReLU else activation()


def _with_norm(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))
