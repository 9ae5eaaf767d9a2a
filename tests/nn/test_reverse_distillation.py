"""RD4AD's network, loss and map against the published sizes and against independent, naive versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from mddbench.baselines.rd4ad import RD4AD
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.reverse_distillation import Bottleneck, Decoder, distance_map, flat_cosine_distance
from mddbench.nn.smoothing import gaussian_smooth


def millions(module: nn.Module) -> float:
    return sum(value.numel() for value in module.parameters()) / 1e6


def test_parameter_counts_with_the_published_encoder() -> None:
    teacher = FrozenEncoder("wide_resnet50_2", (1, 2, 3))
    assert teacher.channels == (256, 512, 1024)
    assert millions(teacher) == pytest.approx(24.863, abs=1e-3)
    assert millions(Bottleneck(teacher.channels, 128)) == pytest.approx(58.885, abs=1e-3)
    assert millions(Bottleneck(teacher.channels, 64)) == pytest.approx(30.830, abs=1e-3)
    assert millions(Decoder(teacher.channels)) == pytest.approx(24.918, abs=1e-3)
    authors = RD4AD(teacher, RD4AD.Settings(), 15)
    assert millions(authors) == pytest.approx(108.665, abs=2e-3)
    ader = RD4AD(teacher, RD4AD.Settings(bottleneck_width=64), 15)
    assert millions(ader) == pytest.approx(80.610, abs=2e-3)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_any_encoder_with_three_levels(name: str, images: torch.Tensor) -> None:
    detector = RD4AD(FrozenEncoder(name, (1, 2, 3)), RD4AD.Settings(), 2).eval()
    assert detector.anomaly_maps(images).shape == (4, 64, 64)


@pytest.mark.parametrize(("name", "levels"), [("resnet18", (1, 2)), ("resnet18", (1, 2, 4))])
def test_other_pyramids_are_refused(name: str, levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected an encoder with three levels"):
        RD4AD(FrozenEncoder(name, levels), RD4AD.Settings(), 2)


def test_an_image_size_that_does_not_fit_is_said(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match="image_size 100 does not fit; use a multiple of 32"):
        RD4AD(encoder, RD4AD.Settings(), 2).eval().anomaly_maps(torch.rand(1, 3, 100, 100))


def pyramids(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, c, s, s, generator=generator) for c, s in ((4, 8), (6, 4), (8, 2))]


def test_the_loss_is_the_flattened_cosine_of_each_level() -> None:
    teacher, student = pyramids(0), pyramids(1)
    expected = 0.0
    for t, s in zip(teacher, student, strict=True):
        one = [
            a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(t.numpy(), s.numpy(), strict=True)
        ]
        expected += float(np.mean([1 - value for value in one]))
    assert float(flat_cosine_distance(teacher, student)) == pytest.approx(expected, abs=1e-6)
    assert float(flat_cosine_distance(teacher, teacher)) == pytest.approx(0.0, abs=1e-6)


def naive_resize(level: np.ndarray, size: int) -> np.ndarray:
    """Bilinear with the corners aligned, one pixel at a time."""
    height = len(level)
    result = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            fy, fx = y * (height - 1) / (size - 1), x * (height - 1) / (size - 1)
            y0, x0 = min(int(fy), height - 2), min(int(fx), height - 2)
            dy, dx = fy - y0, fx - x0
            top = level[y0, x0] * (1 - dx) + level[y0, x0 + 1] * dx
            bottom = level[y0 + 1, x0] * (1 - dx) + level[y0 + 1, x0 + 1] * dx
            result[y, x] = top * (1 - dy) + bottom * dy
    return result


def test_the_map_is_the_sum_of_resized_distances() -> None:
    teacher, student = pyramids(0), pyramids(1)
    found = distance_map(teacher, student, (16, 16)).numpy()
    for image in range(3):
        expected = np.zeros((16, 16))
        for t, s in zip(teacher, student, strict=True):
            a, b = t[image].numpy(), s[image].numpy()
            cosine = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
            expected += naive_resize(1 - cosine, 16)
        np.testing.assert_allclose(found[image], expected, atol=1e-5)


def test_mixed_precision_does_not_round_the_scores(encoder: FrozenEncoder, images: torch.Tensor) -> None:
    detector = RD4AD(encoder, RD4AD.Settings(), 2).eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = detector.anomaly_maps(images)
    assert maps.dtype == torch.float32
    assert len(maps.unique()) > 0.9 * maps.numel()


@pytest.mark.parametrize(("sigma", "shape"), [(4.0, (20, 33)), (1.5, (9, 9)), (4.0, (64, 64)), (0.0, (5, 5))])
def test_smoothing_is_scipys(sigma: float, shape: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    expected = np.stack([gaussian_filter(one.astype(np.float64), sigma) for one in maps]) if sigma else maps
    np.testing.assert_allclose(gaussian_smooth(torch.from_numpy(maps), sigma).numpy(), expected, atol=1e-6)
