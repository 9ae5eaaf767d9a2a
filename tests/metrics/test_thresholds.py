"""Thresholds from normal images alone: against naive computations, and their promise in a simulation."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from mddbench.metrics.thresholds import (
    PERCENTS,
    PIXEL_RATE,
    PixelCounts,
    PixelSummary,
    conformal,
    image_values,
)
from mddbench.runs.thresholds import fewest_images
from references import drawn_maps

SCORES = st.lists(st.floats(-5, 5, width=32).map(lambda value: round(value, 1)), min_size=1, max_size=150)


@given(SCORES, st.sampled_from([1, 2, 5, 10, 20, 50]))
@settings(max_examples=200, deadline=None)
def test_the_conformal_threshold_is_the_ranked_score(scores: list[float], percent: int) -> None:
    found = conformal(np.array(scores), percent)
    rank = ceil((len(scores) + 1) * (1 - Fraction(percent, 100)))
    if len(scores) < Fraction(100, percent) - 1:
        assert found is None
    else:
        assert found == sorted(scores)[rank - 1]
        assert sum(score > found for score in scores) <= percent / 100 * (len(scores) + 1)
    assert (found is None) == (len(scores) < fewest_images(percent))


def test_as_many_images_are_needed_as_the_paper_says() -> None:
    assert [fewest_images(percent) for percent in (5, 1, 10, 3)] == [19, 99, 9, 33]
    assert PERCENTS == (5, 1)


@pytest.mark.parametrize(("count", "percent"), [(19, 5), (40, 5), (133, 5), (99, 1), (250, 1)])
@pytest.mark.parametrize("shape", ["normal", "heavy tails"])
def test_false_alarms_stay_at_the_wanted_share_on_average(count: int, percent: int, shape: str) -> None:
    """The share over many draws of the held-out images lies between alpha - 1 / (n + 1) and alpha."""
    generator, rounds = np.random.default_rng(count), 4000
    draw = generator.standard_normal if shape == "normal" else generator.standard_cauchy
    alarms = [float(np.mean(draw(50) > conformal(draw(count), percent))) for _ in range(rounds)]
    rate, error = float(np.mean(alarms)), 4 * float(np.std(alarms)) / np.sqrt(rounds)
    alpha = percent / 100
    assert alpha - 1 / (count + 1) - error <= rate <= alpha + error


def test_one_image_fewer_than_needed_could_not_keep_the_promise() -> None:
    """The highest of 18 scores is exceeded with probability 1/19, more than 5 %: so there is no threshold."""
    generator = np.random.default_rng(0)
    exceeded = generator.random(400_000) > generator.random((400_000, 18)).max(axis=1)
    assert exceeded.mean() > 0.0515
    assert conformal(generator.random(18), 5) is None


@pytest.mark.parametrize("kind", ["float32", "float64", "ties", "far from zero"])
def test_pixel_thresholds_are_those_of_all_pixels_at_once(kind: str) -> None:
    maps = drawn_maps(9, 64)["maps"]
    maps = {
        "float32": maps,
        "float64": maps.astype(np.float64),
        "ties": np.round(maps, 1),
        "far from zero": maps + np.float32(1000),
    }[kind]
    summary = PixelSummary(maps.size)
    for start in range(0, len(maps), 4):
        summary.add(maps[start : start + 4])
    found, pixels = summary.thresholds(), np.sort(maps.reshape(-1))[::-1].astype(np.float64)
    allowed = int(PIXEL_RATE * len(pixels))
    assert found["quantile"] == pixels[allowed]
    assert np.count_nonzero(pixels > found["quantile"]) <= allowed
    assert found["sigma"] == pytest.approx(pixels.mean() + 3 * pixels.std(), rel=1e-12)


def test_of_a_normal_distribution_both_rules_give_the_same() -> None:
    maps = np.random.default_rng(0).normal(5.0, 2.0, (40, 200, 200))
    summary = PixelSummary(maps.size)
    summary.add(maps)
    found = summary.thresholds()
    assert found["quantile"] == pytest.approx(11.0, abs=0.05)
    assert found["sigma"] == pytest.approx(11.0, abs=0.05)


def test_infinite_scores_give_no_finite_threshold_and_a_wrong_count_is_an_error() -> None:
    summary = PixelSummary(2 * 16)
    summary.add(np.full((1, 4, 4), np.inf))
    with pytest.raises(ValueError, match="32 pixels were announced, 16 were added"):
        summary.thresholds()
    summary.add(np.zeros((1, 4, 4)))
    assert not np.isfinite(summary.thresholds()["sigma"])


def test_rates_and_f1_are_those_of_a_naive_count() -> None:
    case = drawn_maps(30, 48, seed=2)
    maps, masks, labels, scores = (case[name] for name in ("maps", "masks", "image_labels", "image_scores"))
    maps = np.round(maps, 1)  # so that scores tie with the thresholds
    scores = maps.max(axis=(1, 2))
    thresholds = {(5, "one"): float(np.median(scores)), (1, "each"): float(scores.max())}
    found = image_values(scores, labels, thresholds)
    for (percent, scope), threshold in thresholds.items():
        end = f"{percent:02d}_{scope}"
        alarms = [bool(score > threshold) for score in scores]
        normal = [alarm for alarm, label in zip(alarms, labels, strict=True) if not label]
        defective = [alarm for alarm, label in zip(alarms, labels, strict=True) if label]
        assert found[f"fpr_{end}"] == sum(normal) / len(normal)
        assert found[f"tpr_{end}"] == sum(defective) / len(defective)
        assert found[f"f1_{end}"] == pytest.approx(f1_score(labels, alarms, zero_division=0), abs=1e-12)
        assert found[f"fpr_error_{end}"] == abs(sum(normal) / len(normal) - percent / 100)
    rules = {("quantile", "one"): float(np.quantile(maps, 0.98, method="lower")), ("sigma", "each"): 1.5}
    counts = PixelCounts(rules)
    for start in range(0, 30, 7):
        part = slice(start, start + 7)
        counts.add(maps[part], masks[part], labels[part])
    values = counts.values()
    for (rule, scope), threshold in rules.items():
        detected = maps.astype(np.float64) > threshold
        assert values[f"seg_f1_{rule}_{scope}"] == pytest.approx(f1_score(masks.ravel(), detected.ravel()), abs=1e-12)
        of_images = f1_score(labels, detected.any(axis=(1, 2)))
        assert values[f"class_f1_{rule}_{scope}"] == pytest.approx(of_images, abs=1e-12)


def test_what_is_not_defined_is_nan_and_without_masks_there_is_no_seg_f1() -> None:
    normal = np.zeros(3, dtype=bool)
    found = image_values(np.arange(3.0), normal, {(5, "one"): 5.0})
    assert np.isnan([found["tpr_05_one"], found["f1_05_one"]]).all()
    assert found["fpr_05_one"] == 0.0
    assert np.isnan(image_values(np.arange(3.0), ~normal, {(5, "one"): 5.0})["fpr_05_one"])
    counts = PixelCounts({("sigma", "one"): 0.5})
    counts.add(np.ones((3, 4, 4)), None, ~normal)
    assert counts.values() == {"class_f1_sigma_one": 1.0}


def test_a_threshold_is_not_rounded_to_the_scores_precision() -> None:
    """Half a step of float32 above the score: rounded to float32 it would be the score itself, or the next one."""
    score = np.float32(0.1)
    above = (float(score) + float(np.nextafter(score, np.float32(1)))) / 2
    scores, labels = np.array([np.nextafter(score, np.float32(1)), score]), np.array([True, False])
    found = image_values(scores, labels, {(5, "one"): above})
    assert (found["tpr_05_one"], found["fpr_05_one"]) == (1.0, 0.0)
