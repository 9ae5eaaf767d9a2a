"""Dinomaly, INP-Former and ViTAD as scripts would have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import Plain
from networks.reverse import cosine_loss, cosine_maps, smoothed, windowed


class PlainTokens(Plain):
    """A network on the tokens of blocks. levels: of the suite's encoder; prefix: whether class and register tokens count."""

    levels: tuple[Any, ...] = ()
    prefix = False

    def blocks(self, images: Tensor) -> dict[int, Tensor]:
        """The output of each block that a level needs, class and register tokens in front."""
        kept, current = {}, (images - self.mean) / self.std
        model = self.teacher.model
        with torch.no_grad():
            current = model.norm_pre(model._pos_embed(model.patch_embed(current)))
            for number, block in enumerate(model.blocks):
                kept[number] = current = block(current)
        return kept

    def groups(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The mean of each level's blocks, and the mean of all blocks; without other tokens unless they count."""
        kept, drop = self.blocks(images), 0 if self.prefix else self.teacher.model.num_prefix_tokens
        chosen = [level if isinstance(level, tuple) else (level,) for level in self.levels]
        every = torch.stack([kept[number] for level in chosen for number in level])[:, :, drop:]
        return [torch.stack([kept[n] for n in level]).mean(dim=0)[:, drop:] for level in chosen], every.mean(dim=0)

    def as_maps(self, tokens: list[Tensor]) -> list[Tensor]:
        """Maps of a square grid of patches."""
        drop = self.teacher.model.num_prefix_tokens if self.prefix else 0
        side = round((tokens[0].shape[1] - drop) ** 0.5)
        return [level[:, drop:].transpose(1, 2).reshape(len(level), -1, side, side) for level in tokens]


class Feed(nn.Module):
    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def dropped(self, tokens: Tensor) -> Tensor:
        return F.dropout(tokens, self.dropout, self.training, False) if self.dropout else tokens

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropped(self.narrow(self.dropped(F.gelu(self.widen(self.dropped(tokens))))))


class Layer(nn.Module):
    """A pre-norm layer of a decoder; kind: softmax or linear."""

    def __init__(self, width: int, kind: str, eps: float) -> None:
        super().__init__()
        self.heads, self.kind = max(1, width // 64), kind
        self.first, self.second = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = Feed(width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(self.first(tokens)).reshape(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.kind == "linear":
            weights = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(2, 3)
            weights = weights / weights.sum(dim=3, keepdim=True)
        else:
            weights = (q @ k.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(dim=3)
        tokens = tokens + self.out((weights @ v).transpose(1, 2).reshape(batch, count, width))
        return tokens + self.feed(self.second(tokens))


class Reading(nn.Module):
    """A layer whose tokens read others, by softmax and beside themselves, or by positive cosines and instead."""

    def __init__(self, width: int, cosines: bool, eps: float) -> None:
        super().__init__()
        self.heads, self.cosines = max(1, width // 64), cosines
        self.first, self.second = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        if cosines:
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(self.heads, 1, 1))])
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.feed = Feed(width)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        size = width // self.heads
        q = self.q(self.first(tokens)).reshape(batch, count, self.heads, size).transpose(1, 2)
        k, v = self.kv(self.first(others)).reshape(batch, -1, 2, self.heads, size).permute(2, 0, 3, 1, 4)
        if self.cosines:
            cosines = F.normalize(q, dim=3) @ F.normalize(k, dim=3).transpose(2, 3)
            weights = (cosines * self.scales[0]).relu()
        else:
            weights = (q @ k.transpose(2, 3) / size**0.5).softmax(dim=3)
        read = self.out((weights @ v).transpose(1, 2).reshape(batch, count, width))
        tokens = read if self.cosines else tokens + read
        return tokens + self.feed(self.second(tokens))


class PlainDinomaly(PlainTokens):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings, width = settings, channels[0]
        self.bottleneck = Feed(width, settings.dropout)
        self.decoder = nn.ModuleList(Layer(width, settings.attention, 1e-8) for _ in range(settings.blocks))

    def pairs(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        levels, current = self.groups(images)
        current, outputs = self.bottleneck(current), []
        for layer in self.decoder:
            current = layer(current)
            outputs.insert(0, current)
        size = len(outputs) // len(levels)
        rebuilt = [sum(outputs[n * size : (n + 1) * size]) / size for n in range(len(levels))]
        return self.as_maps(levels), self.as_maps(rebuilt)

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        targets, rebuilt = self.pairs(images)
        easy = self.settings.easy * min(progress / self.settings.ramp, 1)
        for target, level in zip(targets, rebuilt, strict=True):
            distance = 1 - F.cosine_similarity(target, level.detach())
            hard = distance.flatten().sort(descending=True).values[int(distance.numel() * (1 - easy)) - 1]
            factors = torch.where(distance < hard, self.settings.easy_gradient, 1.0)[:, None]
            level.register_hook(lambda gradient, factors=factors: gradient * factors.to(gradient.dtype))
        return cosine_loss(targets, rebuilt) / len(targets)

    def maps(self, images: Tensor) -> Tensor:
        targets, rebuilt = self.pairs(images)
        return windowed(cosine_maps(targets, rebuilt, images.shape[-1]) / len(targets), self.settings)

    def scores(self, maps: Tensor) -> Tensor:
        ordered = maps.flatten(1).sort(dim=1, descending=True).values
        return ordered[:, : int(ordered.shape[1] * self.settings.highest)].mean(dim=1)


class PlainINPFormer(PlainTokens):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings, width = settings, channels[0]
        self.queries = nn.Parameter(torch.zeros(settings.prototypes, width))
        self.bottleneck = Feed(width)
        self.extractor = Reading(width, cosines=False, eps=1e-8)
        self.decoder = nn.ModuleList(Reading(width, cosines=True, eps=1e-8) for _ in range(settings.blocks))

    def pairs(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Targets, what is rebuilt of them, and each token's distance to the nearest prototype."""
        levels, tokens = self.groups(images)
        prototypes = self.extractor(self.queries.repeat(len(tokens), 1, 1), tokens)
        distance = 1 - F.cosine_similarity(tokens[:, :, None], prototypes[:, None], dim=3).max(dim=2).values
        current, outputs = self.bottleneck(tokens), []
        for layer in self.decoder:
            current = layer(current, prototypes)
            outputs.insert(0, current)
        size = len(outputs) // len(levels)
        rebuilt = [sum(outputs[n * size : (n + 1) * size]) / size for n in range(len(levels))]
        return self.as_maps(levels), self.as_maps(rebuilt), distance

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        targets, rebuilt, distance = self.pairs(images)
        for target, level in zip(targets, rebuilt, strict=True):
            own = 1 - F.cosine_similarity(target, level.detach())[:, None]
            factors = (own / own.mean()) ** self.settings.mining
            level.register_hook(lambda gradient, factors=factors: gradient * factors.to(gradient.dtype))
        return cosine_loss(targets, rebuilt) / len(targets) + self.settings.coherence * distance.mean()

    def maps(self, images: Tensor) -> Tensor:
        targets, rebuilt, _ = self.pairs(images)
        return windowed(cosine_maps(targets, rebuilt, images.shape[-1]) / len(targets), self.settings)

    scores = PlainDinomaly.scores


class PlainViTAD(PlainTokens):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings, width = settings, channels[0]
        self.positions = nn.Parameter(torch.zeros(1, settings.grid**2, width))
        self.bottleneck = nn.Linear(width, width)
        self.decoder = nn.ModuleList(Layer(width, "softmax", 1e-6) for _ in range(settings.blocks))

    def pairs(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        (*targets, last), _ = self.groups(images)
        current, outputs = self.bottleneck(last) + self.positions, []
        for layer in self.decoder:
            current = layer(current)
            outputs.append(current)
        every = len(outputs) // len(targets)
        return self.as_maps(targets), self.as_maps(outputs[every - 1 :: every][::-1])

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        return cosine_loss(*self.pairs(images))

    def maps(self, images: Tensor) -> Tensor:
        return smoothed(cosine_maps(*self.pairs(images), images.shape[-1]), self.settings.sigma)

    def scores(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps[:, None], self.settings.pool, 1).flatten(1).max(dim=1).values
