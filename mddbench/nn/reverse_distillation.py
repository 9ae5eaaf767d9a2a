"""The blocks of reverse distillation: a bottleneck that compresses a teacher's pyramid, and a decoder that rebuilds it.

Source: Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022, sections 3.2-3.3;
read beside the authors' code (MIT), which decides where the paper is silent. Their student mirrors the teacher: `STUDENTS` says
how for torchvision's ResNets. For any other pyramid the widths are in proportion to its levels' as for WideResNet-50-2: three
1x1-3x3-1x1 blocks embed it at a width of C3 and give 2 C3; a decoder of 3, 4 and 6 such blocks has half of each level's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single


@dataclass(frozen=True)
class Student:
    """What the blocks are for a teacher. basic: two 3x3 convolutions and not 1x1, 3x3, 1x1; narrowing: how many times narrower
    the 3x3 of the latter is than what comes out; embedding: blocks behind the fusion; decoder: blocks of its stages, deep to
    shallow.
    """

    basic: bool = False
    narrowing: int = 2
    embedding: int = 3
    decoder: tuple[int, ...] = (3, 4, 6)

    def block(self, channels: int, inner: int, out: int, scale: str = "none") -> nn.Module:
        """inner: of a block that is not basic."""
        return BasicBlock(channels, out, scale) if self.basic else ResidualBlock(channels, inner, out, scale)

    def described(self, decoder: tuple[int, ...] | None = None) -> str:
        """As a protocol card says it. decoder: blocks that are chosen otherwise."""
        kind = "basic blocks" if self.basic else f"bottleneck blocks, 1/{self.narrowing} wide"
        return (
            f"{kind}: {self.embedding} in the embedding, {'/'.join(map(str, decoder or self.decoder))} in the decoder"
        )


WIDE = Student()
"""That of WideResNet-50-2, and of whatever is not in STUDENTS."""
STUDENTS = {
    "resnet18": Student(basic=True, embedding=2, decoder=(2, 2, 2)),
    "resnet34": Student(basic=True),
    "resnet50": Student(narrowing=4),
    "resnet101": Student(narrowing=4, decoder=(3, 4, 23)),
    "resnet152": Student(narrowing=4, decoder=(3, 8, 36)),
    "wide_resnet50_2": WIDE,
    "wide_resnet101_2": Student(decoder=(3, 4, 23)),
}
"""timm's name of a teacher, without a tag -> the authors' student. Their embedding for ResNet-101 has basic blocks, which do
not fit its levels; it is taken for a slip and has ResNet-152's here.
"""


def student_of(encoder: str) -> Student:
    """The student for a teacher by timm's name, whatever its tag."""
    return STUDENTS.get(encoder.partition(".")[0], WIDE)


class Bottleneck(nn.Module):
    """Multi-scale feature fusion and one-class embedding: three levels -> (B, 2 C3, H3 / 2, W3 / 2).

    channels: of the three levels, each half as fine as the one before.
    width: inner channels of the embedding's blocks in 1/128 of the authors' (ADer: 64); basic blocks have none.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 128, student: Student = WIDE) -> None:
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
        """features: shallow to deep, (B, C_l, H_l, W_l)."""
        first, second, third = features
        fused = torch.cat([self.down1(first), self.down2(second), third], dim=1)
        return cast(Tensor, self.embed(fused))


class Decoder(nn.Module):
    """Rebuilds the three levels from the embedding, deep to shallow.

    blocks: of each stage, deep to shallow; None for the authors'.
    """

    def __init__(
        self, channels: tuple[int, ...], blocks: tuple[int, ...] | None = None, student: Student = WIDE
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width_in = 2 * channels[-1]
        for out, repeats in zip(reversed(channels), blocks or student.decoder, strict=True):
            inner = out // student.narrowing
            stage = [student.block(width_in, inner, out, scale="up")]
            stage += [student.block(out, inner, out) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*stage))
            width_in = out
        self.stages = nn.ModuleList(stages)
        kaiming_initialise(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(B, 2 C3, H3 / 2, W3 / 2) -> the levels, shallow to deep."""
        levels: list[Tensor] = []
        current = embedding
        for stage in self.stages:
            current = stage(current)
            levels.append(current)
        return levels[::-1]


class ResidualBlock(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut. `scale` 'down' halves the map by a stride, 'up' doubles it by a 2x2
    transposed convolution in the place of the 3x3; both then project the shortcut likewise.
    """

    def __init__(self, channels: int, inner: int, out: int, scale: str = "none") -> None:
        super().__init__()
        middle = _three_by_three(inner, inner, scale)  # first: a seed's initial weights depend on the order
        self.shortcut = _shortcut(channels, out, scale)
        self.body = nn.Sequential(
            _with_norm(nn.Conv2d(channels, inner, 1, bias=False), inner),
            nn.ReLU(inplace=True),
            _with_norm(middle, inner),
            nn.ReLU(inplace=True),
            _with_norm(nn.Conv2d(inner, out, 1, bias=False), out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first halves or doubles the map as `ResidualBlock`'s does."""

    def __init__(self, channels: int, out: int, scale: str = "none") -> None:
        super().__init__()
        self.shortcut = _shortcut(channels, out, scale)
        self.body = nn.Sequential(
            _with_norm(_three_by_three(channels, out, scale), out),
            nn.ReLU(inplace=True),
            _with_norm(_three_by_three(out, out, "none"), out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def require_halving_levels(encoder: FrozenEncoder, method: str) -> None:
    """Raise InputError unless the encoder gives three levels, each at twice the stride of the one before."""
    steps = [deep / shallow for shallow, deep in zip(encoder.strides, encoder.strides[1:], strict=False)]
    if len(encoder.strides) != 3 or any(step != 2 for step in steps):
        raise InputError(
            f"{method}: expected an encoder with three levels, each at twice the stride of the one before; "
            f"'{encoder.name}' at levels {list(encoder.levels)} has strides {list(encoder.strides)}"
        )


def flat_cosine_distance(targets: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the batch mean of 1 - cos, each image's level flattened to one vector; scalar in [0, 2 L].

    At least in single precision, under mixed precision too. Source: the authors' code; the paper's equation 2 is per position.
    """
    distances = [
        1.0 - F.cosine_similarity(at_least_single(target).flatten(1), at_least_single(feature).flatten(1)).mean()
        for target, feature in zip(targets, features, strict=True)
    ]
    return torch.stack(distances).sum()


def distance_map(targets: Sequence[Tensor], features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum over levels of 1 - cos at each position, each level brought to `size` bilinearly (corners aligned): (B, H, W)."""
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
    """Convolutions as in ResNet (normal, fan-out, ReLU); transposed ones keep PyTorch's default, as in the authors' code."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def _downsample(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def _three_by_three(channels: int, out: int, scale: str) -> nn.Module:
    """As it is, at a stride ('down'), or a transposed 2x2 in its place ('up')."""
    if scale == "up":
        return nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False)
    return nn.Conv2d(channels, out, 3, stride=2 if scale == "down" else 1, padding=1, bias=False)


def _shortcut(channels: int, out: int, scale: str) -> nn.Module:
    if scale == "up":
        return _with_norm(nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False), out)
    return _with_norm(nn.Conv2d(channels, out, 1, stride=2, bias=False), out) if scale == "down" else nn.Identity()


def _with_norm(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))
