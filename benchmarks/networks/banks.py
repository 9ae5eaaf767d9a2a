"""PatchCore and PaDiM as a script would have them: all features in memory, and then one computation on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from networks.base import Plain
from networks.reverse import smoothed
from networks.simplenet import neighbourhoods


def greedy(points: Tensor, count: int) -> Tensor:
    """Indices of points, each the farthest from those before it; one pass over all points for each."""
    starts = points[torch.randperm(len(points))[:10]]
    distances, picked = torch.cdist(points, starts).mean(dim=1), []
    for _ in range(count):
        picked.append(int(distances.argmax()))
        distances = distances.minimum(torch.cdist(points, points[picked[-1]][None])[:, 0])
    return torch.tensor(picked)


class PlainPatchCore(Plain):
    """With one neighbour, and all patches in one coreset."""

    drawn = ("projection",)

    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings = settings
        self.register_buffer("bank", torch.zeros(1, settings.width or sum(channels)))
        self.projection: Tensor
        self.found: list[Tensor] = []

    def patches(self, images: Tensor) -> Tensor:
        return neighbourhoods(self.features(images), self.settings.width)

    def collect(self, images: Tensor) -> None:
        self.found.append(self.patches(images).flatten(0, 2))

    def finish(self) -> None:
        patches = torch.cat(self.found)
        self.bank = patches[greedy(patches @ self.projection, int(self.settings.coreset * len(patches)))]
        self.found = []

    def maps(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        distances = torch.cdist(patches.flatten(0, 2), self.bank).min(dim=1).values ** 2
        maps = F.interpolate(distances.reshape(patches.shape[:3])[:, None], images.shape[2:], mode="bilinear")[:, 0]
        return smoothed(maps, self.settings.sigma)


class PlainPaDiM(Plain):
    drawn = ("chosen",)

    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings, width = settings, settings.channels
        self.register_buffer("average", torch.zeros(1, width))
        self.register_buffer("inverse", torch.eye(width)[None])
        self.chosen: Tensor
        self.found: list[Tensor] = []

    def vectors(self, images: Tensor) -> Tensor:
        """(P, B, d)"""
        levels = self.features(images)
        joined = torch.cat([F.interpolate(level, levels[0].shape[2:]) for level in levels], dim=1)
        return joined[:, self.chosen].flatten(2).permute(2, 0, 1)

    def collect(self, images: Tensor) -> None:
        self.found.append(self.vectors(images))

    def finish(self) -> None:
        vectors = torch.cat(self.found, dim=1)
        self.average = vectors.mean(dim=1)
        centred = vectors - self.average[:, None]
        covariance = centred.transpose(1, 2) @ centred / (vectors.shape[1] - 1)
        unit = torch.eye(vectors.shape[2], device=covariance.device)
        self.inverse = torch.linalg.inv(covariance + self.settings.regularisation * unit)
        self.found = []

    def maps(self, images: Tensor) -> Tensor:
        offsets = self.vectors(images) - self.average[:, None]
        distances = ((offsets @ self.inverse) * offsets).sum(dim=2).sqrt()
        side = int(len(distances) ** 0.5)
        maps = F.interpolate(distances.T.reshape(-1, 1, side, side), images.shape[2:], mode="bilinear")[:, 0]
        return smoothed(maps, self.settings.sigma)
