"""What `--dry-run` makes of timed steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mddbench.batch import Batch
from mddbench.execution import estimate as module
from mddbench.execution.estimate import estimate
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import plan
from mddbench.progress import SilentReporter
from support import write_tree


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    root = write_tree(tmp_path / "tree", train=8)
    return RunOptions(tmp_path / "out", tmp_path / "cache", torch.device("cpu"), data_root=root)


def test_later_epochs_are_priced_with_remembered_features(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 training images in batches of 4, 12 test images, two seeds."""
    times = module._Times(
        5.0, 3.0, (0.5, 2.0), 0.5, 2**26, lambda images: images * 2**20, lambda images: (images * 2.0, 0.25)
    )
    monkeypatch.setattr(module, "_timed", lambda *_: times)
    cells = plan(["folder/rd4ad"], "named", (0, 1), {"epochs": 10, "batch_size": 4, "image_size": 64})
    (fits,) = estimate(cells, options, SilentReporter())
    assert (fits.train_images, fits.test_images) == (16, 12)
    assert fits.hours_range == pytest.approx((fits.hours / 2, fits.hours * 2))
    assert fits.hours == pytest.approx(2 * (4 * (5.0 + 9 * 3.0) + 12 * 0.75 + 16 * 2.0) / 3600)
    assert fits.step_seconds == 3.0
    assert fits.collected_mib == 16
    (too_large,) = estimate(cells, replace(options, feature_room=0.9), SilentReporter())
    assert too_large.hours == pytest.approx(2 * (4 * 10 * 5.0 + 12 * 0.75 + 16 * 2.0) / 3600)


def test_a_remembered_step_is_timed_without_the_teacher(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = []

    def step_seconds(_: object, batch: Batch) -> float:
        cached.append(batch.features is not None)
        return 1.0 if batch.features is not None else 2.0

    monkeypatch.setattr(module, "step_seconds", step_seconds)
    monkeypatch.setattr(module, "inference_seconds", lambda *_: 0.1)
    (cell,) = plan(["folder/rd4ad"], "named", (0,), {"image_size": 64, "batch_size": 4})
    found = module._timed(cell.experiment, options)
    assert (found.first, found.later, found.inference) == (2.0, 1.0, 0.1)
    assert set(cached) == {True, False}
    assert found.feature_bytes > 0


def test_what_grows_with_the_images_is_scaled_by_the_methods_own_law(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PatchCore's coreset grows with the square of the patches, its search with the bank; no time is measured here."""
    monkeypatch.setattr(module, "inference_seconds", lambda detector, *_: 0.1 + 1e-5 * len(detector.bank))
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(module, "step_seconds", lambda step, batch: (step(batch) and 1.0) or 1.0)
    (cell,) = plan(["folder/patchcore"], "named", (0,), {"image_size": 64, "batch_size": 4})
    found = module._timed(cell.experiment, options)
    bank = 0.1 * 4 * 8**2  # of a batch; rounded down there
    for batches in (1, 4, 16):
        finishing, longer = found.growing(4 * batches)
        assert finishing == pytest.approx(1.0 * (batches / module.MORE_BATCHES) ** 2)
        assert longer == pytest.approx(1e-5 * (batches - 1) * bank, rel=0.05)
