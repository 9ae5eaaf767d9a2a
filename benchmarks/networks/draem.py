"""DRAEM as a script would have it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.blending import blend, turned
from networks.base import Plain


def activated(*channels: int) -> nn.Sequential:
    layers = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class Restoring(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.one, self.two, self.four = activated(3, w, w), activated(w, 2 * w, 2 * w), activated(2 * w, 4 * w, 4 * w)
        self.eight, self.last = activated(4 * w, 8 * w, 8 * w), activated(8 * w, 8 * w, 8 * w)
        self.up_eight = activated(8 * w, 8 * w, 8 * w, 4 * w)
        self.up_four, self.up_two = activated(4 * w, 4 * w, 4 * w, 2 * w), activated(2 * w, 2 * w, 2 * w, w)
        self.up_one, self.colours = activated(w, w, w, w), nn.Conv2d(w, 3, 3, padding=1)
        self.halve = nn.MaxPool2d(2)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        halve, grow = self.halve, self.grow
        deep = self.last(halve(self.eight(halve(self.four(halve(self.two(halve(self.one(x)))))))))
        up = self.up_one(grow(self.up_two(grow(self.up_four(grow(self.up_eight(grow(deep))))))))
        return self.colours(up)


class Segmenting(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = (
            activated(6, w, w),
            activated(w, 2 * w, 2 * w),
            activated(2 * w, 4 * w, 4 * w),
        )
        self.down4, self.down5 = activated(4 * w, 8 * w, 8 * w), activated(8 * w, 8 * w, 8 * w)
        self.down6 = activated(8 * w, 8 * w, 8 * w)
        self.up5, self.up4, self.up3 = activated(8 * w, 8 * w), activated(8 * w, 4 * w), activated(4 * w, 2 * w)
        self.up2, self.up1 = activated(2 * w, w), activated(w, w)
        self.join5, self.join4 = activated(16 * w, 8 * w, 8 * w), activated(12 * w, 4 * w, 4 * w)
        self.join3, self.join2 = activated(6 * w, 2 * w, 2 * w), activated(3 * w, w, w)
        self.join1, self.classes = activated(2 * w, w, w), nn.Conv2d(w, 2, 3, padding=1)
        self.halve = nn.MaxPool2d(2)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(self.halve(one))
        three = self.down3(self.halve(two))
        four = self.down4(self.halve(three))
        five = self.down5(self.halve(four))
        up = self.join5(torch.cat([self.up5(self.grow(self.down6(self.halve(five)))), five], dim=1))
        up = self.join4(torch.cat([self.up4(self.grow(up)), four], dim=1))
        up = self.join3(torch.cat([self.up3(self.grow(up)), three], dim=1))
        up = self.join2(torch.cat([self.up2(self.grow(up)), two], dim=1))
        up = self.join1(torch.cat([self.up1(self.grow(up)), one], dim=1))
        return self.classes(up)


class PlainDRAEM(Plain):
    def __init__(self, teacher: Any, channels: tuple[int, ...], settings: Any, categories: int) -> None:
        super().__init__(*teacher)
        self.settings, self.pool = settings, nn.AvgPool2d(settings.pool, stride=1, padding=settings.pool // 2)
        self.restoring = Restoring(settings.reconstruction_width)
        self.segmenting = Segmenting(settings.segmentation_width)

    def similarity(self, one: Tensor, other: Tensor) -> Tensor:
        side = self.settings.window
        places = torch.arange(side, device=one.device) - side // 2
        weights = torch.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2)).to(one)
        kernel = (weights / weights.sum()).expand(3, 1, side, side)
        mean, mean_other, square, square_other, product = (
            F.conv2d(x, kernel, padding=side // 2, groups=3) for x in (one, other, one**2, other**2, one * other)
        )
        variances, covariance = square - mean**2 + square_other - mean_other**2, product - mean * mean_other
        lightness = (2 * mean * mean_other + 0.01**2) / (mean**2 + mean_other**2 + 0.01**2)
        return (lightness * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean()

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        drawn = self.settings.synthesis
        images = turned(images, drawn.turn_probability, drawn.turn_angle)
        abnormal, masks = blend(images, drawn)
        restored = self.restoring(abnormal)
        shares = self.segmenting(torch.cat([restored, abnormal], dim=1)).softmax(dim=1)
        smooth = self.settings.label_smoothing
        labels = F.one_hot(masks.long(), 2).movedim(3, 1).to(shares).clamp(smooth, 1 - smooth)
        right = (labels * shares).sum(dim=1) + smooth
        focal = -((1 - right) ** self.settings.focal_power * right.log()).mean()
        return F.mse_loss(restored, images) + 1 - self.similarity(restored, images) + focal

    def maps(self, images: Tensor) -> Tensor:
        return self.segmenting(torch.cat([self.restoring(images), images], dim=1)).softmax(dim=1)[:, 1]

    def scores(self, maps: Tensor) -> Tensor:
        return self.pool(maps[:, None]).flatten(1).max(dim=1).values
