"""Drawn defects: exact masks, seeds, shares, and the noise that shapes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mddbench.errors import InputError
from mddbench.nn.perlin import perlin, rotated
from mddbench.nn.synthesis import KINDS, SynthesisSettings, foreground, synthesise
from mddbench.settings import validated


@pytest.fixture
def photographs() -> Tensor:
    """Smooth colour fields, 12 of them."""
    torch.manual_seed(0)
    return (0.5 + 0.3 * perlin(36, (64, 64), (4, 4), torch.device("cpu")).reshape(12, 3, 64, 64)).clamp(0, 1)


def made(images: Tensor, seed: int = 1, **settings: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return synthesise(images, torch.arange(len(images)) % 3, SynthesisSettings(**settings))


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_mask_marks_is_changed(photographs: Tensor, kind: Any) -> None:
    before = photographs.clone()
    abnormal, masks = made(photographs, kinds=(kind,))
    torch.testing.assert_close(photographs, before)
    outside = ~masks[:, None].expand_as(abnormal)
    assert torch.equal(abnormal[outside], photographs[outside])
    assert float(abnormal.min()) >= 0
    assert float(abnormal.max()) <= 1
    assert masks.dtype == torch.bool
    changed = ((abnormal - photographs).abs().amax(dim=1) > 1e-3) & masks
    assert float(changed.sum() / masks.sum()) > 0.9
    assert int(masks.flatten(1).any(dim=1).sum()) == 12


def test_a_seed_decides_everything(photographs: Tensor) -> None:
    for one, other in zip(made(photographs, 4), made(photographs, 4), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(made(photographs, 4)[1], made(photographs, 5)[1])


def test_the_share_of_the_image_is_what_was_asked_for(photographs: Tensor) -> None:
    _, masks = made(photographs.repeat(8, 1, 1, 1), kinds=("perlin",), area=(0.01, 0.05))
    shares = masks.float().mean(dim=(1, 2))
    assert float(shares.min()) > 0.009
    assert float(shares.max()) < 0.051
    assert float(shares.std()) > 0.005


def test_probability_spares_images(photographs: Tensor) -> None:
    many = photographs.repeat(20, 1, 1, 1)
    abnormal, masks = made(many, probability=0.5)
    spared = ~masks.flatten(1).any(dim=1)
    assert 0.4 < float(spared.float().mean()) < 0.6
    assert torch.equal(abnormal[spared], many[spared])
    assert not made(many, probability=0.0)[1].any()


@pytest.mark.parametrize("textures", [("images",), ("noise",)])
def test_a_batch_of_one_image_has_textures_too(photographs: Tensor, textures: Any) -> None:
    abnormal, masks = made(photographs[:1], kinds=("perlin",), textures=textures)
    assert masks.any()
    assert torch.isfinite(abnormal).all()


def test_textures_come_from_another_category() -> None:
    images = torch.tensor([0.1, 0.1, 0.9])[:, None, None, None].expand(3, 3, 32, 32).contiguous()
    torch.manual_seed(0)
    settings = SynthesisSettings(kinds=("perlin",), textures=("images",), let_through=0.0)
    abnormal, masks = synthesise(images, torch.tensor([0, 0, 1]), settings)
    marked = abnormal.mean(dim=1)[0][masks[0]]
    assert float(marked.min()) > 0.3, "recoloured, but from the bright image of the other category"


def test_foreground_is_what_differs_from_the_border() -> None:
    images = torch.full((2, 3, 64, 64), 0.2)
    images[0, :, 16:48, 16:48] = 0.8
    found = foreground(images)
    assert bool(found[0, 20:44, 20:44].all())
    assert not found[0, :8].any()
    assert bool(found[1].all()), "an image without a background is foreground everywhere"
    _, masks = made(images[:1].repeat(16, 1, 1, 1), foreground=True, area=(0.05, 0.2))
    assert masks.any()
    assert not (masks & ~found[:1]).any()


def test_perlin_equals_a_loop() -> None:
    torch.manual_seed(3)
    field = perlin(1, (12, 8), (3, 2), torch.device("cpu"))[0].numpy()
    torch.manual_seed(3)
    angles = (2 * math.pi * torch.rand(1, 4, 3)).numpy()[0]
    for row in range(12):
        for column in range(8):
            y, x = row * 3 / 12, column * 2 / 8
            top, left = int(y), int(x)
            dot = {
                (dy, dx): math.sin(angles[top + dy, left + dx]) * (y - top - dy)
                + math.cos(angles[top + dy, left + dx]) * (x - left - dx)
                for dy in (0, 1)
                for dx in (0, 1)
            }
            fy, fx = (t**3 * (t * (6 * t - 15) + 10) for t in (y - top, x - left))
            above = dot[0, 0] + fx * (dot[0, 1] - dot[0, 0])
            below = dot[1, 0] + fx * (dot[1, 1] - dot[1, 0])
            assert field[row, column] == pytest.approx(math.sqrt(2) * (above + fy * (below - above)), abs=1e-5)


def test_turning_by_a_right_angle_is_a_rotation() -> None:
    field = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    quarter = rotated(field, torch.tensor([math.pi / 2]))
    np.testing.assert_allclose(quarter[0, 0].numpy(), torch.rot90(field[0, 0]).numpy(), atol=1e-5)


def test_textures_come_from_each_images_own_picture() -> None:
    images = torch.full((6, 3, 32, 32), 0.5)
    pictures = torch.tensor([0.05, 0.95]).repeat(3)[:, None, None, None].expand(6, 3, 32, 32)
    torch.manual_seed(0)
    settings = SynthesisSettings(kinds=("perlin",), textures=("folder",), let_through=0.0, area=(0.1, 0.2))
    abnormal, masks = synthesise(images, torch.zeros(6, dtype=torch.int64), settings, pictures)
    marked = [float(abnormal[index, :, masks[index]].mean()) for index in range(6)]
    assert max(marked[0::2]) < 0.5 < min(marked[1::2])


@pytest.mark.parametrize("area", [[0.1, 1.0], [0.1, 0.002], [0.0, 0.1]])
def test_an_area_that_cannot_be_drawn_is_refused(area: list[float]) -> None:
    with pytest.raises(InputError, match="expected 0 < least <= greatest < 1"):
        validated(SynthesisSettings, {"area": area}, "test")


def test_the_smallest_area_is_a_pixel(photographs: Tensor) -> None:
    _, masks = made(photographs, kinds=("perlin",), area=(1e-5, 1e-4))
    assert int(masks.sum(dim=(1, 2)).min()) == 1


def test_a_folders_textures_must_be_given(photographs: Tensor) -> None:
    with pytest.raises(ValueError, match="no textures were given"):
        made(photographs, textures=("folder",))
