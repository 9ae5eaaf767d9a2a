"""Patches of simplex noise on images, drawn for a whole batch on the device.

Simplex noise has a random direction at each point of a lattice of tetrahedra.
Its value at a position is a sum over the lattice points within sqrt(2) of it.
The summand of a point at the offset d is (2 - |d|^2)^4 times the product of d with the point's direction.
The colours of a pixel are positions one behind the other, so neighbouring colours have similar noise.

The positions are the same for all images. So the lattice points and their weights are computed once for each size.
All numbers are drawn from torch's generator, so a seed decides them.

Source: Spencer, OpenSimplex noise, 2014. RD++ (Tien et al., CVPR 2023) adds it to images.
Published code leaves out some far points of the lattice, so its values differ by up to 0.0001 from the sum.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mddbench.settings import Count, Fraction, Positive, Strict

REFERENCE = 256
"""Side in pixels of the images for which the settings are given."""
COLOURS = 3
REACH = 2
"""Farthest steps along the lattice, from the cell of a position, at which a point can be within sqrt(2) of it."""
SCALE = 103.0
"""What brings the noise into about [-1, 1]."""


class NoiseSettings(Strict):
    """Settings of the noise. Lengths are given for images of 256 pixels, and scale with the images."""

    strength: Positive = Field(default=0.2, description="Factor of the noise that is added to images in [0, 1].")
    octaves: Annotated[int, Field(ge=1, le=16)] = Field(
        default=6, description="Number of noises that are added up. Each has half the wavelength of the one before."
    )
    persistence: Fraction = Field(
        default=0.6, description="Amplitude of a noise divided by that of the one with twice its wavelength."
    )
    wavelength: Positive = Field(default=32.0, description="Wavelength of the first noise, in pixels of 256.")
    sides: tuple[Count, Count] = Field(
        default=(10, 31), description="Least and greatest side of the patch, in pixels of 256. Both sides are drawn."
    )

    @model_validator(mode="after")
    def _sides_in_order(self) -> NoiseSettings:
        if not self.sides[0] <= self.sides[1] < REFERENCE:
            raise ValueError(f"sides {list(self.sides)}: expected least <= greatest < {REFERENCE}")
        return self


class Octave(NamedTuple):
    """One noise on a grid of positions, before directions are drawn.

    Attributes:
        points: Number of lattice points that matter.
        indices: (P, 3 K) indices of the components of directions that each of the P positions reads.
            The components of point q are 3 q, 3 q + 1 and 3 q + 2.
        weights: (P, 3 K) what these components are multiplied by; zeros where a position has fewer points.
    """

    points: int
    indices: Tensor
    weights: Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler ignores what is remembered below
def with_noise_patch(images: Tensor, settings: NoiseSettings) -> Tensor:
    """Add noise to one rectangle of each image. The result is not clamped.

    Args:
        images: (B, 3, H, W) in [0, 1].
        settings: Settings of the noise.

    Returns:
        (B, 3, H, W) images with noise.
    """
    count, _, height, width = images.shape
    device, scale = images.device, min(height, width) / REFERENCE
    least, greatest = (max(1, round(side * scale)) for side in settings.sides)
    noise = settings.strength * simplex_noise(count, greatest, scale, settings, images)
    shares = torch.rand(4, count, device=device)
    sides = [least + (share * (greatest - least + 1)).long().clamp_max(greatest - least) for share in shares[:2]]
    rows, inside_rows = _placed(height, sides[0], shares[2])
    columns, inside_columns = _placed(width, sides[1], shares[3])
    index = torch.arange(count, device=device)[:, None, None]
    placed = noise.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images + placed * inside


def simplex_noise(count: int, side: int, scale: float, settings: NoiseSettings, like: Tensor) -> Tensor:
    """Draw several octaves of simplex noise.

    Args:
        count: Number of fields.
        side: Side of the fields in pixels.
        scale: Side of the images divided by that for which the settings are given.
        settings: Settings of the noise.
        like: Gives type and device of the result.

    Returns:
        (count, 3, side, side) noise. One octave lies in about [-1, 1].
    """
    noise = torch.zeros(count, COLOURS * side**2, dtype=like.dtype, device=like.device)
    for number in range(settings.octaves):
        octave = octave_on_pixels(side, scale, settings.wavelength / 2**number, like.dtype, like.device)
        chosen = torch.randint(2 * COLOURS * 4, (count, octave.points), device=like.device)
        directions = _directions(like.dtype, like.device)[chosen]
        noise += settings.persistence**number * octave_noise(octave, directions)
    return noise.reshape(count, COLOURS, side, side)


def octave_noise(octave: Octave, directions: Tensor) -> Tensor:
    """Compute one noise from the directions at its lattice points.

    Args:
        octave: The positions' lattice points and weights.
        directions: (B, points, 3).

    Returns:
        (B, P) noise at each position.
    """
    components = directions.flatten(1).T.contiguous()  # a weighted sum of rows is ten times as fast as a gather
    return F.embedding_bag(octave.indices, components, per_sample_weights=octave.weights, mode="sum").T


@lru_cache(maxsize=64)
def octave_on_pixels(side: int, scale: float, wavelength: float, dtype: torch.dtype, device: torch.device) -> Octave:
    """Compute the lattice points and weights of one octave on a square of pixels in three colours.

    It is computed in double precision on the host, once.

    Args:
        side: Side of the square in pixels.
        scale: Side of the images divided by that for which the wavelength is given.
        wavelength: Wavelength in pixels of 256.
        dtype: Type of the weights.
        device: Device of the result.

    Returns:
        The octave, whose positions are ordered by colour, row and column.
    """
    pixels = torch.arange(side, dtype=torch.float64) / (scale * wavelength)
    colours = torch.arange(COLOURS, dtype=torch.float64) / wavelength
    z, y, x = torch.meshgrid(colours, pixels, pixels, indexing="ij")
    points, weights = lattice(torch.stack([x, y, z], dim=-1).reshape(-1, 3))
    near = weights.abs().sum(dim=2) > 0
    most = int(near.sum(dim=1).max())
    first = near.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most, None].expand(-1, -1, 3)
    points, weights = points.gather(1, first), weights.gather(1, first)
    known, indices = torch.unique(points.reshape(-1, 3), dim=0, return_inverse=True)
    components = COLOURS * indices.reshape(-1, most, 1) + torch.arange(COLOURS)
    return Octave(len(known), components.flatten(1).to(device), weights.flatten(1).to(device, dtype))


def lattice(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Find the lattice points around positions.

    The point (i, j, k) of the lattice lies at (i, j, k) + (i + j + k) / 3.

    Args:
        positions: (P, 3) in wavelengths.

    Returns:
        (P, M, 3) int64 coordinates i, j, k of points near each position, and (P, M, 3) what the noise multiplies
        their directions by. It is zero for points that are too far away.
    """
    base = (positions - positions.sum(dim=1, keepdim=True) / 6).floor().long()
    steps = torch.tensor(list(product(range(-REACH + 1, REACH + 1), repeat=3)), device=positions.device)
    points = base[:, None] + steps
    skew = points.sum(dim=2, keepdim=True).to(positions.dtype) / 3
    offsets = positions[:, None] - points - skew
    nearness = (2 - offsets.square().sum(dim=2, keepdim=True)).clamp_min(0)
    return points, nearness**4 * offsets / SCALE


def _placed(length: int, sides: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Draw where patches begin along an axis: at least one pixel from both ends, as in the authors' code.

    Args:
        length: Length of the axis in pixels.
        sides: (B,) int64, sides of the patches.
        shares: (B,) random numbers in [0, 1).

    Returns:
        (B, length) index of each pixel in the patch, in its range also outside of it, and (B, length) bool, True
        inside.
    """
    starts = 1 + (shares * (length - sides - 1)).long()
    places = torch.arange(length, device=sides.device) - starts[:, None]
    inside = (places >= 0) & (places < sides[:, None])
    return places * inside, inside


@lru_cache(maxsize=8)
def _directions(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the 24 directions: 11 along one axis and 4 along both others, with all signs; (24, 3)."""
    rows = [
        [sign * (11.0 if axis == main else 4.0) for axis, sign in enumerate(signs)]
        for main in range(COLOURS)
        for signs in product((-1.0, 1.0), repeat=COLOURS)
    ]
    return torch.tensor(rows, dtype=dtype, device=device)
