"""Smooth random fields on the device, for masks and for textures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def perlin(count: int, size: tuple[int, int], cells: tuple[int, int], device: torch.device) -> Tensor:
    """Perlin noise (count, H, W), about [-1, 1], of `cells` (down, across) over the image; drawn from torch's generator.

    Source: Perlin, Improving Noise, SIGGRAPH 2002 (its fifth-degree fade). The blend of the four corners around a pixel is
    separable, so that a field is two products of small matrices; all fields of a call are made at once.
    """
    angles = 2 * torch.pi * torch.rand(count, cells[0] + 1, cells[1] + 1, device=device)
    fade_y, slope_y = _corners(size[0], cells[0], device)
    fade_x, slope_x = _corners(size[1], cells[1], device)
    return 2**0.5 * (slope_y @ angles.sin() @ fade_x.T + fade_y @ angles.cos() @ slope_x.T)


def _corners(pixels: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(fade, slope), (pixels, cells + 1) each: along one axis, how much each corner counts at each pixel, and that times the
    pixel's distance from the corner, in cells.
    """
    places = torch.arange(pixels, device=device)[:, None] * (cells / pixels)
    distance = places - torch.arange(cells + 1, device=device)
    near = (1 - distance.abs()).clamp_min(0)  # fades of both corners sum to 1: f(t) + f(1 - t) = 1
    fade = near**3 * (near * (6 * near - 15) + 10)
    return fade, fade * distance


def turned(fields: Tensor, angles: Tensor) -> Tensor:
    """Each of (B, C, H, W) turned about its centre by its angle (B,) in radians; what comes from outside is mirrored."""
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(fields.shape), align_corners=False)
    return F.grid_sample(fields, grid, padding_mode="reflection", align_corners=False)
