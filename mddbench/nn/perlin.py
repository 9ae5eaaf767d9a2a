"""Smooth random fields on the device, for masks and for textures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def perlin(count: int, size: tuple[int, int], cells: tuple[int, int], device: torch.device) -> Tensor:
    """Perlin noise (count, H, W), about [-1, 1], of `cells` (down, across) over the image; drawn from torch's generator.

    Source: Perlin, Improving Noise, SIGGRAPH 2002 (its fifth-degree fade); all fields of a call are made at once.
    """
    (height, width), (down, across) = size, cells
    angles = 2 * torch.pi * torch.rand(count, down + 1, across + 1, device=device)
    gradients = torch.stack([torch.sin(angles), torch.cos(angles)], dim=1)
    rows = torch.arange(height, device=device) * (down / height)
    columns = torch.arange(width, device=device) * (across / width)
    row, column = rows.long(), columns.long()
    y, x = (rows - row)[:, None], (columns - column)[None, :]

    def corner(right: int, below: int) -> Tensor:
        near = gradients[:, :, row + below][:, :, :, column + right]
        return near[:, 0] * (y - below) + near[:, 1] * (x - right)

    fade_x, fade_y = (t**3 * (t * (6 * t - 15) + 10) for t in (x, y))
    above = torch.lerp(corner(0, 0), corner(1, 0), fade_x.expand(height, width))
    below = torch.lerp(corner(0, 1), corner(1, 1), fade_x.expand(height, width))
    return 2**0.5 * torch.lerp(above, below, fade_y.expand(height, width))


def turned(fields: Tensor, angles: Tensor) -> Tensor:
    """Each of (B, C, H, W) turned about its centre by its angle (B,) in radians; what comes from outside is mirrored."""
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(fields.shape), align_corners=False)
    return F.grid_sample(fields, grid, padding_mode="reflection", align_corners=False)
