"""Speeds beside the plain way of doing the same, which is each group's reference, in one run. No ratio is asserted here.

Run: tox -e bench
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from compare import REFERENCE
from mddbench.data.dataset import open_dataset
from mddbench.data.images import decode_image
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.progress import SilentReporter
from references import drawn_maps
from support import write_tree

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def maps() -> Any:
    """40 maps of 128x128."""
    return drawn_maps(40, 128)["maps"]


@pytest.mark.benchmark(group="smoothing of 40 maps")
def test_smoothing_ours(benchmark: Any, maps: Any) -> None:
    values = torch.from_numpy(maps)
    benchmark(lambda: gaussian_smooth(values, 4.0))


@pytest.mark.benchmark(group="smoothing of 40 maps")
def test_smoothing_scipy_one_by_one(benchmark: Any, maps: Any) -> None:
    benchmark.extra_info["role"] = REFERENCE
    benchmark(lambda: [gaussian_filter(one, 4.0) for one in maps])


@pytest.mark.benchmark(group="reading 40 training images")
def test_reading_from_the_cache(benchmark: Any, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", train=20, size=240)
    open_dataset("folder", root, tmp_path / "cache", 128, SilentReporter())
    benchmark(lambda: np.array(open_dataset("folder", root, tmp_path / "cache", 128, SilentReporter()).train.images))


@pytest.mark.benchmark(group="reading 40 training images")
def test_reading_by_decoding(benchmark: Any, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", train=20, size=240)
    files = sorted(root.glob("*/train/good/*.png"))
    benchmark.extra_info["role"] = REFERENCE
    benchmark(lambda: [decode_image(file, 128) for file in files])
