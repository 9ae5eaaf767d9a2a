"""Pixel metrics at low false-positive rates: against naive references, and in both engines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from mddbench.metrics import pimo
from mddbench.metrics.largest import CHUNK, Largest
from mddbench.metrics.names import LOW_RATES, SEVEN
from mddbench.metrics.saturated import LIMIT, ImageRegions, Region
from mddbench.metrics.steps import LOW_LIMITS
from mddbench.metrics.suite import CategoryMetrics, evaluate
from references import drawn_maps, naive_aupimo, naive_aupro, naive_spro, sorted_aupro

EXACT = 1e-12
LOW, HIGH = 0.02, 0.4
"""Limits of AUPIMO for maps of a few hundred pixels."""
Case = dict[str, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small maps: two normal images and some defective ones, the last of them without a mask; also with ties."""
    images, generator = draw(st.integers(4, 7)), np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (images, draw(st.integers(5, 9)), draw(st.integers(5, 9)))
    labels = np.arange(images) >= 2
    masks = (generator.random(shape) < 0.3) & labels[:, None, None]
    masks[-1], masks[2, 0, 0] = False, True
    noise = generator.normal(size=shape) + masks * draw(st.sampled_from([0.0, 1.5]))
    kind = draw(st.sampled_from(["plain", "ties", "coarse", "constant", "infinite", "half"]))
    maps = {
        "plain": noise,
        "ties": np.round(4 * noise) / 4,
        "coarse": np.round(noise).astype(np.float32),
        "constant": np.zeros(shape),
        "infinite": np.where(noise > 1.5, np.inf, noise),
        "half": noise.astype(np.float16),
    }[kind]
    return {"maps": maps, "masks": masks, "image_scores": maps.max(axis=(1, 2)), "image_labels": labels}


def low_rates(case: Case, regions: list[ImageRegions] | None = None, engine: str = "exact") -> dict[str, float]:
    metrics = CategoryMetrics(engine)  # type: ignore[arg-type]
    for start in range(0, len(case["maps"]), 3):
        metrics.update(**{name: values[start : start + 3] for name, values in case.items()})
    return metrics.low_rates(regions)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_aupro_to_lower_limits_equals_naive_ones(case: Case) -> None:
    found = low_rates(case)
    for key, limit in LOW_LIMITS.items():
        assert found[key] == pytest.approx(naive_aupro(case["maps"], case["masks"], limit), abs=EXACT)
        if np.isfinite(case["maps"]).all():
            by_sorting = sorted_aupro(case["maps"].astype(np.float64), case["masks"], limit)
            assert found[key] == pytest.approx(by_sorting, abs=EXACT)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_aupimo_equals_a_naive_one(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pimo, "LOW", LOW)
        patch.setattr(pimo, "HIGH", HIGH)
        metrics = CategoryMetrics()
        metrics.update(**case)
        expected = naive_aupimo(case["maps"], case["masks"], case["image_labels"], LOW, HIGH)
        np.testing.assert_allclose(metrics.aupimo(), expected, rtol=0, atol=EXACT, equal_nan=True)
        found = metrics.low_rates()
    assert found["aupimo"] == pytest.approx(np.nanmean(expected), abs=EXACT)
    assert found["aupimo_p25"] == pytest.approx(np.nanquantile(expected, 0.25), abs=EXACT)


def test_aupimo_needs_enough_normal_pixels_and_its_own_limits() -> None:
    few, enough = drawn_maps(8, 128), drawn_maps(24, 160)
    enough["maps"] = np.round(enough["maps"], 2)  # fewer thresholds for the reference
    for case, defined in ((few, False), (enough, True)):
        pixels = case["maps"][~case["image_labels"]].size
        assert (pixels * pimo.LOW >= 1) == defined
        assert np.isnan(low_rates(case)["aupimo"]) != defined
    expected = naive_aupimo_of_high_scores(enough)
    metrics = CategoryMetrics()
    metrics.update(**enough)
    np.testing.assert_allclose(metrics.aupimo(), expected, rtol=0, atol=EXACT)


def naive_aupimo_of_high_scores(case: Case) -> list[float]:
    """The naive reference; scores that are below all that count have one value, which spares it their thresholds."""
    normal = np.sort(case["maps"][~case["image_labels"]].reshape(-1))
    maps = np.maximum(case["maps"], normal[-int(2 * pimo.HIGH * len(normal))])
    return naive_aupimo(maps, case["masks"], case["image_labels"], pimo.LOW, pimo.HIGH)


@given(cases(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_spro_equals_a_naive_one(case: Case, seed: int) -> None:
    generator = np.random.default_rng(seed)
    plain: list[list[tuple[np.ndarray, float]]] = []
    for mask in case["masks"]:  # regions overlap, are not connected, and together are the mask
        halves = [mask & (generator.random(mask.shape) < 0.7), mask]
        plain.append([(half, float(generator.choice([0.1, 0.37, 1.0]))) for half in halves if half.any()])
    kinds = np.where(case["image_labels"], generator.choice(["logical", "structural"], len(plain)), "")
    regions = [as_regions(kind, of_image) for kind, of_image in zip(kinds, plain, strict=True)]
    expected = []
    for kind in np.unique(kinds[2:]):
        own = (kinds == kind) | (kinds == "")
        of_kind = [of_image for of_image, chosen in zip(plain, own, strict=True) if chosen]
        if any(of_kind):
            expected.append(naive_spro(case["maps"][own], case["masks"][own], of_kind, LIMIT))
        else:
            expected.append(np.nan)
    assert low_rates(case, regions)["spro_05"] == pytest.approx(np.mean(expected), abs=EXACT, nan_ok=True)


def as_regions(kind: str, plain: list[tuple[np.ndarray, float]]) -> ImageRegions:
    return ImageRegions(kind, tuple(Region(np.flatnonzero(mask), share) for mask, share in plain))


def test_spro_of_whole_regions_is_aupro_and_a_saturated_one_is_higher() -> None:
    case = drawn_maps(12, 48)
    found = {}
    for share in (1.0, 0.5):
        regions = []
        for mask in case["masks"]:
            labelled, count = label(mask, structure=np.ones((3, 3)))
            masks = [(labelled == number, share) for number in range(1, count + 1)]
            regions.append(as_regions("any" if count else "", masks))
        found[share] = low_rates(case, regions)
    assert found[1.0]["spro_05"] == pytest.approx(found[1.0]["aupro_05"], abs=EXACT)
    assert found[0.5]["spro_05"] > found[1.0]["spro_05"] + 0.01


def test_regions_without_pixels_do_not_count_and_a_wrong_number_is_refused() -> None:
    case = drawn_maps(4, 32)
    empty = [ImageRegions("crack", (Region(np.empty(0, dtype=np.int64), 0.5),)) for _ in range(4)]
    assert np.isnan(low_rates(case, empty)["spro_05"])
    with pytest.raises(ValueError, match="regions of 4 images, found them of 3"):
        low_rates(case, empty[:3])


def test_the_seven_metrics_do_not_change_and_no_key_is_shared() -> None:
    case = drawn_maps(10, 64)
    metrics = CategoryMetrics()
    metrics.update(**case)
    before = metrics.compute()
    found = metrics.low_rates([ImageRegions()] * 10)
    assert metrics.compute() == before == evaluate(**case)
    assert set(found) == {metric.key for metric in LOW_RATES}
    assert not set(found) & set(SEVEN)


def test_batches_and_tensors_give_the_same_bits() -> None:
    case = drawn_maps(24, 160)
    metrics = CategoryMetrics()
    metrics.pixels.add(torch.from_numpy(case["maps"]), case["masks"])  # as maps that stay on a device
    metrics.images.add(case["image_scores"], case["image_labels"])
    metrics.has_masks = True
    assert metrics.low_rates() == low_rates(case)


def test_maps_of_several_sizes_are_refused() -> None:
    metrics = CategoryMetrics()
    for size in (16, 24):
        case = drawn_maps(6, size)
        metrics.update(**{**case, "image_labels": np.arange(6) < 3})
    with pytest.raises(ValueError, match="one size"):
        metrics.low_rates()


def test_without_masks_there_are_none() -> None:
    case = drawn_maps(6, 16)
    metrics = CategoryMetrics()
    metrics.update(**{**case, "masks": None})
    assert metrics.low_rates() == {}
    assert np.isnan(metrics.aupimo()).all()


@pytest.mark.parametrize("kind", ["exact bins", "wide bins"])
def test_the_histogram_engine_has_aupro_with_sure_bounds(kind: str) -> None:
    case = drawn_maps(40, 96, seed=3)
    case["maps"] = case["maps"].astype(np.float16) if kind == "exact bins" else np.exp(3 * case["maps"])
    exact, metrics = low_rates(case), CategoryMetrics("histogram")
    metrics.update(**case)
    found, bounds = metrics.low_rates([ImageRegions()] * 40), metrics.bounds()
    assert set(found) == set(LOW_LIMITS)  # AUPIMO and AU-sPRO need the exact engine
    for key in LOW_LIMITS:
        low, high = bounds[key]
        assert low <= exact[key] <= high
        assert low <= found[key] <= high
        assert found[key] == pytest.approx(exact[key], abs=EXACT if kind == "exact bins" else 1e-4)
        assert (high - low > 1e-6) == (kind == "wide bins")


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=40), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_the_largest_are_those_of_a_sort(scores: list[float], count: int) -> None:
    values = np.array(scores, dtype=np.float32)
    largest = Largest(count)
    for start in range(0, len(values), 7):
        largest.add(values[start : start + 7])
    np.testing.assert_array_equal(largest.values(), np.sort(values)[::-1][:count])


def test_the_largest_of_several_chunks_are_those_of_a_sort() -> None:
    values = np.random.default_rng(0).normal(size=3 * CHUNK + 5)
    for ordered in (values, np.sort(values), np.sort(values)[::-1]):
        largest = Largest(1000)
        largest.add(ordered[: 2 * CHUNK])
        largest.add(ordered[2 * CHUNK :])
        np.testing.assert_array_equal(largest.values(), np.sort(values)[::-1][:1000])
