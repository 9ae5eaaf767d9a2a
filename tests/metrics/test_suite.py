"""The metrics against scikit-learn, against naive oracles, and against what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from mddbench.metrics.names import SEVEN
from mddbench.metrics.steps import Steps, area_under_pro, auroc, average_precision, f1_max, steps_of_items
from mddbench.metrics.suite import BrokenScoreError, CategoryMetrics, evaluate, mean_over_categories
from references import naive_aupro, naive_regions, sklearn_f1_max, sorted_aupro

EXACT = 1e-12


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
    assert found["p_auroc"] == pytest.approx(roc_auc_score(truth, flat), abs=EXACT)
    assert found["p_ap"] == pytest.approx(average_precision_score(truth, flat), abs=EXACT)
    assert found["p_f1max"] == pytest.approx(sklearn_f1_max(truth, flat), abs=EXACT)
    assert found["aupro"] == pytest.approx(naive_aupro(maps, masks), abs=EXACT)
    assert found["aupro"] == pytest.approx(sorted_aupro(maps.astype(np.float64), masks), abs=EXACT)


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
    steps = steps_of_items(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert auroc(steps) == 0.75
    assert average_precision(steps) == pytest.approx((1 + 2 / 3) / 2)
    assert f1_max(steps) == pytest.approx(4 / 5)


def test_pro_when_the_limit_is_hit_exactly() -> None:
    # Ten normal pixels; after the third the false-positive rate is 0.3 to the dot. One region of two pixels, one found
    # above all normals and one between the third and the fourth, which is beyond the limit.
    hits, above = np.array([1, 1]), np.array([0, 3])
    steps = Steps(hits=hits, above=above, at_least=above, negatives=10, overlap=np.array([0.5, 0.5]))
    assert steps.above[1] / steps.negatives == 0.3
    assert area_under_pro(steps) == pytest.approx(0.5, abs=EXACT)


def test_pro_when_a_tie_lies_across_the_limit() -> None:
    # One region ties with normals from rate 0.2 to 0.6, so it grows from 0 to a quarter at 0.3: a triangle of 0.1 by 1/4.
    steps = Steps(
        hits=np.array([4]), above=np.array([2]), at_least=np.array([6]), negatives=10, overlap=np.array([1.0])
    )
    assert area_under_pro(steps) == pytest.approx(0.1 * 0.25 / 2 / 0.3, abs=EXACT)


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
    with pytest.raises(BrokenScoreError, match="image 1: its map holds NaN"):
        evaluate(maps=maps, **fine)
    with pytest.raises(BrokenScoreError, match="image 2: its score holds NaN"):
        evaluate(maps=np.zeros((3, 2, 2)), **{**fine, "image_scores": np.array([0.0, 0.0, np.nan])})
    with pytest.raises(ValueError, match=r"expected masks of the maps' shape \(3, 2, 3\)"):
        evaluate(maps=np.zeros((3, 2, 3)), **fine)
    with pytest.raises(ValueError, match="found shapes"):
        evaluate(maps=np.zeros((2, 2, 2)), **fine)


def test_integers_are_numbers_too() -> None:
    scores, labels = np.array([0, 1, 200], dtype=np.uint8), np.array([False, False, True])
    assert auroc(steps_of_items(scores, labels)) == 1.0
    found = evaluate(
        maps=scores.reshape(3, 1, 1), masks=labels.reshape(3, 1, 1), image_scores=scores, image_labels=labels
    )
    assert found == dict.fromkeys(SEVEN, 1.0)


def test_sums_do_not_overflow() -> None:
    many = Steps(
        hits=np.array([10**9]),
        above=np.array([0]),
        at_least=np.array([0]),
        negatives=6 * 10**9,
        overlap=np.array([1.0]),
    )
    assert auroc(many) == 1.0


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="engine 'fast': expected one of exact, histogram"):
        CategoryMetrics("fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected real scores, found complex numbers"):
        evaluate(
            maps=np.ones((2, 2, 2), dtype=complex), masks=None, image_scores=np.zeros(2), image_labels=np.zeros(2, bool)
        )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_infinity_is_the_largest_score(kind: type) -> None:
    scores = np.array([np.inf, 1.0, -np.inf], dtype=kind)
    labels = np.array([True, False, False])
    found = evaluate(
        maps=scores.reshape(3, 1, 1), masks=labels.reshape(3, 1, 1), image_scores=scores, image_labels=labels
    )
    assert found == dict.fromkeys(SEVEN, 1.0)


def test_masks_with_numbers_mean_not_zero() -> None:
    maps = np.random.default_rng(0).normal(size=(4, 8, 8))
    masks = maps > 0.5
    rest = {"image_scores": maps.max(axis=(1, 2)), "image_labels": np.array([True, False, True, False])}
    assert evaluate(maps=maps, masks=255 * masks.astype(np.uint8), **rest) == evaluate(maps=maps, masks=masks, **rest)


def test_the_mean_leaves_out_what_is_not_defined() -> None:
    full, partial = dict.fromkeys(SEVEN, 0.5), dict.fromkeys(SEVEN, float("nan")) | {"i_auroc": 1.0}
    means = mean_over_categories({"a": full, "b": partial})
    assert means["i_auroc"] == 0.75
    assert means["p_ap"] == 0.5
    assert means["mad"] == pytest.approx((0.75 + 6 * 0.5) / 7)
    assert np.isnan(mean_over_categories({"b": partial})["mad"])


@given(cases(), st.integers(1, 3), st.sampled_from([np.float16, np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_batches_and_merged_states_give_the_same_bits(
    case: tuple[np.ndarray, np.ndarray], size: int, kind: type
) -> None:
    with np.errstate(over="ignore"):
        maps, masks = case[0].astype(kind), case[1]
    rest = {"image_scores": maps.max(axis=(1, 2)), "image_labels": np.arange(len(maps)) % 2 == 0}
    whole = evaluate(maps=maps, masks=masks, **rest)
    states = []
    for start in range(0, len(maps), size):
        part = slice(start, start + size)
        states.append(CategoryMetrics())
        given_maps = maps[part].copy()
        states[-1].update(maps=given_maps, masks=masks[part], **{key: value[part] for key, value in rest.items()})
        given_maps.fill(0)  # what is kept is a copy
    merged = states.pop()
    while states:
        merged.merge(states.pop())
    np.testing.assert_equal(merged.compute(), whole)
    np.testing.assert_equal(merged.compute(), whole)


def test_a_state_goes_on_after_it_was_asked() -> None:
    maps, masks = np.random.default_rng(1).normal(size=(6, 5, 5)), np.random.default_rng(2).random((6, 5, 5)) < 0.3
    rest = {"image_scores": maps.max(axis=(1, 2)), "image_labels": np.arange(6) < 3}
    state = CategoryMetrics()
    for part in (slice(0, 4), slice(4, 6)):
        state.update(maps=maps[part], masks=masks[part], **{key: value[part] for key, value in rest.items()})
        found = evaluate(
            maps=maps[: part.stop], masks=masks[: part.stop], **{k: v[: part.stop] for k, v in rest.items()}
        )
        np.testing.assert_equal(state.compute(), found)


def test_states_that_do_not_go_together_are_refused_and_stay_as_they_were() -> None:
    maps, masks = np.random.default_rng(1).normal(size=(2, 5, 5)), np.zeros((2, 5, 5), dtype=bool)
    masks[0, 0, 0] = True
    rest = {"image_scores": np.array([2.0, 1.0]), "image_labels": np.array([True, False])}
    state = CategoryMetrics()
    state.update(maps=maps, masks=masks, **rest)
    before = state.compute()
    with pytest.raises(ValueError, match="some batches have masks and some have none"):
        state.update(maps=maps, masks=None, **rest)
    with pytest.raises(ValueError, match="float32 cannot be added to maps of float64"):
        state.update(maps=maps.astype(np.float32), masks=masks, **rest)
    with pytest.raises(BrokenScoreError, match="image 3"):
        state.update(maps=maps * [[[1.0]], [[np.nan]]], masks=masks, **rest)
    with pytest.raises(
        ValueError, match="metrics of the histogram engine cannot be merged into those of the exact engine"
    ):
        state.merge(CategoryMetrics("histogram"))
    without = CategoryMetrics()
    without.update(maps=maps, masks=None, **rest)
    with pytest.raises(ValueError, match="one state has masks and the other has none"):
        state.merge(without)
    assert state.compute() == before


@pytest.mark.parametrize("engine", ["exact", "histogram"])
def test_a_state_without_images_has_no_values(engine: str) -> None:
    state = CategoryMetrics(engine)  # type: ignore[arg-type]
    assert all(np.isnan(value) for value in state.compute().values())
    state.merge(CategoryMetrics(engine))  # type: ignore[arg-type]
    assert all(np.isnan(value) for value in state.compute().values())
