"""Networks as a script would have them: PyTorch's own layers, layout and attention, no tricks.

The suite's own are held against them, for speed (benchmarks/steps.py) and for results (tests/methods/test_plain.py). Learnt
values come in the order of the suite's, so that they can be copied; MDD-Net's defects and RD++'s noise are the suite's.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import timm
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.detector import Detector
from mddbench.nn.simplex import with_noise_patch
from mddbench.nn.synthesis import synthesise


class Plain(nn.Module):
    """A network beside the detector that it is a plain reading of. loss: of a training batch, a scalar; maps: of images."""

    def __init__(self, teacher: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)

    def train(self, mode: bool = True) -> Plain:
        super().train(mode)
        self.teacher.eval()
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(self.teacher((images - self.mean) / self.std))

    def loss(self, images: Tensor, categories: Tensor) -> Tensor:
        raise NotImplementedError

    def maps(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, maps: Tensor) -> Tensor:
        return maps.flatten(1).max(dim=1).values


def plain_twin(name: str, detector: Detector) -> Plain:
    """The plain network of a method in KINDS with the weights of the suite's detector, teacher and buffers included.

    Raises ValueError for settings of MDD-Net that it does not have.
    """
    if name == "mddnet":
        usual, given = type(detector.settings)(), detector.settings
        for one in ("memory_at", "weights", "balanced"):
            if getattr(given, one) != getattr(usual, one):
                raise ValueError(f"the plain network has no other {one} than the usual")
        free = {"memory": {"items", "temperature", "decay"}, "scoring": {"sigma"}}
        for one, known in free.items():
            if getattr(given, one).model_dump(exclude=known) != getattr(usual, one).model_dump(exclude=known):
                raise ValueError(f"the plain network has only {', '.join(sorted(known))} of {one}'s settings")
    encoder, kind = detector.encoder, KINDS[name]
    teacher = timm.create_model(encoder.name, features_only=True, out_indices=encoder.levels)
    teacher.load_state_dict(encoder.weights())
    twin = kind((teacher, encoder.mean, encoder.std), encoder.channels, detector.settings, detector.categories)
    own = {key: value for key, value in twin.state_dict().items() if not key.startswith("teacher.")}
    for (key, value), other in zip(own.items(), detector.learned_state().values(), strict=True):
        if value.shape != other.shape:
            raise ValueError(f"{key}: {tuple(value.shape)} is not {tuple(other.shape)}")
        value.copy_(other)
    return twin


# Reverse distillation


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


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(np.stack([gaussian_filter(one, sigma) for one in maps.cpu().numpy()]))


class PlainRD4AD(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.sigma = settings.sigma
        self.embedding = Embedding(channels, settings.bottleneck_width)
        self.student = Student(channels, settings.decoder_blocks)

    def loss(self, images: Tensor, categories: Tensor) -> Tensor:
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
        self.student = Student(channels, settings.decoder_blocks)

    def projected(self, features: list[Tensor]) -> list[Tensor]:
        return [project(level) for project, level in zip(self.projections, features, strict=True)]

    def loss(self, images: Tensor, categories: Tensor) -> Tensor:
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
    """At the first step of a training, when alpha is -3."""

    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings = settings
        self.copy = deepcopy(self.teacher).requires_grad_(True)
        self.copy.blocks = self.copy.blocks[
            : max(self.copy._stage_out_idx)
        ]  # later stages of an EfficientNet learn nothing
        self.embedding = Embedding(channels, settings.bottleneck_width)
        self.student = Student(channels, settings.decoder_blocks, smooth=True)
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

    def loss(self, images: Tensor, categories: Tensor) -> Tensor:
        targets, rebuilt = self.pairs(images)
        for target, level in zip(targets, rebuilt, strict=True):
            distance = 1 - F.cosine_similarity(target, level.detach())[:, None]
            hard = distance >= distance.mean() + self.settings.easy_first * distance.std()
            level.register_hook(lambda gradient, hard=hard: gradient * hard)
        return cosine_loss(targets, rebuilt) / 2

    def maps(self, images: Tensor) -> Tensor:
        targets, rebuilt = self.pairs(images)
        maps, window = cosine_maps(targets, rebuilt, images.shape[-1]) / 6, self.settings.window
        places = torch.arange(window, device=maps.device, dtype=maps.dtype) - window // 2
        line = torch.exp(-(places**2) / (2 * self.settings.sigma**2))
        kernel = line[:, None] * line / line.sum() ** 2
        return F.conv2d(maps[:, None], kernel[None, None], padding=window // 2)[:, 0]

    def scores(self, maps: Tensor) -> Tensor:
        ordered = maps.flatten(1).sort(dim=1, descending=True).values
        return ordered[:, : int(ordered.shape[1] * self.settings.highest)].mean(dim=1)


# MDD-Net


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

    def loss(self, images: Tensor, categories: Tensor) -> Tensor:
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


# UniAD


class Attention(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(
            settings.channels, settings.heads, dropout=settings.dropout, batch_first=True
        )
        self.norm, self.dropout = nn.LayerNorm(settings.channels), nn.Dropout(settings.dropout)

    def forward(self, queries: Tensor, tokens: Tensor, position: Tensor, hidden: Tensor) -> Tensor:
        read, _ = self.heads(queries + position, tokens + position, tokens, attn_mask=hidden, need_weights=False)
        return self.norm(queries + self.dropout(read))


class Feed(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.widen = nn.Linear(settings.channels, settings.feedforward)
        self.narrow = nn.Linear(settings.feedforward, settings.channels)
        self.norm, self.dropout = nn.LayerNorm(settings.channels), nn.Dropout(settings.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.widen(tokens)))
        return self.norm(tokens + self.dropout(self.narrow(inner)))


class Encode(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.attention, self.feed = Attention(settings), Feed(settings)


class Decode(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(settings.grid**2, settings.channels))
        self.first, self.second, self.feed = Attention(settings), Attention(settings), Feed(settings)


class PlainUniAD(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings, self.grid, width = settings, settings.grid, settings.channels
        self.rows = nn.Parameter(torch.zeros(self.grid, width // 2))
        self.columns = nn.Parameter(torch.zeros(self.grid, width // 2))
        self.narrow = nn.Linear(sum(channels), width)
        self.encoder = nn.ModuleList(Encode(settings) for _ in range(settings.layers))
        self.decoder = nn.ModuleList(Decode(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, sum(channels))
        place = torch.arange(self.grid**2)
        row, column, reach = place // self.grid, place % self.grid, settings.neighbours // 2
        near = ((row[:, None] - row).abs() <= reach) & ((column[:, None] - column).abs() <= reach)
        self.register_buffer("hidden", near if settings.neighbours else torch.zeros_like(near), persistent=False)

    def tokens(self, images: Tensor) -> Tensor:
        grids = [
            F.interpolate(level, self.grid, mode="bilinear", align_corners=True) for level in self.features(images)
        ]
        return torch.cat(grids, dim=1).flatten(2).transpose(1, 2)

    def rebuilt(self, tokens: Tensor) -> Tensor:
        columns, rows = self.columns.repeat(self.grid, 1), self.rows.repeat_interleave(self.grid, dim=0)
        position = torch.cat([columns, rows], dim=1)
        memory = self.narrow(tokens)
        for layer in self.encoder:
            memory = layer.feed(layer.attention(memory, memory, position, self.hidden))
        out = memory
        for layer in self.decoder:
            asked = layer.query.expand(len(tokens), -1, -1)
            answer = layer.first(asked, memory, position, self.hidden)
            out = layer.feed(layer.second(answer, out, position, self.hidden))
        return self.widen(self.norm(out))

    def loss(self, images: Tensor, categories: Tensor) -> Tensor:
        tokens = noisy = self.tokens(images)
        if torch.rand(()) < self.settings.jitter_probability:
            deviation = tokens.norm(dim=2, keepdim=True) / tokens.shape[2] * self.settings.jitter
            noisy = tokens + torch.randn(tokens.shape, device=tokens.device) * deviation
        return F.mse_loss(self.rebuilt(noisy), tokens)

    def maps(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)
        distance = (self.rebuilt(tokens) - tokens).norm(dim=2).reshape(-1, 1, self.grid, self.grid)
        return F.interpolate(distance, images.shape[-1], mode="bilinear", align_corners=True)[:, 0]

    def scores(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps[:, None], self.settings.pool, 1).flatten(1).max(dim=1).values


KINDS: dict[str, Any] = {
    "rd4ad": PlainRD4AD,
    "rdpp": PlainRDPlusPlus,
    "recontrast": PlainReContrast,
    "uniad": PlainUniAD,
    "mddnet": PlainMDDNet,
}
