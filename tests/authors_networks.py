"""The students of RD4AD and the transformer of UniAD with their authors' names, written naively from a description of them."""

from __future__ import annotations

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
