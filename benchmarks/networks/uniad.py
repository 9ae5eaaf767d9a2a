"""UniAD as a script would have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import Plain


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

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
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
