"""The metrics against scikit-learn, against naive oracles, and against what must not change them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mddbench.metrics.counts import area_under_pro, auroc, average_precision, count, f1_max
from mddbench.metrics.names import SEVEN
from mddbench.metrics.suite import evaluate, mean_over_categories

EXACT = 1e-12


def naive_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected regions by flood fill."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    regions = []
    while left:
        todo = [left.pop()]
        region = set(todo)
        while todo:
            y, x = todo.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            region |= near
            todo.extend(near)
        regions.append(region)
    return regions


def naive_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """PRO at every distinct threshold, one after the other; trapezoids up to the limit."""
    regions = [(index, region) for index, mask in enumerate(masks) for region in naive_regions(mask)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        hit = maps >= threshold
        rate = float(hit[~masks].sum() / (~masks).sum())
        overlap = np.mean([np.mean([hit[index][place] for place in region]) for index, region in regions])
        points.append((rate, float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit:
            end = min(x1, limit)
            height = y1 if x1 == end else y0 + (end - x0) / (x1 - x0) * (y1 - y0)
            area += (end - x0) * (y0 + height) / 2
    return area / limit


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, H, W) and masks with at least one defective and one normal pixel: random, tied, heavy-tailed, float16."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(2, 7)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks = generator.random(shape) < draw(st.sampled_from([0.05, 0.3, 0.7]))
    masks.flat[0], masks.flat[-1] = True, False
    noise = generator.normal(size=shape) + masks * draw(st.sampled_from([0.0, 1.0]))
    kind = draw(st.sampled_from(["plain", "ties", "tails", "constant", "half", "signs"]))
    maps = {
        "plain": noise,
        "ties": np.round(noise),
        "tails": np.exp(8 * noise),
        "constant": np.zeros(shape),
        "half": noise.astype(np.float16),
        "signs": np.sign(noise) * 0.0,
    }[kind]
    return maps, masks


@given(cases())
@settings(max_examples=150, deadline=None)
def test_pixel_metrics_equal_independent_references(case: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = case
    labels, scores = np.arange(len(maps)) % 2 == 0, maps.reshape(len(maps), -1).max(axis=1)
    found = evaluate(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
    truth, flat = masks.reshape(-1), maps.reshape(-1).astype(np.float64)
    precision, recall, _ = precision_recall_curve(truth, flat)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert found["p_auroc"] == pytest.approx(roc_auc_score(truth, flat), abs=EXACT)
    assert found["p_ap"] == pytest.approx(average_precision_score(truth, flat), abs=EXACT)
    assert found["p_f1max"] == pytest.approx(f1.max(), abs=EXACT)
    assert found["aupro"] == pytest.approx(naive_aupro(maps, masks), abs=EXACT)


@given(cases(), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_a_strictly_increasing_transform_changes_nothing(case: tuple[np.ndarray, np.ndarray], kind: type) -> None:
    maps, masks = case
    ranks = np.unique(maps, return_inverse=True)[1].reshape(maps.shape)
    labels = masks.any(axis=(1, 2))
    scores = maps.reshape(len(maps), -1).max(axis=1)
    plain = evaluate(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
    moved = evaluate(
        maps=(3.0 * ranks - 7.0).astype(kind),
        masks=masks,
        image_scores=np.unique(scores, return_inverse=True)[1],
        image_labels=labels,
    )
    np.testing.assert_equal(plain, moved)


@given(cases(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_order_of_images_changes_nothing(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    maps, masks = case
    labels, scores = masks.any(axis=(1, 2)), maps.reshape(len(maps), -1).mean(axis=1)
    order = np.random.default_rng(seed).permutation(len(maps))
    plain = evaluate(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
    mixed = evaluate(maps=maps[order], masks=masks[order], image_scores=scores[order], image_labels=labels[order])
    for key in SEVEN:
        assert mixed[key] == pytest.approx(plain[key], abs=EXACT, nan_ok=True)


def test_image_metrics_equal_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    labels = generator.random(200) < 0.4
    scores = np.round(generator.normal(size=200) + labels, 1)
    maps = np.broadcast_to(scores[:, None, None], (200, 2, 2))
    found = evaluate(maps=maps, masks=None, image_scores=scores, image_labels=labels)
    assert found["i_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)
    assert found["i_ap"] == pytest.approx(average_precision_score(labels, scores), abs=EXACT)
    assert [key for key in SEVEN if np.isnan(found[key])] == ["p_auroc", "p_ap", "p_f1max", "aupro"]


def test_values_computed_by_hand() -> None:
    # Scores 4 3 2 1, labels 1 0 1 0: three of four pairs are in order; precision 1, then 2/3 at the second hit.
    counts = count(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert auroc(counts) == 0.75
    assert average_precision(counts) == pytest.approx((1 + 2 / 3) / 2)
    assert f1_max(counts) == pytest.approx(4 / 5)


def test_pro_when_the_limit_is_hit_exactly() -> None:
    # Ten normal pixels; after the third the false-positive rate is 0.3 to the dot. One region of two pixels, one found
    # above all normals and one between the third and the fourth, which is beyond the limit.
    scores = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0.4, 5.5])
    labels = np.zeros(12, dtype=bool)
    labels[[0, 11]] = True
    counts = count(scores, labels, labels * 0.5)
    assert counts.fp[4] / counts.negatives == 0.3
    assert area_under_pro(counts) == pytest.approx(0.5, abs=EXACT)


def test_one_region_found_perfectly_and_not_at_all() -> None:
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, :2, :2] = True
    for sign, area in ((1.0, 1.0), (-1.0, 0.0)):
        found = evaluate(
            maps=sign * masks.astype(float) + np.zeros((1, 10, 10)),
            masks=masks,
            image_scores=np.array([1.0]),
            image_labels=np.array([True]),
        )
        assert found["aupro"] == pytest.approx(area, abs=EXACT)


def test_regions_touching_by_a_corner_are_one() -> None:
    masks = np.zeros((1, 4, 4), dtype=bool)
    masks[0, [0, 1], [0, 1]] = True
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0] = 1.0
    found = evaluate(maps=maps, masks=masks, image_scores=np.array([1.0]), image_labels=np.array([True]))
    assert found["aupro"] == pytest.approx(naive_aupro(maps, masks), abs=EXACT)
    assert len(naive_regions(masks[0])) == 1


@pytest.mark.parametrize("label", [True, False])
def test_one_kind_only_gives_nan_never_zero(label: bool) -> None:
    maps = np.random.default_rng(0).random((3, 4, 4))
    found = evaluate(
        maps=maps,
        masks=np.full((3, 4, 4), label),
        image_scores=maps.max(axis=(1, 2)),
        image_labels=np.full(3, label),
    )
    assert all(np.isnan(found[key]) for key in SEVEN)


def test_the_label_comes_from_the_data_set_not_from_the_mask() -> None:
    maps = np.array([np.full((2, 2), 2.0), np.full((2, 2), 1.0)])
    masks = np.zeros((2, 2, 2), dtype=bool)  # the defect vanished when the mask was made smaller
    found = evaluate(maps=maps, masks=masks, image_scores=np.array([2.0, 1.0]), image_labels=np.array([True, False]))
    assert found["i_auroc"] == 1.0


def test_faulty_input_is_named() -> None:
    maps = np.zeros((3, 2, 2))
    maps[1, 0, 0] = np.nan
    fine = {"masks": np.zeros((3, 2, 2), bool), "image_scores": np.zeros(3), "image_labels": np.zeros(3, bool)}
    with pytest.raises(ValueError, match="image 1: its map holds NaN"):
        evaluate(maps=maps, **fine)
    with pytest.raises(ValueError, match=r"expected masks of the maps' shape \(3, 2, 3\)"):
        evaluate(maps=np.zeros((3, 2, 3)), **fine)
    with pytest.raises(ValueError, match="found shapes"):
        evaluate(maps=np.zeros((2, 2, 2)), **fine)


def test_integers_are_numbers_too() -> None:
    scores, labels = np.array([0, 1, 200], dtype=np.uint8), np.array([False, False, True])
    assert auroc(count(scores, labels)) == 1.0


def test_infinity_is_the_largest_score() -> None:
    counts = count(np.array([np.inf, 1.0, -np.inf]), np.array([True, False, False]))
    assert auroc(counts) == 1.0


def test_the_mean_leaves_out_what_is_not_defined() -> None:
    full, partial = dict.fromkeys(SEVEN, 0.5), dict.fromkeys(SEVEN, float("nan")) | {"i_auroc": 1.0}
    means = mean_over_categories({"a": full, "b": partial})
    assert means["i_auroc"] == 0.75
    assert means["p_ap"] == 0.5
    assert means["mad"] == pytest.approx((0.75 + 6 * 0.5) / 7)
    assert np.isnan(mean_over_categories({"b": partial})["mad"])
