"""Padding of strided convolutions, fixed as for images of one size.

TensorFlow pads a strided convolution by the size of its input ('same').
For example, EfficientNet-B4 has a 5x5 convolution with stride 2.
For images of 380 pixels it gets 2 zeros on each side. For 256 pixels it gets 1 zero before and 2 after.
This moves the features.

Some code computes the padding once, and keeps it for images of all sizes.
The EfficientNets of `efficientnet_pytorch` do so.
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

META = torch.device("meta:0")
"""PyTorch's device for tensors that have shapes but no values."""


class PaddedConv2d(nn.Conv2d):
    """A convolution with a fixed number of zeros on each side of its input.

    Attributes:
        margins: Number of zeros at the left, right, top and bottom.
    """

    margins: tuple[int, int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve (B, C, H, W) to (B, C', H', W')."""
        return F.conv2d(F.pad(x, self.margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def pad_as_for(backbone: nn.Module, size: int, name: str) -> None:
    """Fix the padding of all convolutions that timm pads by the size of their input.

    They are then padded for images of any size as timm pads them for one size.

    Args:
        backbone: timm's model, changed in place.
        size: Height and width of the images in pixels.
        name: Name of the encoder, for messages.

    Raises:
        InputError: If there is no such convolution, or another kind of layer is padded by size.
    """
    kinds = {type(module).__name__ for module in backbone.modules() if type(module).__name__.endswith("Same")}
    convolutions = {path: module for path, module in backbone.named_modules() if isinstance(module, Conv2dSame)}
    other_kinds = sorted(kinds - {Conv2dSame.__name__})
    if other_kinds or not convolutions:
        fault = (
            f"has layers whose padding cannot be fixed ({', '.join(other_kinds)})"
            if other_kinds
            else "has no convolution whose padding depends on the image size"
        )
        raise InputError(f"encoder '{name}' {fault}; remove encoder.padding_for")
    sizes = _input_sizes(backbone, size)
    for path, module in convolutions.items():
        padded = PaddedConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            module.stride,
            0,
            module.dilation,
            module.groups,
        )
        padded.weight, padded.bias = module.weight, module.bias
        padded.margins = (*_margins(module, sizes[path][1], 1), *_margins(module, sizes[path][0], 0))
        parent, _, attribute = path.rpartition(".")
        setattr(backbone.get_submodule(parent), attribute, padded)


def _input_sizes(backbone: nn.Module, size: int) -> dict[str, tuple[int, int]]:
    """Return the height and width of the input of each Conv2dSame, for images of `size` pixels."""
    sizes: dict[str, tuple[int, int]] = {}

    def record(path: str, _: Any, inputs: tuple[Tensor, ...]) -> None:
        sizes[path] = (inputs[0].shape[-2], inputs[0].shape[-1])

    shapes_only = deepcopy(backbone).to(META).eval()  # computes nothing and takes no memory, for any size
    for path, module in shapes_only.named_modules():
        if isinstance(module, Conv2dSame):
            module.register_forward_pre_hook(partial(record, path))
    with torch.no_grad():
        shapes_only(torch.zeros(1, 3, size, size, device=META))
    return sizes


def _margins(convolution: nn.Conv2d, length: int, axis: int) -> tuple[int, int]:
    """Return the zeros before and after along an axis, for one output at every stride; an odd zero goes after."""
    stride = convolution.stride[axis]
    reach = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1) + 1
    total = max((-(-length // stride) - 1) * stride + reach - length, 0)
    return total // 2, total - total // 2
