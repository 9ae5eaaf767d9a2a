"""Speeds beside the plain way of doing the same, in one run. Ratios are printed by the benchmark table; none is asserted.

Run: tox -e bench
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mddbench.data.dataset import open_dataset
from mddbench.data.images import decode_image
from mddbench.metrics.suite import evaluate
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.progress import SilentReporter
from support import write_tree

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """40 maps of 128x128: smooth noise, a raised square in 70 % of them."""
    generator = np.random.default_rng(0)
    maps = gaussian_filter(generator.normal(size=(40, 128, 128)), (0, 4, 4)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    for index in range(28):
        y, x = generator.integers(0, 100, 2)
        masks[index, y : y + 20, x : x + 20] = True
    maps[masks] += 0.1
    return {"maps": maps, "masks": masks, "image_scores": maps.max(axis=(1, 2)), "image_labels": masks.any(axis=(1, 2))}


@pytest.mark.benchmark(group="seven metrics of 40 maps")
def test_metrics_ours(benchmark: Any, case: dict[str, Any]) -> None:
    benchmark(lambda: evaluate(**case))


@pytest.mark.benchmark(group="seven metrics of 40 maps")
def test_metrics_scikit_learn_without_aupro(benchmark: Any, case: dict[str, Any]) -> None:
    truth, scores = case["masks"].reshape(-1), case["maps"].reshape(-1)

    def three() -> None:
        roc_auc_score(truth, scores)
        average_precision_score(truth, scores)
        precision_recall_curve(truth, scores)

    benchmark(three)


@pytest.mark.benchmark(group="smoothing of 40 maps")
def test_smoothing_ours(benchmark: Any, case: dict[str, Any]) -> None:
    maps = torch.from_numpy(case["maps"])
    benchmark(lambda: gaussian_smooth(maps, 4.0))


@pytest.mark.benchmark(group="smoothing of 40 maps")
def test_smoothing_scipy_one_by_one(benchmark: Any, case: dict[str, Any]) -> None:
    benchmark(lambda: [gaussian_filter(one, 4.0) for one in case["maps"]])


@pytest.mark.benchmark(group="reading 40 training images")
def test_reading_from_the_cache(benchmark: Any, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", train=20, size=240)
    open_dataset("folder", root, tmp_path / "cache", 128, SilentReporter())
    benchmark(lambda: np.array(open_dataset("folder", root, tmp_path / "cache", 128, SilentReporter()).train.images))


@pytest.mark.benchmark(group="reading 40 training images")
def test_reading_by_decoding(benchmark: Any, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", train=20, size=240)
    files = sorted(root.glob("*/train/good/*.png"))
    benchmark(lambda: [decode_image(file, 128) for file in files])
