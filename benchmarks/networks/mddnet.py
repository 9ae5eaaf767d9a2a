"""MDD-Net as a script would have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.synthesis import synthesise
from networks.base import Plain
from networks.reverse import Embedding, Student, cosine_loss, cosine_maps, smoothed


class Memory(nn.Module):
    """Averaged prototypes of each category, asked softly."""

    def __init__(self, channels: int, categories: int, settings: Any) -> None:
        super().__init__()
        self.count, self.temperature, self.decay = settings.items, settings.temperature, settings.decay
        self.register_buffer("items", torch.zeros(categories * settings.items, channels))
        self.register_buffer("usage", torch.zeros(categories * settings.items))
        self.register_buffer("started", torch.zeros(categories, dtype=torch.bool))

    def weights(self, queries: Tensor) -> Tensor:
        cosines = F.normalize(queries, dim=-1) @ F.normalize(self.items, dim=-1).T
        return (cosines / self.temperature).softmax(dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        queries = features.flatten(2).transpose(1, 2)
        read = F.normalize(self.weights(queries) @ self.items, dim=-1) * queries.norm(dim=-1, keepdim=True)
        return read.transpose(1, 2).reshape(features.shape)

    @torch.no_grad()
    def learn(self, features: Tensor, categories: Tensor) -> None:
        queries = features.flatten(2).transpose(1, 2)
        weights, directions = self.weights(queries), F.normalize(queries, dim=-1)
        normal = queries.shape[0] * queries.shape[1]
        new = [category for category in categories.unique().tolist() if not self.started[category]]
        for category in new:
            found = directions[categories == category].flatten(0, 1)
            own = slice(category * self.count, (category + 1) * self.count)
            self.items[own] = found[torch.randperm(len(found))[torch.arange(self.count) % len(found)]]
            self.started[category] = True
        self.usage *= 0.99
        for category in categories.unique().tolist():
            own = slice(category * self.count, (category + 1) * self.count)
            members = categories == category
            asked, places = weights[members][..., own].flatten(0, 1), directions[members].flatten(0, 1)
            used = asked.sum(dim=0)
            self.usage[own] += 0.01 * used / normal
            mean, alive = asked.T @ places / used[:, None].clamp(min=1e-6), used > 1e-3
            moved = self.decay * self.items[own] + (1 - self.decay) * mean
            self.items[own] = torch.where(alive[:, None], moved, self.items[own])


class PlainMDDNet(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.sigma, self.synthesis = settings.scoring.sigma, settings.synthesis
        self.embedding = Embedding(channels, settings.bottleneck_width)
        self.restoring = Student(channels, settings.decoder_blocks)
        self.keeping = Student(channels, settings.decoder_blocks)
        self.memories = nn.ModuleList(Memory(width, categories, settings.memory) for width in channels)

    def both(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        kept = self.keeping(self.embedding(features))
        filtered = [memory(level) for memory, level in zip(self.memories, features, strict=True)]
        return self.restoring(self.embedding(filtered)), kept

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        abnormal, masks = synthesise(images, categories, self.synthesis)
        normal_features, features = self.features(images), self.features(abnormal)
        restored, kept = self.both(features)
        loss = cosine_loss(normal_features, restored) + cosine_loss(features, kept)
        for one, other in zip(restored, kept, strict=True):
            mask = F.adaptive_avg_pool2d(masks.float(), one.shape[-2:])
            off = (1 - F.cosine_similarity(one, other) - mask).abs()
            inside = (off * mask).sum() / mask.sum().clamp(min=1e-6)
            outside = (off * (1 - mask)).sum() / (1 - mask).sum().clamp(min=1e-6)
            loss = loss + (inside + outside) / 2
        for memory, level in zip(self.memories, normal_features, strict=True):
            memory.learn(level, categories)
        return loss

    def maps(self, images: Tensor) -> Tensor:
        features, size = self.features(images), images.shape[-1]
        restored, kept = self.both(features)
        return smoothed(cosine_maps(features, restored, size) + cosine_maps(restored, kept, size), self.sigma)
