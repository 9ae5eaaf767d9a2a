"""Curves: their points are the metrics' own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from mddbench.metrics.curves import POINTS, precision_recall, region_overlap
from mddbench.metrics.steps import LIMIT, steps_of_items
from mddbench.metrics.suite import CategoryMetrics


def category(seed: int, levels: int, engine: str = "exact") -> tuple[CategoryMetrics, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    maps = generator.integers(0, levels, (4, 24, 24)).astype(np.float32)
    masks = np.zeros((4, 24, 24), dtype=bool)
    masks[2, 3:9, 4:8] = masks[3, 10:20, 2:5] = masks[3, 1:3, 15:22] = True
    maps[masks] += levels // 3
    metrics = CategoryMetrics(engine)  # type: ignore[arg-type]
    metrics.update(maps=maps, masks=masks, image_scores=maps.max(axis=(1, 2)), image_labels=masks.any(axis=(1, 2)))
    return metrics, maps, masks


@given(st.integers(0, 1000), st.sampled_from([2, 7, 1000]))
def test_precision_at_each_recall_is_a_point_of_scikit_learns_curve(seed: int, levels: int) -> None:
    metrics, maps, masks = category(seed, levels)
    recall, precision = metrics.curves()[0]
    expected_precision, expected_recall, _ = precision_recall_curve(masks.reshape(-1), maps.reshape(-1))
    for wanted, found in zip(recall, precision, strict=True):
        first = np.flatnonzero(expected_recall[:-1] >= wanted - 1e-12)[
            -1
        ]  # of rising thresholds the last that reaches it
        assert found == pytest.approx(expected_precision[first])


@given(st.integers(0, 1000), st.sampled_from([2, 7, 1000]))
def test_the_area_under_the_overlap_curve_is_aupro(seed: int, levels: int) -> None:
    metrics, _, _ = category(seed, levels)
    rate, overlap = metrics.curves()[1]
    assert rate[0] == 0
    assert rate[-1] == LIMIT
    assert (np.diff(overlap) >= -1e-12).all()
    area = np.sum(np.diff(rate) * (overlap[1:] + overlap[:-1]) / 2) / LIMIT
    assert area == pytest.approx(metrics.compute()["aupro"], abs=2 / POINTS)


def test_both_engines_draw_the_same_curves() -> None:
    exact, counted = category(3, 50)[0].curves(), category(3, 50, "histogram")[0].curves()
    np.testing.assert_allclose(exact[0], counted[0])
    np.testing.assert_allclose(exact[1], counted[1])


def test_what_is_not_defined_has_no_curve() -> None:
    steps = steps_of_items(np.array([1.0, 2.0]), np.array([True, True]))
    assert np.isnan(precision_recall(steps)).all()
    assert np.isnan(region_overlap(steps)).all()
    unmasked = CategoryMetrics()
    unmasked.update(maps=np.ones((2, 4, 4)), masks=None, image_scores=np.ones(2), image_labels=np.array([True, False]))
    assert np.isnan(unmasked.curves()[0]).all()
