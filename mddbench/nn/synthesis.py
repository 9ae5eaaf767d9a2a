"""Pseudo-anomalous twins of normal images, with exact masks, drawn for a whole batch on the device.

There are three kinds of defect:

- 'perlin': a blob of smooth noise is filled with another texture. A random share of the image shows through.
  Source: DRAEM (Zavrtanik et al., ICCV 2021), here without its downloads.
- 'cutpaste': a piece of the image appears somewhere else, with changed colours.
  Source: CutPaste (Li et al., CVPR 2021).
- 'scar': the same with a long thin piece. Source: as for 'cutpaste'.

All numbers are drawn from torch's generator, so a seed decides them.

Two things differ from the sources. First, the blob consists of the pixels above a quantile of the noise.
So the defect of each image has a known share of its area.
Second, textures come from other images of the batch or from noise, unless a folder of pictures is given.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.perlin import perlin, rotated
from mddbench.settings import Fraction, Strict

Kind = Literal["perlin", "cutpaste", "scar"]
Texture = Literal["images", "noise", "folder"]
KINDS: tuple[Kind, ...] = ("perlin", "cutpaste", "scar")
SCALES = (2, 4, 8, 16)
"""Possible numbers of noise cells along a side."""
GROUPS = 4
"""Number of groups of a batch. Each group has its own numbers of noise cells."""


class SynthesisSettings(Strict):
    """Settings of the pseudo-anomalous defects."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = Field(
        default=KINDS, description="Kinds of defect. One is drawn for each image, all with the same probability."
    )
    textures: Annotated[tuple[Texture, ...], Field(min_length=1)] = Field(
        default=("images", "noise"),
        description=(
            "Textures of 'perlin' defects: other images of the batch, noise, or pictures from a folder. "
            "One is drawn for each defect, all with the same probability."
        ),
    )
    area: tuple[Fraction, Fraction] = Field(
        default=(0.002, 0.1),
        description="Least and greatest area of a defect as shares of the image. Drawn evenly on a logarithmic scale.",
    )
    let_through: Fraction = Field(
        default=0.8, description="Largest share of the original image that shows through the texture of a defect."
    )
    probability: Fraction = Field(default=1.0, description="Probability that an image gets a defect.")
    foreground: bool = Field(
        default=False, description="Whether defects occur only where the image differs from its border."
    )

    @model_validator(mode="after")
    def _area_in_order(self) -> SynthesisSettings:
        least, greatest = self.area
        if not 0.0 < least <= greatest < 1.0:
            raise ValueError(f"area {list(self.area)}: expected 0 < least <= greatest < 1")
        return self


def synthesise(
    images: Tensor, categories: Tensor, settings: SynthesisSettings, textures: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw defects on normal images.

    Args:
        images: (B, 3, H, W) in [0, 1].
        categories: (B,) category of each image. Textures come from another category if the batch has one.
        settings: Settings of the defects.
        textures: (B, 3, H, W) in [0, 1], a picture for each image; needed if the settings name 'folder'.

    Returns:
        Abnormal images (B, 3, H, W) in [0, 1], and masks (B, H, W) bool.
        Outside of the mask an abnormal image equals the given image.

    Raises:
        ValueError: If the settings name 'folder' and there are no textures.
    """
    if textures is None and "folder" in settings.textures:
        raise ValueError("settings.textures names 'folder', but no textures were given")
    originals, images = images, images.to(torch.get_default_dtype())  # random numbers are drawn in this type
    pictures = images if textures is None else textures.to(images)
    abnormal, masks = images.clone(), torch.zeros_like(images[:, 0], dtype=torch.bool)
    kinds = torch.randint(len(settings.kinds), (len(images),))  # on the host, to avoid waiting for the device
    for index, name in enumerate(settings.kinds):
        members = torch.nonzero(kinds == index)[:, 0].to(images.device)
        if len(members):
            if name == "perlin":
                fillings = draw_textures(images, categories, members, settings.textures, pictures)
                abnormal[members], masks[members] = _textured(images[members], fillings, settings)
            else:
                abnormal[members], masks[members] = _pasted(images[members], settings, thin=name == "scar")
    if settings.foreground:
        masks &= foreground(images)
    masks &= (torch.rand(len(images), device=images.device) < settings.probability)[:, None, None]
    return torch.where(masks[:, None], abnormal.to(originals), originals), masks


def foreground(images: Tensor) -> Tensor:
    """Find the foreground of images.

    A pixel is foreground if it differs from the colour of the image's border by more than the mean difference.
    Holes are closed.
    If this is less than a tenth or more than nine tenths of the image, there is no background.
    Then the whole image is foreground.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B, H, W) bool, True for the foreground.
    """
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], dim=-1)
    distance = (images - border.median(dim=-1).values[..., None, None]).abs().mean(dim=1)
    differs = (distance > distance.mean(dim=(1, 2), keepdim=True)).float()[:, None]
    closed = -F.max_pool2d(-F.max_pool2d(differs, 7, 1, 3), 7, 1, 3)
    masks = closed[:, 0] > 0.5
    share = masks.float().mean(dim=(1, 2), keepdim=True)
    return masks | (share < 0.1) | (share > 0.9)


def _textured(images: Tensor, fillings: Tensor, settings: SynthesisSettings) -> tuple[Tensor, Tensor]:
    """Return fillings blended with the images, and masks of noise fields above a quantile."""
    count, device = len(images), images.device
    noise = _fields(count, images)
    noise = rotated(noise[:, None], math.pi * (2 * torch.rand(count, device=device) - 1))[:, 0]
    last = (_areas(count, settings, device) * noise[0].numel()).long().clamp(1, noise[0].numel() - 1)
    highest = noise.flatten(1).topk(max(2, int(settings.area[1] * noise[0].numel()) + 1), dim=1).values
    masks = noise > highest.gather(1, last[:, None])[:, :, None]
    let_through = settings.let_through * torch.rand(count, 1, 1, 1, device=device)
    return torch.lerp(fillings, images, let_through), masks


def _pasted(images: Tensor, settings: SynthesisSettings, thin: bool) -> tuple[Tensor, Tensor]:
    """Return shifted and recoloured images, and masks of one rotated rectangle in each."""
    count, (height, width), device = len(images), images.shape[-2:], images.device
    low, high = (0.02, 0.1) if thin else (0.3, 1.0)
    ratio = low + (high - low) * torch.rand(count, device=device)
    long = (_areas(count, settings, device) / ratio).sqrt().clamp(max=0.8)
    half = torch.stack([long, long * ratio], dim=1) / 2
    centre = 0.1 + 0.8 * torch.rand(count, 2, device=device)
    angle = math.pi * torch.rand(count, device=device)
    y = ((torch.arange(height, device=device) + 0.5) / height)[None, :, None] - centre[:, 0, None, None]
    x = ((torch.arange(width, device=device) + 0.5) / width)[None, None, :] - centre[:, 1, None, None]
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    across, along = cosine * y - sine * x, cosine * x + sine * y
    masks = (along.abs() <= half[:, 0, None, None]) & (across.abs() <= half[:, 1, None, None].clamp(min=0.5 / height))
    shift = 0.15 + 0.7 * torch.rand(count, 2, device=device)
    return _recoloured(_shifted(images, shift), strength=0.2), masks


def _fields(count: int, images: Tensor) -> Tensor:
    """Return (count, H, W) noise in GROUPS groups, each with its own numbers of cells, drawn on the host."""
    size = (images.shape[-2], images.shape[-1])
    groups = _drawn_pairs(len(SCALES), GROUPS)
    sizes = [len(members) for members in torch.arange(count).tensor_split(GROUPS)]
    fields = [
        perlin(number, size, (SCALES[down], SCALES[across]), images.device)
        for number, (down, across) in zip(sizes, groups, strict=True)
        if number
    ]
    return torch.cat(fields)[torch.randperm(count).to(images.device)]


def _drawn_pairs(end: int, count: int) -> list[list[int]]:
    """Return `count` pairs of random integers from 0 to `end` - 1, drawn on the host."""
    # Each is read by itself: up to torch 2.9 at least, compiling takes what `tolist` gives for unknown sizes, and fails.
    return [[int(number) for number in pair] for pair in torch.randint(end, (count, 2))]


def _areas(count: int, settings: SynthesisSettings, device: torch.device) -> Tensor:
    """Return (count,) areas of defects, as shares of an image."""
    least, greatest = (math.log(share) for share in settings.area)
    return torch.exp(least + (greatest - least) * torch.rand(count, device=device))


def draw_textures(
    images: Tensor,
    categories: Tensor,
    members: Tensor,
    kinds: tuple[Texture, ...],
    pictures: Tensor,
    whole: bool = False,
) -> Tensor:
    """Draw a texture for each image that needs one.

    A texture is coloured noise, or a rotated and recoloured piece of a picture.
    This picture is another image of the batch, or the one in `pictures`.

    Args:
        images: (B, 3, H, W) in [0, 1].
        categories: (B,) category of each image. Pictures of another category are taken if the batch has one.
        members: (members,) indices of the images that need a texture.
        kinds: Kinds of texture. One is drawn for each member, all with the same probability.
        pictures: (B, 3, H, W) in [0, 1], a picture for each image.
        whole: True to use `pictures` as they are.

    Returns:
        (members, 3, H, W) textures in [0, 1].
    """
    count, device = len(members), images.device
    sources = torch.randint(len(kinds), (count,))  # on the host, as in `synthesise`
    textures = images.new_empty(count, *images.shape[1:])
    for number, source in enumerate(kinds):
        chosen = torch.nonzero(sources == number)[:, 0].to(device)
        if not len(chosen):
            continue
        targets = members[chosen]
        if source == "images":
            # The image with the highest rank is used.
            # Images of other categories rank above those of the same category, and the image itself ranks last.
            ranks = torch.rand(len(chosen), len(images), device=device) + (categories[targets, None] != categories)
            textures[chosen] = _pieces(images[ranks.scatter(1, targets[:, None], -1.0).argmax(dim=1)])
        elif source == "folder":
            textures[chosen] = pictures[targets] if whole else _pieces(pictures[targets])
        else:
            layers = _fields(3 * len(chosen), images).reshape(len(chosen), 3, *images.shape[-2:])
            mixed = torch.einsum("bij,bjhw->bihw", torch.randn(len(chosen), 3, 3, device=device), layers)
            textures[chosen] = (torch.rand(len(chosen), 3, 1, 1, device=device) + 0.5 * mixed).clamp(0, 1)
    return textures


def _pieces(images: Tensor) -> Tensor:
    """Return images shifted, rotated and recoloured at random."""
    shifted = _shifted(images, torch.rand(len(images), 2, device=images.device))
    pieces = rotated(shifted, 2 * math.pi * torch.rand(len(images), device=images.device))
    return _recoloured(pieces, strength=0.4)


def _shifted(images: Tensor, shares: Tensor) -> Tensor:
    """Return images shifted by shares (B, 2) of their height and width, wrapped around at the edges."""
    (height, width), device = images.shape[-2:], images.device
    rows = (torch.arange(height, device=device) + (shares[:, 0] * height).long()[:, None]) % height
    columns = (torch.arange(width, device=device) + (shares[:, 1] * width).long()[:, None]) % width
    index = torch.arange(len(images), device=device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _recoloured(images: Tensor, strength: float) -> Tensor:
    """Return images whose brightness, contrast and colour balance are changed at random."""
    count, device = len(images), images.device
    scale = 1 + strength * (2 * torch.rand(count, 3, 1, 1, device=device) - 1)
    offset = strength * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
    return (images * scale + offset).clamp(0, 1)
