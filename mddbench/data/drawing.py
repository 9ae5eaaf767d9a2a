"""Draws synthetic defects with exact masks: outside the mask the image is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Draw = Callable[[Image, np.random.Generator], tuple[Image, Mask]]
"""A function that draws one kind of defect into an image."""


def scratch(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """Draw a thin curved line, lighter or darker than its surroundings.

    Args:
        image: (H, W, 3) uint8.
        generator: The source of random numbers.

    Returns:
        The defective image (H, W, 3) uint8 and its mask (H, W) bool.
    """
    height, width = image.shape[:2]
    centre = generator.uniform(0.2, 0.8, 2) * (width, height)
    angle, length = generator.uniform(0.0, np.pi), generator.uniform(0.2, 0.5) * width
    half = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    bend = centre + generator.uniform(-0.25, 0.25) * length * np.array([-np.sin(angle), np.cos(angle)])
    t = np.linspace(0.0, 1.0, 4 * width)[:, None]
    curve = (1 - t) ** 2 * (centre - half) + 2 * t * (1 - t) * bend + t**2 * (centre + half)
    inside = (curve >= 0).all(axis=1) & (curve < (width, height)).all(axis=1)
    background = np.ones((height, width), dtype=bool)
    columns, rows = curve[inside].astype(int).T
    background[rows, columns] = False
    mask = ndimage.distance_transform_edt(background) <= generator.uniform(0.5, 1.5)
    return _shift(image, mask, generator, 30.0, 70.0), mask


def blob(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """Draw a patch with smooth edges, lighter or darker than the image.

    Args:
        image: (H, W, 3) uint8.
        generator: The source of random numbers.

    Returns:
        The defective image (H, W, 3) uint8 and its mask (H, W) bool.
    """
    mask = _patch(image.shape[:2], generator, 7.0, 15.0)
    return _shift(image, mask, generator, 25.0, 60.0), mask


def cut_paste(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """Copy a rectangle of the image to another place, turned by 90 or 180 degrees. The most visible of ten is taken.

    Args:
        image: (H, W, 3) uint8.
        generator: The source of random numbers.

    Returns:
        The defective image (H, W, 3) uint8 and its mask (H, W) bool.
    """
    height, width = image.shape[:2]
    candidates = []
    for _ in range(10):
        h, w = (int(side) for side in generator.integers(12, 30, 2))
        sy, ty = (int(y) for y in generator.integers(0, height - 30, 2))
        sx, tx = (int(x) for x in generator.integers(0, width - 30, 2))
        piece = np.rot90(image[sy : sy + h, sx : sx + w], int(generator.integers(1, 3)))
        mask = np.zeros((height, width), dtype=bool)
        mask[ty : ty + piece.shape[0], tx : tx + piece.shape[1]] = True
        pasted = image.copy()
        pasted[mask] = piece.reshape(-1, 3)
        candidates.append((pasted, mask))
    return max(candidates, key=lambda candidate: _change(image, *candidate))


def stain(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """Draw a transparent coloured patch with uneven edges.

    Args:
        image: (H, W, 3) uint8.
        generator: The source of random numbers.

    Returns:
        The defective image (H, W, 3) uint8 and its mask (H, W) bool.
    """
    mask = _patch(image.shape[:2], generator, 9.0, 22.0)
    colour = np.array([(120, 80, 30), (40, 60, 120), (60, 100, 50), (150, 40, 40)])[generator.integers(4)]
    strength = generator.uniform(0.25, 0.5)
    return _blend(image, mask, np.broadcast_to(colour, image.shape), strength), mask


def missing(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """Remove a patch: fill it with the mean colour of its surroundings and a little noise.

    The most visible of five patches is taken.

    Args:
        image: (H, W, 3) uint8.
        generator: The source of random numbers.

    Returns:
        The defective image (H, W, 3) uint8 and its mask (H, W) bool.
    """
    candidates = []
    for _ in range(5):
        mask = _patch(image.shape[:2], generator, 7.0, 14.0)
        ring = ndimage.binary_dilation(mask, iterations=4) & ~mask
        fill = image[ring].mean(axis=0) + generator.normal(0.0, 3.0, image.shape)
        candidates.append((_blend(image, mask, fill, 1.0), mask))
    return max(candidates, key=lambda candidate: _change(image, *candidate))


DEFECTS: dict[str, Draw] = {
    "blob": blob,
    "cut_paste": cut_paste,
    "missing": missing,
    "scratch": scratch,
    "stain": stain,
}


def _patch(shape: tuple[int, int], generator: np.random.Generator, smallest: float, largest: float) -> Mask:
    """A connected region with an uneven outline, whose mean radius is between `smallest` and `largest` pixels."""
    height, width = shape
    radius = generator.uniform(smallest, largest)
    cx, cy = generator.uniform(0.15, 0.85, 2) * (width, height)
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - cy, x - cx)
    outline = np.full(shape, radius)
    for wave in range(2, 6):
        outline += radius * generator.normal(0.0, 0.3 / wave) * np.cos(wave * angle + generator.uniform(0.0, 2 * np.pi))
    stretch = generator.uniform(0.7, 1.4)
    inside: Mask = np.hypot((x - cx) * stretch, (y - cy) / stretch) < np.maximum(outline, 2.0)
    return inside


def _shift(image: Image, mask: Mask, generator: np.random.Generator, least: float, most: float) -> Image:
    """The image made lighter or darker inside the mask by `least` to `most` grey levels."""
    sign = 1.0 if image[mask].mean() < 128 else -1.0  # away from the nearer end of the scale, mostly
    sign = sign if generator.random() < 0.75 else -sign
    return _blend(image, mask, image + sign * generator.uniform(least, most), 1.0)


def _blend(image: Image, mask: Mask, paint: NDArray[Any], strength: float) -> Image:
    """The image mixed with paint inside the mask; `strength` is the share of the paint, in [0, 1]."""
    mixed = (1.0 - strength) * image + strength * paint
    return np.where(mask[..., None], np.clip(np.rint(mixed), 0, 255), image).astype(np.uint8)


def _change(image: Image, defective: Image, mask: Mask) -> float:
    """The mean absolute change inside the mask, in grey levels."""
    return float(np.abs(defective[mask].astype(int) - image[mask]).mean())
