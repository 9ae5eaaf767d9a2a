"""RD4AD, RD++ and ReContrast as a script would have them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.simplex import with_noise_patch
from networks.base import Plain


def conv_norm(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


def doubling_norm(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False), nn.BatchNorm2d(out))


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int, out: int, scale: str, smooth: bool = False) -> None:
        super().__init__()
        self.bend = F.gelu if smooth else F.relu_
        if scale == "down":
            self.shortcut, middle = conv_norm(channels, out, 1, 2), conv_norm(inner, inner, 3, 2)
        elif scale == "up":
            self.shortcut, middle = doubling_norm(channels, out), doubling_norm(inner, inner)
        else:
            self.shortcut, middle = nn.Sequential(), conv_norm(inner, inner, 3)
        self.first, self.middle, self.last = conv_norm(channels, inner, 1), middle, conv_norm(inner, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bend(self.middle(self.bend(self.first(x))))
        return self.bend(self.last(inner) + self.shortcut(x))


class Embedding(nn.Module):
    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.first, self.again, self.second = conv_norm(c1, c2, 3, 2), conv_norm(c2, c3, 3, 2), conv_norm(c2, c3, 3, 2)
        inner = c3 * width // 128
        kinds = [(3 * c3, "down"), (2 * c3, "same"), (2 * c3, "same")]
        self.blocks = nn.Sequential(*(Residual(wide, inner, 2 * c3, scale) for wide, scale in kinds))

    def forward(self, levels: list[Tensor]) -> Tensor:
        first = F.relu_(self.again(F.relu_(self.first(levels[0]))))
        second = F.relu_(self.second(levels[1]))
        return self.blocks(torch.cat([first, second, levels[2]], dim=1))


class Student(nn.Module):
    def __init__(self, channels: tuple[int, ...], repeats: tuple[int, ...], smooth: bool = False) -> None:
        super().__init__()
        (c1, c2, c3), (r3, r2, r1) = channels, repeats
        self.deep, self.middle, self.shallow = (
            nn.Sequential(
                Residual(before, out // 2, out, "up", smooth),
                *(Residual(out, out // 2, out, "same", smooth) for _ in range(count - 1)),
            )
            for before, out, count in ((2 * c3, c3, r3), (c3, c2, r2), (c2, c1, r1))
        )

    def forward(self, embedding: Tensor) -> list[Tensor]:
        deep = self.deep(embedding)
        middle = self.middle(deep)
        return [self.shallow(middle), middle, deep]


def cosine_loss(one: list[Tensor], other: list[Tensor]) -> Tensor:
    return sum((1 - F.cosine_similarity(a.flatten(1), b.flatten(1))).mean() for a, b in zip(one, other, strict=True))


def cosine_maps(one: list[Tensor], other: list[Tensor], size: int) -> Tensor:
    distances = [1 - F.cosine_similarity(a, b)[:, None] for a, b in zip(one, other, strict=True)]
    return sum(F.interpolate(each, size, mode="bilinear", align_corners=True) for each in distances)[:, 0]


def as_numpy(maps: Tensor) -> np.ndarray:
    """Half precision, which SciPy does not take, becomes float32."""
    return (maps if maps.dtype == torch.float64 else maps.float()).cpu().numpy()


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(np.stack([gaussian_filter(one, sigma) for one in as_numpy(maps)]))


def windowed(maps: Tensor, settings: Any) -> Tensor:
    """A Gaussian that is cut to a window, by a convolution."""
    places = torch.arange(settings.window, device=maps.device, dtype=maps.dtype) - settings.window // 2
    line = torch.exp(-(places**2) / (2 * settings.sigma**2))
    kernel = line[:, None] * line / line.sum() ** 2
    return F.conv2d(maps[:, None], kernel[None, None], padding=settings.window // 2)[:, 0]


class PlainRD4AD(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.sigma = settings.sigma
        self.embedding = Embedding(channels, settings.bottleneck_width)
        self.student = Student(channels, settings.decoder_blocks or (3, 4, 6))

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        features = self.features(images)
        return cosine_loss(features, self.student(self.embedding(features)))

    def maps(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return smoothed(cosine_maps(features, self.student(self.embedding(features)), images.shape[-1]), self.sigma)


def projection(channels: int, narrowest: int) -> nn.Sequential:
    widths = [channels, max(channels // 2, narrowest), max(channels // 4, narrowest)]
    layers: list[nn.Module] = []
    for width, out in zip([*widths, widths[1]], [*widths[1:], widths[1], channels], strict=True):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.InstanceNorm2d(out), nn.LeakyReLU()]
    return nn.Sequential(*layers)


class PlainRDPlusPlus(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings = settings
        self.projections = nn.ModuleList(projection(width, settings.narrowest) for width in channels)
        self.embedding = Embedding(channels, settings.bottleneck_width)
        self.student = Student(channels, settings.decoder_blocks or (3, 4, 6))

    def projected(self, features: list[Tensor]) -> list[Tensor]:
        return [project(level) for project, level in zip(self.projections, features, strict=True)]

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        features = self.features(images)
        noisy = self.features(with_noise_patch(images, self.settings.noise))
        projected, from_noisy = self.projected(features), self.projected(noisy)
        beside, target = 0.0, -torch.ones(len(images), device=images.device)
        for feature, one, other in zip(noisy, projected, from_noisy, strict=True):
            beside = beside + self.settings.reconstruction_weight * (1 - F.cosine_similarity(one, other)).mean()
            beside = beside + self.settings.contrast_weight * F.cosine_embedding_loss(
                feature.flatten(1), one.flatten(1), target, self.settings.margin
            )
        weights = (
            1 + self.settings.reconstruction_weight + self.settings.contrast_weight
        ) / self.settings.projection_weight
        return cosine_loss(features, self.student(self.embedding(projected))) + beside / weights

    def maps(self, images: Tensor) -> Tensor:
        features = self.features(images)
        rebuilt = self.student(self.embedding(self.projected(features)))
        return smoothed(cosine_maps(features, rebuilt, images.shape[-1]), self.settings.sigma)


class PlainReContrast(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings = settings
        self.copy = deepcopy(self.teacher).requires_grad_(True)
        self.copy.blocks = self.copy.blocks[
            : max(self.copy._stage_out_idx)
        ]  # later stages of an EfficientNet learn nothing
        self.embedding = Embedding(channels, settings.bottleneck_width)
        self.student = Student(channels, settings.decoder_blocks or (3, 4, 6), smooth=True)
        self.to_teacher = nn.ModuleList(nn.Conv2d(width, width, 1) for width in channels)
        self.to_copy = nn.ModuleList(nn.Conv2d(width, width, 1) for width in channels)

    def train(self, mode: bool = True) -> Plain:
        super().train(mode)
        self.copy.eval()
        return self

    def pairs(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Six targets and what is rebuilt of them."""
        frozen, copied = self.features(images), list(self.copy((images - self.mean) / self.std))
        decoded = self.student(self.embedding([torch.cat(pair) for pair in zip(copied, frozen, strict=True)]))
        rebuilt = [layer(level).chunk(2)[0] for layer, level in zip(self.to_teacher, decoded, strict=True)]
        rebuilt += [layer(level).chunk(2)[1] for layer, level in zip(self.to_copy, decoded, strict=True)]
        return [*frozen, *(level.detach() for level in copied)], rebuilt

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        targets, rebuilt = self.pairs(images)
        first, last = self.settings.easy_first, self.settings.easy_last
        alpha = first + (last - first) * min(progress / self.settings.ramp, 1)
        for target, level in zip(targets, rebuilt, strict=True):
            distance = 1 - F.cosine_similarity(target, level.detach())[:, None]
            hard = distance >= distance.mean() + alpha * distance.std()
            level.register_hook(lambda gradient, hard=hard: gradient * hard)
        return cosine_loss(targets, rebuilt) / 2

    def maps(self, images: Tensor) -> Tensor:
        targets, rebuilt = self.pairs(images)
        return windowed(cosine_maps(targets, rebuilt, images.shape[-1]) / 6, self.settings)

    def scores(self, maps: Tensor) -> Tensor:
        ordered = maps.flatten(1).sort(dim=1, descending=True).values
        return ordered[:, : int(ordered.shape[1] * self.settings.highest)].mean(dim=1)
