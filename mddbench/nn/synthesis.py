"""Pseudo-anomalous twins of normal images, with exact masks, made for a whole batch on the device.

Three kinds of defect. 'perlin': a blob of smooth noise is filled with another texture, let through by a random share (DRAEM:
Zavrtanik et al., ICCV 2021; here without its downloads). 'cutpaste': a piece of the image appears somewhere else, its colours
changed; 'scar': the same with a long thin piece (CutPaste: Li et al., CVPR 2021). All draw from torch's generator, so a seed
decides them.

Ours, not theirs: the blob is what lies above a quantile of the noise, so that each image has a defect of a known share of its
area; textures come from other images of the batch or from noise unless a folder of pictures is given.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.perlin import perlin, turned
from mddbench.settings import Fraction, Strict

Kind = Literal["perlin", "cutpaste", "scar"]
Texture = Literal["images", "noise", "folder"]
KINDS: tuple[Kind, ...] = ("perlin", "cutpaste", "scar")
SCALES = (2, 4, 8, 16)
"""Noise cells along a side."""
GROUPS = 4
"""Numbers of cells in one batch."""


class SynthesisSettings(Strict):
    """kinds: drawn with equal chance for each image; textures: of 'perlin' defects, likewise: other images of
    the batch, noise, or pictures that a folder holds; area: least and greatest share of
    the image, drawn evenly on a logarithmic scale; let_through: the greatest share of the image under a texture;
    probability: of an image to get a defect at all; foreground: defects only where the image differs from its border.
    """

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    textures: Annotated[tuple[Texture, ...], Field(min_length=1)] = ("images", "noise")
    area: tuple[Fraction, Fraction] = (0.002, 0.1)
    let_through: Fraction = 0.8
    probability: Fraction = 1.0
    foreground: bool = False

    @model_validator(mode="after")
    def _area_in_order(self) -> SynthesisSettings:
        least, greatest = self.area
        if not 0.0 < least <= greatest < 1.0:
            raise ValueError(f"area {list(self.area)}: expected 0 < least <= greatest < 1")
        return self


def synthesise(
    images: Tensor, categories: Tensor, settings: SynthesisSettings, textures: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(abnormal images (B, 3, H, W) in [0, 1], masks (B, H, W) bool): equal to `images` wherever the mask is not set.

    images: (B, 3, H, W) in [0, 1]; categories: (B,), so that textures come from another one where the batch has one;
    textures: (B, 3, H, W) in [0, 1], a picture for each image, needed where the settings name 'folder'.
    """
    if textures is None and "folder" in settings.textures:
        raise ValueError("settings.textures names 'folder', but no textures were given")
    given, images = images, images.to(torch.get_default_dtype())  # in which the numbers are drawn
    pictures = images if textures is None else textures.to(images)
    abnormal, masks = images.clone(), torch.zeros_like(images[:, 0], dtype=torch.bool)
    kinds = torch.randint(len(settings.kinds), (len(images),))  # on the host, so that the device is not waited for
    for index, name in enumerate(settings.kinds):
        members = torch.nonzero(kinds == index)[:, 0].to(images.device)
        if len(members):
            if name == "perlin":
                fillings = _textures(images, categories, members, settings, pictures)
                abnormal[members], masks[members] = _textured(images[members], fillings, settings)
            else:
                abnormal[members], masks[members] = _pasted(images[members], settings, thin=name == "scar")
    if settings.foreground:
        masks &= foreground(images)
    masks &= (torch.rand(len(images), device=images.device) < settings.probability)[:, None, None]
    return torch.where(masks[:, None], abnormal.to(given), given), masks


def foreground(images: Tensor) -> Tensor:
    """(B, H, W) bool: where an image differs from the colour of its border by more than its mean difference, holes closed.

    All of the image where that is less than a tenth or more than nine tenths of it: then it has no background.
    """
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], dim=-1)
    distance = (images - border.median(dim=-1).values[..., None, None]).abs().mean(dim=1)
    differs = (distance > distance.mean(dim=(1, 2), keepdim=True)).float()[:, None]
    closed = -F.max_pool2d(-F.max_pool2d(differs, 7, 1, 3), 7, 1, 3)
    found = closed[:, 0] > 0.5
    share = found.float().mean(dim=(1, 2), keepdim=True)
    return found | (share < 0.1) | (share > 0.9)


def _textured(images: Tensor, fillings: Tensor, settings: SynthesisSettings) -> tuple[Tensor, Tensor]:
    """Images with another texture in the shape of a noise field above its quantile."""
    count, device = len(images), images.device
    noise = _fields(count, images)
    noise = turned(noise[:, None], math.pi * (2 * torch.rand(count, device=device) - 1))[:, 0]
    last = (_areas(count, settings, device) * noise[0].numel()).long().clamp(1, noise[0].numel() - 1)
    highest = noise.flatten(1).topk(max(2, int(settings.area[1] * noise[0].numel()) + 1), dim=1).values
    masks = noise > highest.gather(1, last[:, None])[:, :, None]
    through = settings.let_through * torch.rand(count, 1, 1, 1, device=device)
    return torch.lerp(fillings, images, through), masks


def _pasted(images: Tensor, settings: SynthesisSettings, thin: bool) -> tuple[Tensor, Tensor]:
    """A turned rectangle in each image, filled with what lies elsewhere in it, its colours changed."""
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
    """(count, H, W) noise in a few groups, each with a number of cells of its own, which is drawn on the host."""
    size = (images.shape[-2], images.shape[-1])
    groups = torch.randint(len(SCALES), (GROUPS, 2)).tolist()
    sizes = [len(part) for part in torch.arange(count).tensor_split(GROUPS)]
    fields = [
        perlin(members, size, (SCALES[down], SCALES[across]), images.device)
        for members, (down, across) in zip(sizes, groups, strict=True)
        if members
    ]
    return torch.cat(fields)[torch.randperm(count).to(images.device)]


def _areas(count: int, settings: SynthesisSettings, device: torch.device) -> Tensor:
    least, greatest = (math.log(share) for share in settings.area)
    return torch.exp(least + (greatest - least) * torch.rand(count, device=device))


def _textures(
    images: Tensor, categories: Tensor, members: Tensor, settings: SynthesisSettings, pictures: Tensor
) -> Tensor:
    """(members, 3, H, W) in [0, 1]: a turned and recoloured piece of another image of the batch or of the image's picture, or
    coloured noise.
    """
    count, device = len(members), images.device
    sources = torch.randint(len(settings.textures), (count,))  # on the host, as above
    textures = images.new_empty(count, *images.shape[1:])
    for number, source in enumerate(settings.textures):
        chosen = torch.nonzero(sources == number)[:, 0].to(device)
        if not len(chosen):
            continue
        asking = members[chosen]
        if source == "images":
            apart = torch.rand(len(chosen), len(images), device=device) + (categories[asking, None] != categories)
            textures[chosen] = _piece(images[apart.scatter(1, asking[:, None], -1.0).argmax(dim=1)])
        elif source == "folder":
            textures[chosen] = _piece(pictures[asking])
        else:
            layers = _fields(3 * len(chosen), images).reshape(len(chosen), 3, *images.shape[-2:])
            mixed = torch.einsum("bij,bjhw->bihw", torch.randn(len(chosen), 3, 3, device=device), layers)
            textures[chosen] = (torch.rand(len(chosen), 3, 1, 1, device=device) + 0.5 * mixed).clamp(0, 1)
    return textures


def _piece(images: Tensor) -> Tensor:
    """Images moved, turned and recoloured at random."""
    moved = _shifted(images, torch.rand(len(images), 2, device=images.device))
    pieces = turned(moved, 2 * math.pi * torch.rand(len(images), device=images.device))
    return _recoloured(pieces, strength=0.4)


def _shifted(images: Tensor, shares: Tensor) -> Tensor:
    """Images moved by shares (B, 2) of their height and width, coming in again at the other side."""
    (height, width), device = images.shape[-2:], images.device
    rows = (torch.arange(height, device=device) + (shares[:, 0] * height).long()[:, None]) % height
    columns = (torch.arange(width, device=device) + (shares[:, 1] * width).long()[:, None]) % width
    index = torch.arange(len(images), device=device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _recoloured(images: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and the colours' balance changed at random."""
    count, device = len(images), images.device
    scale = 1 + strength * (2 * torch.rand(count, 3, 1, 1, device=device) - 1)
    offset = strength * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
    return (images * scale + offset).clamp(0, 1)
