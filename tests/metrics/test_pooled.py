"""Metrics of all categories as one list, and at fixed rates, against naive counts of pairs and thresholds."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mddbench.metrics.pooled import KEYS, Images, count_pairs, joined, one_threshold, pooled_values
from mddbench.metrics.rates import fpr_at_tpr, presorted_bad, presorted_good, rate_values
from mddbench.metrics.steps import auroc, average_precision, f1_max, steps_of_items

EXACT = 1e-12


@st.composite
def cases(draw: st.DrawFn) -> list[Images]:
    """Up to five categories, each with its own scale: ties, constants, infinite scores; some with one kind of image."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["plain", "ties", "coarse", "constant", "infinite"]))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        labels = generator.random(draw(st.integers(1, 14))) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
        noise = generator.normal(size=len(labels)) + 1.2 * labels + draw(st.sampled_from([0.0, 1.5, -4.0]))
        scores = {
            "plain": noise,
            "ties": np.round(2 * noise) / 2,
            "coarse": np.sign(noise),
            "constant": np.zeros(len(labels)),
            "infinite": np.where(np.abs(noise) > 1.0, np.inf * np.sign(noise), noise),
        }[kind]
        found.append((scores.astype(draw(st.sampled_from([np.float32, np.float64]))), labels))
    return found


def naive_auroc(defective: np.ndarray, normal: np.ndarray) -> Fraction | None:
    pairs = [(x, y) for x in defective for y in normal]
    won = sum((Fraction(int(x > y)) + Fraction(int(x == y), 2) for x, y in pairs), Fraction(0))
    return won / len(pairs) if pairs else None


def naive_f1(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Fraction:
    tp = sum(bool(s >= threshold) and bool(y) for s, y in zip(scores, labels, strict=True))
    fp = sum(bool(s >= threshold) and not bool(y) for s, y in zip(scores, labels, strict=True))
    return Fraction(2 * tp, int(labels.sum()) + tp + fp)


def both_kinds(images: Images) -> bool:
    return bool(images[1].any()) and not images[1].all()


def same(value: float, expected: Fraction | float | None) -> bool:
    return math.isnan(value) if expected is None else abs(value - float(expected)) <= EXACT


@settings(max_examples=200, deadline=None)
@given(categories=cases())
def test_pairs_are_counted_as_one_counts_them_by_hand(categories: list[Images]) -> None:
    counts = count_pairs(categories)
    for row, (scores, labels) in enumerate(categories):
        for column, (others, other_labels) in enumerate(categories):
            assert same(counts.matrix[row, column], naive_auroc(scores[labels], others[~other_labels]))
    scores, labels = joined(categories)
    assert same(counts.pooled, naive_auroc(scores[labels], scores[~labels]))
    steps = steps_of_items(scores, labels)
    assert counts.pooled == pytest.approx(auroc(steps), abs=EXACT, nan_ok=True)
    values = pooled_values(categories)
    assert tuple(values) == KEYS
    assert values["ap_pooled"] == pytest.approx(average_precision(steps), abs=EXACT, nan_ok=True)
    assert values["f1max_pooled"] == pytest.approx(f1_max(steps), abs=EXACT, nan_ok=True)


@settings(max_examples=200, deadline=None)
@given(categories=cases())
def test_within_and_across_make_up_the_pooled_auroc(categories: list[Images]) -> None:
    counts = count_pairs(categories)
    total, inner = int(counts.pairs.sum()), int(np.trace(counts.pairs))
    if not total:
        assert math.isnan(counts.pooled)
        return
    parts = ((inner, counts.within), (total - inner, counts.across))
    assert all(math.isnan(value) == (weight == 0) for weight, value in parts)
    assert sum(weight / total * value for weight, value in parts if weight) == pytest.approx(counts.pooled, abs=EXACT)
    weights = counts.pairs / total
    defined = counts.pairs > 0
    assert float(np.sum(weights[defined] * counts.matrix[defined])) == pytest.approx(counts.pooled, abs=EXACT)


@settings(max_examples=300, deadline=None)
@given(categories=cases())
def test_one_threshold_is_the_largest_with_the_best_pooled_f1(categories: list[Images]) -> None:
    found = one_threshold(categories)
    scores, labels = joined(categories)
    if not both_kinds((scores, labels)):
        assert math.isnan(found.threshold)
        assert math.isnan(found.f1)
        assert math.isnan(found.gap)
        return
    thresholds = sorted({float(score) for score in scores[labels]})
    best = max(naive_f1(scores, labels, threshold) for threshold in thresholds)
    assert found.threshold == max(t for t in thresholds if naive_f1(scores, labels, t) == best)
    complete = [images for images in categories if both_kinds(images)]
    if not complete:
        assert math.isnan(found.f1)
        return
    shared = [naive_f1(*images, found.threshold) for images in complete]
    own = [max(naive_f1(*images, float(score)) for score in images[0]) for images in complete]
    assert same(found.f1, sum(shared, Fraction(0)) / len(shared))
    assert same(found.gap, sum(own, Fraction(0)) / len(own) - sum(shared, Fraction(0)) / len(shared))
    assert found.gap >= 0, "not even by rounding"


@settings(max_examples=200, deadline=None)
@given(categories=cases())
def test_rates_are_those_of_a_search_over_all_thresholds(categories: list[Images]) -> None:
    scores, labels = joined(categories)
    if not both_kinds((scores, labels)):
        assert all(math.isnan(value) for value in rate_values(scores, labels).values())
        return
    thresholds = [*sorted({float(score) for score in scores}), None]  # None: no image is found
    points = []
    for threshold in thresholds:
        found = scores >= threshold if threshold is not None else np.zeros(len(scores), dtype=bool)
        points.append((int((found & labels).sum()), int((found & ~labels).sum())))
    positives, negatives = int(labels.sum()), int((~labels).sum())
    for percent in (95, 98):
        enough = [fp for tp, fp in points if 100 * tp >= percent * positives]
        assert same(fpr_at_tpr(scores, labels, percent), Fraction(min(enough), negatives))
    assert presorted_good(scores, labels) == 1 - fpr_at_tpr(scores, labels, 98)
    for percent in (2, 10, 40):
        hits = [tp for tp, fp in points if 100 * fp <= percent * negatives]
        assert same(presorted_bad(scores, labels, percent), Fraction(max(hits), positives))


def test_numbers_of_images_are_rounded_without_error() -> None:
    """0.95 x 20 is 19 in integers, whatever it is in floating point."""
    labels = np.arange(40) >= 20
    scores = np.concatenate([np.arange(20) - 0.5, np.arange(20.0)])
    assert fpr_at_tpr(scores, labels, 95) == 18 / 20, "the 19th largest of 20 is 1: all normal ones from 1.5 on"
    for count in range(1, 400):
        defective = np.arange(float(count))
        both = np.concatenate([defective, defective])
        rate = fpr_at_tpr(both, np.arange(2 * count) >= count, 95)
        assert rate == math.ceil(Fraction(95 * count, 100)) / count


def test_few_normal_images_allow_no_false_alarm() -> None:
    labels = np.arange(40) >= 20
    scores = np.concatenate([np.linspace(0, 1, 20), np.linspace(0.5, 1.5, 20)])
    assert presorted_bad(scores, labels) == float(np.mean(scores[labels] > 1.0))
    assert presorted_bad(np.repeat(scores, 5), np.repeat(labels, 5)) == float(np.mean(scores[labels] > 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_scales_that_move_apart_cost_what_is_pooled_and_nothing_else(seed: int) -> None:
    """Each category keeps its separation while its scale moves by 0, 0.5, 1 and 2 deviations of normal scores."""
    generator = np.random.default_rng(seed)
    counts, moves = (40, 100), generator.normal(size=15)
    labels = np.arange(sum(counts)) >= counts[0]
    drawn = [generator.normal(size=len(labels)) + 2.3 * labels for _ in moves]
    macro, pooled, within, f1, gap = [], [], [], [], []
    for apart in (0.0, 0.5, 1.0, 2.0):
        categories = [(scores + apart * move, labels) for scores, move in zip(drawn, moves, strict=True)]
        macro.append(np.mean([auroc(steps_of_items(*images)) for images in categories]))
        values = pooled_values(categories)
        pooled.append(values["auroc_pooled"])
        within.append(values["auroc_within"])
        f1.append(values["f1_one"])
        gap.append(values["f1_gap"])
    assert macro == pytest.approx([macro[0]] * 4, abs=EXACT)
    assert within == pytest.approx([within[0]] * 4, abs=EXACT)
    assert all(before > after for before, after in pairwise(pooled))
    assert all(before > after for before, after in pairwise(f1))
    assert gap == sorted(gap)
