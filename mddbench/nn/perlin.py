"""Smooth random fields, drawn on the device, for masks and for textures."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def perlin(count: int, size: tuple[int, int], cells: tuple[int, int], device: torch.device) -> Tensor:
    """Draw Perlin noise from torch's generator.

    The blend of the four corners around a pixel is separable. So a field is the sum of two products of small matrices.
    All fields of a call are computed at once.

    Args:
        count: Number of fields.
        size: Height H and width W in pixels.
        cells: Number of noise cells down and across the image.
        device: Device of the result.

    Returns:
        (count, H, W) noise, in about [-1, 1].

    Source: Perlin, Improving Noise, SIGGRAPH 2002 (its fifth-degree fade).
    """
    angles = 2 * torch.pi * torch.rand(count, cells[0] + 1, cells[1] + 1, device=device)
    fade_y, slope_y = _corners(size[0], cells[0], device)
    fade_x, slope_x = _corners(size[1], cells[1], device)
    return 2**0.5 * (slope_y @ angles.sin() @ fade_x.T + fade_y @ angles.cos() @ slope_x.T)


def varied_perlin(cells: Tensor, most: int, size: tuple[int, int]) -> Tensor:
    """Draw Perlin noise where each field has its own numbers of cells, from torch's generator.

    Args:
        cells: (count, 2) integers, the numbers of noise cells down and across each field.
        most: Greatest number that may occur in `cells`.
        size: Height H and width W in pixels.

    Returns:
        (count, H, W) noise, in about [-1, 1], of the default type.

    Source: as for `perlin`, which gives the same noise if all numbers of cells are equal.
    """
    angles = 2 * torch.pi * torch.rand(len(cells), most + 1, most + 1, device=cells.device)
    fade_y, slope_y = _varied_corners(size[0], cells[:, 0], most)
    fade_x, slope_x = _varied_corners(size[1], cells[:, 1], most)
    return 2**0.5 * (slope_y @ angles.sin() @ fade_x.mT + fade_y @ angles.cos() @ slope_x.mT)


def _varied_corners(pixels: int, cells: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Compute the same as `_corners` for several numbers of cells: (count, pixels, most + 1) each."""
    positions = torch.arange(pixels, device=cells.device)[:, None] * (cells[:, None, None] / pixels)
    distance = positions - torch.arange(most + 1, device=cells.device)
    return _influence(distance)


def _corners(pixels: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the influence of each corner on each pixel along one axis.

    Args:
        pixels: Number of pixels.
        cells: Number of noise cells.
        device: Device of the result.

    Returns:
        The weight of each corner at each pixel, and this weight times the pixel's distance from the corner in cells:
        (pixels, cells + 1) each.
    """
    positions = torch.arange(pixels, device=device)[:, None] * (cells / pixels)
    return _influence(positions - torch.arange(cells + 1, device=device))


def _influence(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the weights of corners at distances in cells, and these weights times the distances."""
    near = (1 - distance.abs()).clamp_min(0)  # fades of both corners sum to 1: f(t) + f(1 - t) = 1
    fade = near**3 * (near * (6 * near - 15) + 10)
    return fade, fade * distance


def rotated(fields: Tensor, angles: Tensor, outside: Literal["reflection", "zeros"] = "reflection") -> Tensor:
    """Rotate each field about its centre.

    Args:
        fields: (B, C, H, W) floats.
        angles: (B,) angles in radians.
        outside: What fills positions outside of a field: its reflection, or zeros.

    Returns:
        (B, C, H, W) rotated fields.
    """
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(fields.shape), align_corners=False)
    return F.grid_sample(fields, grid, padding_mode=outside, align_corners=False)
