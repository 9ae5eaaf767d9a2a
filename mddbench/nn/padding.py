"""Padding of strided convolutions, fixed as for one size of images.

TensorFlow pads a strided convolution by the size of what comes in ('same'): in EfficientNet-B4 a 5x5 at stride 2 gets 2 zeros
on each side of images of 380 pixels, of 256 pixels 1 before and 2 behind, which moves the features. Code that fixes the padding
once keeps that of the size it was made for; the EfficientNets of `efficientnet_pytorch` do.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError

NOWHERE = torch.device("meta:0")
"""PyTorch's device of shapes without values."""


class PaddedConv2d(nn.Conv2d):
    """A convolution of an image with zeros around it. margins: left, right, top, bottom."""

    margins: tuple[int, int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return F.conv2d(F.pad(x, self.margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def pad_as_for(backbone: nn.Module, size: int, name: str) -> None:
    """Pad each convolution that timm pads by size as it is padded when images are `size` pixels high and wide, whatever comes.

    name: of the encoder, for messages. Raises InputError if there is no such convolution, or something else that is padded so.
    """
    kinds = {type(part).__name__ for part in backbone.modules() if type(part).__name__.endswith("Same")}
    found = {place: part for place, part in backbone.named_modules() if isinstance(part, Conv2dSame)}
    others = sorted(kinds - {Conv2dSame.__name__})
    if others or not found:
        what = f"pads by size what cannot be fixed ({', '.join(others)})" if others else "pads nothing by size"
        raise InputError(f"encoder '{name}' {what}; remove encoder.padding_for")
    sizes = _sizes(backbone, size)
    for place, part in found.items():
        fixed = PaddedConv2d(
            part.in_channels, part.out_channels, part.kernel_size, part.stride, 0, part.dilation, part.groups
        )
        fixed.weight, fixed.bias = part.weight, part.bias
        fixed.margins = (*_margins(part, sizes[place][1], 1), *_margins(part, sizes[place][0], 0))
        parent, _, own = place.rpartition(".")
        setattr(backbone.get_submodule(parent), own, fixed)


def _sizes(backbone: nn.Module, size: int) -> dict[str, tuple[int, int]]:
    """Height and width of what comes into each part that is padded by size, of an image of a size."""
    seen: dict[str, tuple[int, int]] = {}

    def see(place: str, _: Any, inputs: tuple[Tensor, ...]) -> None:
        seen[place] = (inputs[0].shape[-2], inputs[0].shape[-1])

    shapes = deepcopy(backbone).to(NOWHERE).eval()  # computes nothing and takes no memory, whatever the size
    for place, part in shapes.named_modules():
        if isinstance(part, Conv2dSame):
            part.register_forward_pre_hook(partial(see, place))
    with torch.no_grad():
        shapes(torch.zeros(1, 3, size, size, device=NOWHERE))
    return seen


def _margins(part: nn.Conv2d, length: int, axis: int) -> tuple[int, int]:
    """Zeros before and behind along an axis, for one output every stride; the odd one behind."""
    stride, reach = part.stride[axis], part.dilation[axis] * (part.kernel_size[axis] - 1) + 1
    total = max((-(-length // stride) - 1) * stride + reach - length, 0)
    return total // 2, total - total // 2
