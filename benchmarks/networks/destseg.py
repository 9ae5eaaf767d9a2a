"""DeSTSeg as a script would have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.blending import blend
from networks.base import Plain


def convolved(channels: int, out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


class Basic(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, channels: int, out: int, stride: int = 1, bend: bool = True) -> None:
        super().__init__()
        self.first, self.second = convolved(channels, out, 3, stride), convolved(out, out)
        changes = stride > 1 or channels != out
        self.shortcut = convolved(channels, out, 1, stride) if changes else nn.Sequential()
        self.bend = bend

    def forward(self, x: Tensor) -> Tensor:
        summed = self.second(self.first(x).relu()) + self.shortcut(x)
        return summed.relu() if self.bend else summed


def pair(channels: int, out: int, stride: int = 1, bend: bool = True) -> nn.Sequential:
    return nn.Sequential(Basic(channels, out, stride), Basic(out, out, 1, bend))


class Denoising(nn.Module):
    """For a teacher whose first level has stride 4."""

    def __init__(self, channels: tuple[int, ...], bend: bool) -> None:
        super().__init__()
        c1, c2, c3 = channels
        c4 = 2 * c3
        self.stem = convolved(3, c1, 7, 2)
        self.down1, self.down2, self.down3, self.down4 = pair(c1, c1), pair(c1, c2, 2), pair(c2, c3, 2), pair(c3, c4, 2)
        self.up4, self.up3 = pair(c4, c4, bend=bend), pair(c4, c3, bend=bend)
        self.up2, self.up1 = pair(c3, c2, bend=bend), pair(c2, c1, bend=bend)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        deep = self.down4(self.down3(self.down2(self.down1(self.pool(self.stem(x).relu())))))
        three = self.up3(self.grow(self.up4(deep)))
        two = self.up2(self.grow(three))
        return [self.up1(self.grow(two)), two, three]


class Segmenting(nn.Module):
    def __init__(self, channels: int, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = pair(channels, width)
        self.whole = convolved(width, width, 1)
        self.parts = nn.ModuleList(convolved(width, width, dilation=dilation) for dilation in dilations)
        self.fuse = convolved((1 + len(dilations)) * width, width)
        self.after, self.last = convolved(width, width), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        whole = self.whole(x.mean(dim=(2, 3), keepdim=True)).relu()
        parts = [F.interpolate(whole, x.shape[2:]), *(part(x).relu() for part in self.parts)]
        return self.last(self.after(self.fuse(torch.cat(parts, dim=1)).relu()).relu())


class PlainDeSTSeg(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings = settings
        self.student = Denoising(channels, settings.rectified)
        self.head = Segmenting(sum(channels), settings.head_width, settings.dilations)

    def products(self, images: Tensor) -> Tensor:
        teacher, student = self.features(images), self.student((images - self.mean) / self.std)
        joined = []
        for one, other in zip(teacher, student, strict=True):
            product = -F.normalize(one, dim=1) * F.normalize(other, dim=1)
            joined.append(F.interpolate(product, teacher[0].shape[2:], mode="bilinear"))
        return torch.cat(joined, dim=1)

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        learns = progress < self.settings.denoising_share
        self.student.train(learns)
        abnormal, masks = blend(images, self.settings.synthesis)
        if learns:
            rebuilt = self.student((abnormal - self.mean) / self.std)
            pairs = zip(self.features(images), rebuilt, strict=True)
            return sum((1 - F.cosine_similarity(one, other)).flatten(1).mean(dim=1).sum() for one, other in pairs)
        with torch.no_grad():
            products = self.products(abnormal)
        probabilities = self.head(products).sigmoid()
        labels = F.interpolate(masks[:, None].to(products), probabilities.shape[2:], mode="bilinear") >= 0.5
        right = torch.where(labels, probabilities, 1 - probabilities)
        focal = -((1 - right) ** self.settings.focal_power) * right.clamp(min=1e-30).log()
        return (probabilities - labels.to(probabilities)).abs().mean() + focal.mean()

    def maps(self, images: Tensor) -> Tensor:
        return F.interpolate(self.head(self.products(images)).sigmoid(), images.shape[2:], mode="bilinear")[:, 0]

    def scores(self, maps: Tensor) -> Tensor:
        ordered = maps.flatten(1).sort(dim=1, descending=True).values
        return ordered[:, : round(self.settings.top * ordered.shape[1])].mean(dim=1)
