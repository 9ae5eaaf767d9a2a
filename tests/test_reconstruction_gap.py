"""Errors of rebuilt pixels against the side of a block: the numbers of the figure, and the figure."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from support import ROOT

SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "reconstruction_gap.py"))


def split_of(images: np.ndarray, masks: np.ndarray, anomalous: list[bool]) -> Any:
    return SimpleNamespace(images=images, masks=masks, samples=[SimpleNamespace(anomalous=each) for each in anomalous])


def test_errors_are_of_normal_images_and_of_defects_only() -> None:
    errors = np.arange(12.0).reshape(3, 2, 2)
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[2, 0, 1] = masks[2, 1, 1] = True
    masks[0] = True  # of a normal image: not looked at
    assert SCRIPT["mean_errors"](errors, masks, np.array([False, False, True])) == (np.arange(8).mean(), 10.0)
    assert np.isnan(SCRIPT["mean_errors"](errors, masks, np.array([False, False, False]))[1])


def test_a_model_that_rebuilds_grey_is_measured_by_hand() -> None:
    """Over categories and in parts; a category without defects counts for normal images only."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 40, 4, 4, 3), dtype=np.uint8)
    masks = generator.random((2, 40, 4, 4)) < 0.3
    splits = {
        "bolt": split_of(images[0], masks[0], [number % 2 == 0 for number in range(40)]),
        "nut": split_of(images[1], masks[1], [False] * 40),
    }
    data = SimpleNamespace(categories=("bolt", "nut"), test=SimpleNamespace(of=splits.__getitem__))

    def rebuilt(signed: Tensor) -> Tensor:
        return torch.zeros_like(signed)

    model = SimpleNamespace(finished=SimpleNamespace(detector=SimpleNamespace(rebuilt=rebuilt)))
    squares = ((images / 255 * 2 - 1) ** 2).mean(axis=-1)
    normal = (squares[0, 1::2].mean() + squares[1].mean()) / 2
    defects = squares[0, ::2][masks[0, ::2]].mean()
    assert SCRIPT["measured"](model, data) == pytest.approx((normal, defects), rel=1e-5)


@pytest.mark.renders
def test_the_figure_is_drawn(tmp_path: Path) -> None:
    SCRIPT["draw"]([(16, 0.03, 0.034), (4, 0.01, 0.02), (8, 0.02, 0.03)], tmp_path / "gap.png")
    with Image.open(tmp_path / "gap.png") as picture:
        assert picture.width > 1000
    assert (tmp_path / "gap.svg").is_file()
