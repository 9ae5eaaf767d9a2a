"""The students of RD4AD and the transformer of UniAD with their authors' names, written naively from a description of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)


def doubling(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, 2, 2, bias=False)


class Block(nn.Module):
    """width: of the 3x3 between two 1x1; 0 for two 3x3."""

    def __init__(self, channels: int, width: int, out: int, way: str) -> None:
        super().__init__()
        middle = {"down": lambda a, b: conv(a, b, 3, 2), "up": doubling, "": lambda a, b: conv(a, b, 3)}[way]
        if width:
            layers = [conv(channels, width, 1), middle(width, width), conv(width, out, 1)]
        else:
            layers = [middle(channels, out), conv(out, out, 3)]
        self.count = len(layers)
        for number, layer in enumerate(layers, 1):
            last = layer.out_channels
            setattr(self, f"conv{number}", layer)
            setattr(self, f"bn{number}", nn.BatchNorm2d(last))
        if way == "down":
            self.downsample = nn.Sequential(conv(channels, out, 1, 2), nn.BatchNorm2d(out))
        if way == "up":
            self.upsample = nn.Sequential(doubling(channels, out), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        read = x
        for number in range(1, self.count + 1):
            read = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(read))
            read = F.relu(read) if number < self.count else read
        other = [getattr(self, name) for name in ("downsample", "upsample") if hasattr(self, name)]
        return F.relu(read + (other[0](x) if other else x))


class Embedding(nn.Module):
    """Their `bn`, with what it has and nothing reads."""

    def __init__(self, channels: tuple[int, int, int], width: int, blocks: int) -> None:
        super().__init__()
        a, b, c = channels
        self.bn_layer = nn.Sequential(
            Block(3 * c, width, 2 * c, "down"), *(Block(2 * c, width, 2 * c, "") for _ in range(blocks - 1))
        )
        self.conv1, self.bn1 = conv(a, b, 3, 2), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = conv(b, c, 3, 2), nn.BatchNorm2d(c)
        self.conv3, self.bn3 = conv(b, c, 3, 2), nn.BatchNorm2d(c)
        self.conv4, self.bn4 = conv(4 * c, 2 * c, 1), nn.BatchNorm2d(2 * c)

    def forward(self, levels: list[Tensor]) -> Tensor:
        first = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(levels[0]))))))
        second = F.relu(self.bn3(self.conv3(levels[1])))
        return self.bn_layer(torch.cat([first, second, levels[2]], dim=1))


class Mirror(nn.Module):
    """Their `decoder`. narrowing: how many times narrower than its output a 3x3 is; 0 for blocks of two 3x3."""

    def __init__(self, channels: tuple[int, int, int], narrowing: int, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        before = 2 * channels[2]
        for number, (out, count) in enumerate(zip(reversed(channels), blocks, strict=True), 1):
            width = out // narrowing if narrowing else 0
            stage = [Block(before, width, out, "up"), *(Block(out, width, out, "") for _ in range(count - 1))]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
            before = out

    def forward(self, x: Tensor) -> list[Tensor]:
        third = self.layer1(x)
        second = self.layer2(third)
        return [self.layer3(second), second, third]


NETWORKS = {
    "resnet18": ((64, 128, 256), 0, 0, 2, (2, 2, 2), 15.383),
    "resnet34": ((64, 128, 256), 0, 0, 3, (3, 4, 6), 22.171),
    "resnet50": ((256, 512, 1024), 512, 4, 3, (3, 4, 6), 46.651),
    "resnet152": ((256, 512, 1024), 512, 4, 3, (3, 8, 36), 49.884),
    "wide_resnet50_2": ((256, 512, 1024), 1024, 2, 3, (3, 4, 6), 83.803),
    "wide_resnet101_2": ((256, 512, 1024), 1024, 2, 3, (3, 4, 23), 87.441),
}
"""Teacher -> its levels' channels, inner width of the embedding, narrowing and blocks of both, and millions of parameters that
something reads, counted in the authors' own code.
"""


def students(teacher: str) -> tuple[Embedding, Mirror]:
    channels, width, narrowing, embedding, blocks, _ = NETWORKS[teacher]
    return Embedding(channels, width, embedding), Mirror(channels, narrowing, blocks)


def unlike(module: nn.Module, seed: int = 0) -> nn.Module:
    """With weights, norms and averages in which no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(0.5 + noise) if name.endswith(("running_var", "weight")) and value.dim() == 1 else value.add_(
                0.1 * (noise - 0.5)
            )
    return module


class Layer(nn.Module):
    """attentions: 1 of an encoder's layer, 2 of a decoder's, which has queries of its own."""

    def __init__(self, places: int, width: int, heads: int, inner: int, attentions: int) -> None:
        super().__init__()
        if attentions == 2:
            self.learned_embed = nn.Embedding(places, width)
        for name in ("self_attn", "multihead_attn")[:attentions]:
            setattr(self, name, nn.MultiheadAttention(width, heads))
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        for number in range(attentions + 1):
            setattr(self, f"norm{number + 1}", nn.LayerNorm(width))

    def forward(self, tokens: Tensor, memory: Tensor, place: Tensor, hidden: Tensor) -> Tensor:
        """(P, B, C) each but for place (P, 1, C)."""
        if hasattr(self, "learned_embed"):
            asking = self.learned_embed.weight[:, None].expand_as(tokens)
            read = self.self_attn(asking + place, memory + place, memory, attn_mask=hidden)[0]
            asking = self.norm1(asking + read)
            read = self.multihead_attn(asking + place, tokens + place, tokens, attn_mask=hidden)[0]
            asking, last = self.norm2(asking + read), self.norm3
        else:
            read = self.self_attn(tokens + place, tokens + place, tokens, attn_mask=hidden)[0]
            asking, last = self.norm1(tokens + read), self.norm2
        return last(asking + self.linear2(F.relu(self.linear1(asking))))


class Reconstruction(nn.Module):
    """UniAD's `reconstruction`, of a grid of places."""

    def __init__(self, features: int, settings: Any) -> None:
        super().__init__()
        self.grid, width = settings.grid, settings.channels
        size = (settings.grid**2, width, settings.heads, settings.feedforward)
        self.transformer = nn.Module()
        self.transformer.encoder, self.transformer.decoder = nn.Module(), nn.Module()
        for part, attentions in ((self.transformer.encoder, 1), (self.transformer.decoder, 2)):
            part.layers = nn.ModuleList(Layer(*size, attentions) for _ in range(settings.layers))
        self.transformer.decoder.norm = nn.LayerNorm(width)
        self.pos_embed = nn.Module()
        self.pos_embed.row_embed, self.pos_embed.col_embed = (nn.Embedding(self.grid, width // 2) for _ in range(2))
        self.input_proj, self.output_proj = nn.Linear(features, width), nn.Linear(width, features)
        index = torch.arange(self.grid**2)
        row, column, reach = index // self.grid, index % self.grid, settings.neighbours // 2
        self.hidden = ((row[:, None] - row).abs() <= reach) & ((column[:, None] - column).abs() <= reach)

    def forward(self, levels: list[Tensor], size: int) -> Tensor:
        """A map (B, H, W) of the levels of images."""
        grids = [F.interpolate(level, (self.grid, self.grid), mode="bilinear", align_corners=True) for level in levels]
        features = torch.cat(grids, dim=1)
        rows, columns = self.pos_embed.row_embed.weight, self.pos_embed.col_embed.weight
        place = torch.cat([columns.repeat(self.grid, 1), rows.repeat_interleave(self.grid, 0)], dim=1)[:, None]
        memory = self.input_proj(features.flatten(2).permute(2, 0, 1))
        for layer in self.transformer.encoder.layers:
            memory = layer(memory, memory, place, self.hidden)
        out = memory
        for layer in self.transformer.decoder.layers:
            out = layer(out, memory, place, self.hidden)
        rebuilt = self.output_proj(self.transformer.decoder.norm(out)).permute(1, 2, 0).reshape(features.shape)
        distance = (rebuilt - features).pow(2).sum(dim=1, keepdim=True).sqrt()
        return F.interpolate(distance, (size, size), mode="bilinear", align_corners=True)[:, 0]
