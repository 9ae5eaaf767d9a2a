"""Defects as DRAEM draws them: blobs of Perlin noise above a fixed threshold, filled with a blended texture.

In a blob, the image I becomes (1 - beta) T + beta I with a texture T. Beta is drawn anew for each image.
Here a blob may be of any size, and it may be empty. `synthesis` draws blobs of a known size.

Source: Zavrtanik et al., DRAEM, ICCV 2021, section 3.3, and the authors' code. DeSTSeg draws in the same way.
All numbers are drawn from torch's generator, so a seed decides them.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mddbench.nn.perlin import rotated, varied_perlin
from mddbench.nn.synthesis import Texture, draw_textures
from mddbench.nn.texture_changes import CHANGES, changed
from mddbench.settings import Fraction, Strict

Cells = Annotated[int, Field(ge=1, le=256)]


class BlendSettings(Strict):
    """Settings of blended defects."""

    textures: Annotated[tuple[Texture, ...], Field(min_length=1)] = Field(
        default=("images", "noise"),
        description="Textures of defects: other images of the batch, noise, or pictures from a folder (as the authors). "
        "One is drawn for each defect, all with the same probability.",
    )
    changes: Annotated[int, Field(ge=0, le=len(CHANGES))] = Field(
        default=0,
        description=f"Number of changes that each texture undergoes, drawn from {len(CHANGES)} changes of colour, "
        "sharpness and angle. 0 leaves textures as they are.",
    )
    cells: Annotated[tuple[Cells, ...], Field(min_length=1)] = Field(
        default=(1, 2, 4, 8, 16, 32),
        description="Possible numbers of noise cells along a side of the image. One is drawn for each side.",
    )
    threshold: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=0.5, description="A defect consists of the pixels where the noise is above this value."
    )
    let_through: Fraction = Field(
        default=0.8, description="Largest share of the original image that shows through the texture of a defect."
    )
    probability: Fraction = Field(default=1.0, description="Probability that an image gets a defect.")


# Not compiled: what is drawn decides what is computed, so each step would be compiled anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def blend(images: Tensor, settings: BlendSettings, textures: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw blended defects on normal images.

    Args:
        images: (B, 3, H, W) in [0, 1].
        settings: Settings of the defects.
        textures: (B, 3, H, W) in [0, 1], a picture for each image; needed if the settings name 'folder'.

    Returns:
        Abnormal images (B, 3, H, W) in [0, 1], and masks (B, H, W) bool, some of which may be empty.
        Outside of the mask an abnormal image equals the given image.

    Raises:
        ValueError: If the settings name 'folder' and there are no textures.
    """
    if textures is None and "folder" in settings.textures:
        raise ValueError("settings.textures names 'folder', but no textures were given")
    originals, images = images, images.to(torch.get_default_dtype())  # random numbers are drawn in this type
    count, device = len(images), images.device
    pictures = images if textures is None else textures.to(images)
    alike = torch.zeros(count, device=device)  # labels decide nothing here
    fillings = draw_textures(images, alike, torch.arange(count, device=device), settings.textures, pictures, whole=True)
    fillings = changed(fillings, settings.changes)
    masks = _blobs(images, settings)
    masks &= (torch.rand(count, device=device) < settings.probability)[:, None, None]
    abnormal = torch.lerp(fillings, images, settings.let_through * torch.rand(count, 1, 1, 1, device=device))
    return torch.where(masks[:, None], abnormal.to(originals), originals), masks


def turned(images: Tensor, probability: float, most: float) -> Tensor:
    """Rotate some of the images about their centres; what comes in from outside is black.

    Args:
        images: (B, 3, H, W) in [0, 1].
        probability: Probability that an image is rotated.
        most: Greatest angle in degrees. Angles are drawn evenly from both directions.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    count, device = len(images), images.device
    angles = math.radians(most) * (2 * torch.rand(count, device=device) - 1)
    chosen = torch.rand(count, device=device) < probability
    return torch.where(chosen[:, None, None, None], rotated(images, angles.to(images), "zeros"), images)


def _blobs(images: Tensor, settings: BlendSettings) -> Tensor:
    """Return (B, H, W) bool, True where rotated noise is above the threshold."""
    count, device = len(images), images.device
    numbers = torch.tensor(settings.cells)[torch.randint(len(settings.cells), (count, 2))].to(device)
    noise = varied_perlin(numbers, max(settings.cells), (images.shape[-2], images.shape[-1]))
    angles = math.pi / 2 * (2 * torch.rand(count, device=device) - 1)
    return rotated(noise[:, None], angles, "zeros")[:, 0] > settings.threshold
