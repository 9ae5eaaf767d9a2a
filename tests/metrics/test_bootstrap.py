"""Bootstrap replicates against metrics of resampled images, computed in full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mddbench.metrics.bootstrap import confidence, draw
from mddbench.metrics.names import IMAGE_LEVEL, PIXEL_LEVEL, SEVEN
from mddbench.metrics.suite import CategoryMetrics, evaluate
from references import drawn_maps


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """Images whose scores have ties."""
    case = drawn_maps(30, 64, seed=4)
    return {**case, "image_scores": np.round(case["image_scores"], 1)}


def state_of(case: dict[str, np.ndarray], engine: str = "exact") -> CategoryMetrics:
    state = CategoryMetrics(engine)  # type: ignore[arg-type]
    state.update(**case)
    return state


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_replicates_equal_the_metrics_of_resampled_images(drawn: dict[str, np.ndarray], kind: type) -> None:
    case = {**drawn, "maps": drawn["maps"].astype(kind)}
    found = state_of(case).replicates(20, seed=7)
    (draws,) = draw(case["image_labels"], 20, seed=7)
    for sample, counts in enumerate(draws):
        chosen = np.repeat(np.arange(30), counts.astype(int))
        expected = evaluate(**{key: values[chosen] for key, values in case.items()})
        for key in IMAGE_LEVEL:
            assert found[key][sample] == pytest.approx(expected[key], abs=1e-12)
        for key in PIXEL_LEVEL:
            assert found[key][sample] == pytest.approx(expected[key], abs=2e-3)


def test_the_grid_costs_little_where_there_are_many_pixels() -> None:
    case = drawn_maps(40, 256)
    found = state_of(case).replicates(4, seed=2)
    (draws,) = draw(case["image_labels"], 4, seed=2)
    for sample, counts in enumerate(draws):
        chosen = np.repeat(np.arange(40), counts.astype(int))
        expected = evaluate(**{key: values[chosen] for key, values in case.items()})
        assert {key: found[key][sample] for key in SEVEN} == pytest.approx(expected, abs=5e-4)


def test_blocks_of_samples_are_put_together(drawn: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.metrics.bootstrap.BLOCK", 4)
    found = state_of(drawn).replicates(10, seed=0)
    assert {key: values.shape for key, values in found.items()} == dict.fromkeys(SEVEN, (10,))
    assert len(np.unique(found["aupro"])) == 10


def test_replicates_do_not_depend_on_batches(drawn: dict[str, np.ndarray]) -> None:
    state = CategoryMetrics()
    for start in range(0, 30, 8):
        state.update(**{key: values[start : start + 8] for key, values in drawn.items()})
    whole, batches = state_of(drawn).replicates(5, seed=1), state.replicates(5, seed=1)
    for key in SEVEN:
        np.testing.assert_array_equal(whole[key], batches[key])


def test_samples_keep_the_number_of_normal_and_defective_images() -> None:
    labels = np.arange(20) < 7
    (draws,) = draw(labels, 200, seed=0)
    assert (draws[:, labels].sum(axis=1) == 7).all()
    assert (draws[:, ~labels].sum(axis=1) == 13).all()
    assert draws.max() > 2
    np.testing.assert_array_equal(draws, next(draw(labels, 200, seed=0)))
    assert not np.array_equal(draws, next(draw(labels, 200, seed=1)))
    assert draws.mean(axis=0) == pytest.approx(np.ones(20), abs=0.3)


def test_intervals_of_an_image_metric_are_as_wide_as_theory_says() -> None:
    """For scores N(0, 1) and N(1, 1) the standard error of AUROC follows from its U-statistic (Hanley and McNeil, 1982)."""
    generator = np.random.default_rng(0)
    labels = np.arange(600) < 300
    scores = generator.normal(size=600) + labels
    area = evaluate(maps=scores[:, None, None], masks=None, image_scores=scores, image_labels=labels)["i_auroc"]
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 299 * (first - area**2) + 299 * (second - area**2)) / 300**2)
    case: dict[str, Any] = {
        "maps": scores[:, None, None],
        "masks": None,
        "image_scores": scores,
        "image_labels": labels,
    }
    low, high = confidence({"one": state_of(case).replicates(2000, seed=3)})["one"]["i_auroc"]
    assert low < area < high
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_the_mean_is_narrower_than_its_categories_and_leaves_out_what_is_not_defined(
    drawn: dict[str, np.ndarray],
) -> None:
    without = {**drawn, "masks": None}
    replicates = {
        "one": state_of(drawn).replicates(300, seed=0),
        "two": state_of(drawn).replicates(300, seed=1),
        "three": state_of(without).replicates(300, seed=2),  # type: ignore[arg-type]
    }
    found = confidence(replicates)

    def width(place: str, key: str) -> float:
        return found[place][key][1] - found[place][key][0]

    assert width("mean", "aupro") == pytest.approx(width("one", "aupro") / np.sqrt(2), rel=0.25)
    assert width("mean", "i_auroc") == pytest.approx(width("one", "i_auroc") / np.sqrt(3), rel=0.25)
    assert 0 < width("mean", "mad") < 0.1
    assert np.isnan(found["three"]["aupro"]).all()
    assert set(found["mean"]) == {*SEVEN, "mad"}


def test_what_is_not_defined_has_no_interval(drawn: dict[str, np.ndarray]) -> None:
    normal = {**drawn, "masks": np.zeros_like(drawn["masks"]), "image_labels": np.zeros(30, bool)}
    found = confidence({"one": state_of(normal).replicates(10, seed=0)})
    assert all(np.isnan(pair).all() for place in found.values() for pair in place.values())
    coarse = state_of(drawn, "histogram").replicates(10, seed=0)
    assert all(np.isnan(coarse[key]).all() for key in PIXEL_LEVEL)
    assert not any(np.isnan(coarse[key]).any() for key in IMAGE_LEVEL)
