"""The blocks of reverse distillation: a bottleneck that compresses a teacher's pyramid, and a decoder that rebuilds it.

Source: Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022, sections 3.2-3.3;
read beside the authors' code (MIT), which decides where the paper is silent. Widths follow from the teacher's levels, so
that WideResNet-50-2 gives the authors' network and any other pyramid its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder


class Bottleneck(nn.Module):
    """Multi-scale feature fusion and one-class embedding: three levels -> (B, 2 C3, H3 / 2, W3 / 2).

    channels: of the three levels, each half as fine as the one before.
    width: inner channels of the embedding blocks in 1/128 of C3: 128 in the authors' code, 64 in ADer.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        first, second, third = channels
        self.down1 = nn.Sequential(*_downsample(first, second), *_downsample(second, third))
        self.down2 = nn.Sequential(*_downsample(second, third))
        inner, out = third * width // 128, 2 * third
        if inner < 1:
            raise InputError(
                f"bottleneck_width {width} leaves no channel of {third}; expected at least {-(-128 // third)}"
            )
        blocks = [ResidualBlock(3 * third, inner, out, scale="down")]
        blocks += [ResidualBlock(out, inner, out) for _ in range(2)]
        self.embed = nn.Sequential(*blocks)
        self.out_channels = out
        kaiming_initialise(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """features: shallow to deep, (B, C_l, H_l, W_l)."""
        first, second, third = features
        fused = torch.cat([self.down1(first), self.down2(second), third], dim=1)
        return cast(Tensor, self.embed(fused))


class Decoder(nn.Module):
    """Rebuilds the three levels from the embedding, deep to shallow; its inner width is half of each level's channels.

    blocks: residual blocks per stage, deep to shallow; the authors use 3, 4, 6.
    """

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...] = (3, 4, 6)) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width_in = 2 * channels[-1]
        for out, repeats in zip(reversed(channels), blocks, strict=True):
            stage = [ResidualBlock(width_in, out // 2, out, scale="up")]
            stage += [ResidualBlock(out, out // 2, out) for _ in range(repeats - 1)]
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
        middle: nn.Module
        if scale == "up":
            middle = nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False)
            self.shortcut: nn.Module = _with_norm(nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False), out)
        elif scale == "down":
            middle = nn.Conv2d(inner, inner, 3, stride=2, padding=1, bias=False)
            self.shortcut = _with_norm(nn.Conv2d(channels, out, 1, stride=2, bias=False), out)
        else:
            middle = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
            self.shortcut = nn.Identity()
        self.body = nn.Sequential(
            _with_norm(nn.Conv2d(channels, inner, 1, bias=False), inner),
            nn.ReLU(inplace=True),
            _with_norm(middle, inner),
            nn.ReLU(inplace=True),
            _with_norm(nn.Conv2d(inner, out, 1, bias=False), out),
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

    In float32 under mixed precision too. Source: the authors' code; the paper's equation 2 is per position.
    """
    distances = [
        1.0 - F.cosine_similarity(target.float().flatten(1), feature.float().flatten(1)).mean()
        for target, feature in zip(targets, features, strict=True)
    ]
    return torch.stack(distances).sum()


def distance_map(targets: Sequence[Tensor], features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum over levels of 1 - cos at each position, each level brought to `size` bilinearly (corners aligned): (B, H, W)."""
    maps = [
        F.interpolate(
            1.0 - F.cosine_similarity(target.float(), feature.float(), dim=1).unsqueeze(1),
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


def _with_norm(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))
