"""SimpleNet as a script would have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import Plain
from networks.reverse import smoothed


def neighbourhoods(levels: list[Tensor], width: int | None) -> Tensor:
    """(B, H, W, D). The neighbourhoods themselves are resized, and only then averaged."""
    height, columns = levels[0].shape[2:]
    parts = []
    for level in levels:
        nine = F.unfold(level, 3, padding=1).reshape(len(level), -1, *level.shape[2:])
        nine = F.interpolate(nine, (height, columns), mode="bilinear").permute(0, 2, 3, 1)
        if width is None:
            parts.append(nine.unflatten(3, (-1, 9)).mean(dim=4))
        else:
            parts.append(F.adaptive_avg_pool1d(nine.flatten(1, 2), width).reshape(-1, height, columns, width))
    joined = torch.cat(parts, dim=3)
    if width is None:
        return joined
    return F.adaptive_avg_pool1d(joined.flatten(1, 2), width).reshape(-1, height, columns, width)


class PlainSimpleNet(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings = settings
        width = settings.width or sum(channels)
        self.adapt = nn.Linear(width, width)
        self.first, self.norm = nn.Linear(width, settings.hidden), nn.BatchNorm1d(settings.hidden)
        self.last = nn.Linear(settings.hidden, 1, bias=False)

    def patches(self, images: Tensor) -> Tensor:
        return neighbourhoods(self.features(images), self.settings.width)

    def judged(self, vectors: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.norm(self.first(vectors)), self.settings.slope))[:, 0]

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        patches, settings = self.patches(images).flatten(0, 2), self.settings
        deviation = settings.noise * (patches.std() if settings.relative_noise else 1.0)
        normal = self.adapt(patches)
        noisy = normal + deviation * torch.randn(normal.shape, device=normal.device)
        scores = self.judged(torch.cat([normal, noisy], dim=0))
        good, bad = scores[: len(normal)], scores[len(normal) :]
        return (settings.margin - good).clamp(min=0).mean() + (settings.margin + bad).clamp(min=0).mean()

    def maps(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        scores = self.judged(self.adapt(patches.flatten(0, 2))).reshape(patches.shape[:3])
        maps = F.interpolate(-scores[:, None], images.shape[-1], mode="bilinear")[:, 0]
        return smoothed(maps, self.settings.sigma)
