"""The exact engine's ways of counting against each other, and the histogram engine against the exact one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mddbench.metrics import histogram, ranking, suite, threads
from mddbench.metrics.device import is_tensor
from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.histogram import HistogramPixels
from mddbench.metrics.keys import keys_of, scores_of
from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.ranking import count_pixels
from mddbench.metrics.regions import find_regions
from mddbench.metrics.suite import CategoryMetrics, evaluate
from references import drawn_maps, naive_regions, reference_pixel_metrics

EXACT = 1e-12
Shape = Callable[[np.ndarray], np.ndarray]
SCALES: dict[str, Shape] = {
    "noise": lambda maps: maps,
    "distances": lambda maps: 26 + 3 * maps,
    "heavy tails": lambda maps: np.exp(4 * maps),
    "one hot pixel": lambda maps: np.where(np.arange(maps.size).reshape(maps.shape) == 77, np.float32(1e4), maps),
    "clipped": lambda maps: np.clip(maps, 0, 2),
    "crowded": lambda maps: np.where(maps > 0, 1 + 1e-6 * maps, -1e9 * maps * maps).astype(np.float32),
    "twenty decades": lambda maps: np.sign(maps) * np.power(10, 7 * np.abs(maps) - 10).astype(np.float32),
    "constant": np.zeros_like,
    "float16": lambda maps: maps.astype(np.float16),
    "infinite": lambda maps: np.where(maps > 2, np.float32(np.inf), np.where(maps < -2, np.float32(-np.inf), maps)),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return drawn_maps(24, 96)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs go through the kernels too, in small pieces."""
    monkeypatch.setattr(threads, "WORTH_COMPILING", 0)
    monkeypatch.setattr(ranking, "PIECE", 50_000)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WORTH_COMPILING", 1 << 60)


def scaled(drawn: dict[str, np.ndarray], scale: str) -> dict[str, np.ndarray]:
    maps = SCALES[scale](drawn["maps"])
    return {**drawn, "maps": maps, "image_scores": maps.max(axis=(1, 2))}


@pytest.mark.parametrize("scale", SCALES)
def test_the_kernels_give_what_plain_numpy_gives(
    drawn: dict[str, np.ndarray], scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, found = scaled(drawn, scale), []
    for least in (0, 1 << 60):
        monkeypatch.setattr(threads, "WORTH_COMPILING", least)
        for cores in (1, 3):
            monkeypatch.setattr(threads, "MOST_WORKERS", cores)
            monkeypatch.setattr(threads, "processor_count", lambda: 8)
            found.append(evaluate(**case))
    assert all(values == found[0] for values in found)  # to the last bit


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("scale", [name for name in SCALES if name != "infinite"])
def test_the_kernels_give_what_independent_references_give(drawn: dict[str, np.ndarray], scale: str) -> None:
    case = scaled(drawn, scale)
    found = evaluate(**case)
    for key, value in reference_pixel_metrics(case["maps"], case["masks"]).items():
        assert found[key] == pytest.approx(value, abs=EXACT)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_counts_equal_naive_ones(data: st.DataObject) -> None:
    size = st.one_of(
        st.floats(-4, 4, width=32), st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0])
    )
    scores = np.array(data.draw(st.lists(size, min_size=1, max_size=60)), dtype=np.float32)
    limits = np.unique(np.array(data.draw(st.lists(size, min_size=1, max_size=30)), dtype=np.float32) + np.float32(0))
    expected = [[int((scores > t).sum()) for t in limits], [int((scores >= t).sum()) for t in limits]]
    before = threads.WORTH_COMPILING
    try:
        for least in (0, 1 << 60):
            threads.WORTH_COMPILING = least
            np.testing.assert_array_equal(count_pixels([scores[:7], scores[7:]], limits), expected)
    finally:
        threads.WORTH_COMPILING = before


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2))
def test_keys_are_in_the_order_of_scores(pair: list[float]) -> None:
    scores = np.array(pair, dtype=np.float32)
    keys = keys_of(scores)
    assert (keys[0] < keys[1], keys[0] == keys[1]) == (scores[0] < scores[1], scores[0] == scores[1])
    np.testing.assert_array_equal(scores_of(keys), scores)


@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.35, 0.5, 0.7]), st.sampled_from([0, 1 << 60]))
@settings(max_examples=60, deadline=None)
def test_regions_equal_a_flood_fill(seed: int, density: float, least: int) -> None:
    masks = np.random.default_rng(seed).random((3, 9, 11)) < density
    masks[1] = False
    before, threads.WORTH_COMPILING = threads.WORTH_COMPILING, least
    try:
        found = find_regions(masks)
    finally:
        threads.WORTH_COMPILING = before
    expected: list[int] = []
    for mask in masks:
        flooded = naive_regions(mask)
        expected += [len(next(r for r in flooded if (y, x) in r)) for y, x in np.argwhere(mask)]
    np.testing.assert_array_equal(found.areas, expected)
    np.testing.assert_array_equal(found.counts, [len(naive_regions(mask)) for mask in masks])
    np.testing.assert_array_equal(found.pixels, masks.sum(axis=(1, 2)))


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, drawn: dict[str, np.ndarray]) -> None:
    monkeypatch.setattr("mddbench.metrics.exact.MOST_PIXELS", drawn["maps"].size + 1)
    state = CategoryMetrics()
    state.update(**drawn)
    with pytest.raises(ValueError, match="use the histogram engine"):
        state.update(**drawn)


@pytest.mark.parametrize("scale", [*SCALES, "float64"])
@pytest.mark.parametrize("way", ["compiled", "plain"])
def test_a_histogram_holds_the_exact_value(
    drawn: dict[str, np.ndarray], scale: str, way: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(way)
    case = scaled(drawn, scale) if scale in SCALES else {**drawn, "maps": drawn["maps"].astype(np.float64) / 3}
    exact, state = evaluate(**case), CategoryMetrics("histogram")
    for start in range(0, 24, 7):
        state.update(**{key: values[start : start + 7] for key, values in case.items()})
    found, bounds = state.compute(), state.bounds()
    for key in PIXEL_LEVEL:
        low, high = bounds[key]
        assert low <= exact[key] <= high
        assert low <= found[key] <= high or key == "p_ap"  # the estimate of AP is no bound
        if scale != "crowded":  # where single-precision steps are all there is, a bin holds a hundred of them
            assert found[key] == pytest.approx(exact[key], abs=1e-3)
    if scale in ("float16", "constant"):
        assert found == pytest.approx(exact, abs=EXACT)
    assert {key: found[key] for key in found if key not in PIXEL_LEVEL} == {
        key: exact[key] for key in found if key not in PIXEL_LEVEL
    }


SPREADS: dict[str, Shape] = {
    **{name: SCALES[name] for name in ("noise", "distances", "one hot pixel", "clipped")},
    "far": lambda maps: 100 + maps,
    "farther": lambda maps: 1000 + maps,
    "near one": lambda maps: 1 + maps / 100,
    "saturated": lambda maps: 1 / (1 + np.exp(-4 - maps)),
}


@pytest.mark.parametrize("scale", SPREADS)
def test_a_histogram_of_many_pixels_is_off_by_less_than_1e_5(scale: str) -> None:
    case = drawn_maps(160, 256)
    case["maps"] = SPREADS[scale](case["maps"]).astype(np.float32)
    exact, state = evaluate(**case), CategoryMetrics("histogram")
    state.update(**case)
    found = state.compute()
    off = 3e-5 if scale == "saturated" else 1e-5  # in the last steps below 1 there are hardly more scores than bins
    assert {key: found[key] for key in PIXEL_LEVEL} == pytest.approx({key: exact[key] for key in PIXEL_LEVEL}, abs=off)


@given(st.integers(0, 2**32), st.sampled_from(["normal", "ties", "decades"]), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_bounds_hold_on_anything(seed: int, kind: str, pages: int) -> None:
    generator = np.random.default_rng(seed)
    maps = generator.normal(size=(3, 6, 6)).astype(np.float32)
    maps = {"normal": maps, "ties": np.round(maps), "decades": np.exp(np.minimum(20 * maps, 80))}[kind]
    masks = generator.random(maps.shape) < 0.3
    masks.flat[0], masks.flat[-1] = True, False
    case = {"maps": maps, "masks": masks, "image_scores": np.zeros(3), "image_labels": np.zeros(3, bool)}
    before, histogram.MOST_PAGES = histogram.MOST_PAGES, 1 << pages
    try:
        left, right = CategoryMetrics("histogram"), CategoryMetrics("histogram")
        left.update(**{key: values[:2] for key, values in case.items()})
        right.update(**{key: values[2:] for key, values in case.items()})
        left.merge(right)
        bounds = left.bounds()
    finally:
        histogram.MOST_PAGES = before
    exact = evaluate(**case)
    assert all(bounds[key][0] <= exact[key] <= bounds[key][1] for key in PIXEL_LEVEL)


ODD: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "constant": lambda x, _: np.full_like(x, 0.1),
    "two values": lambda x, _: np.where(x > 0, 0.7, 0.3),
    "zeros of both signs": lambda x, _: np.where(x > 0, 0.0, -0.0),
    "closer than float32": lambda x, _: 1 + 1e-12 * x,
    "as close as float32": lambda x, _: 1 + 1e-7 * x,
    "far from zero": lambda x, _: 1e15 + np.round(x),
    "beyond float32": lambda x, _: 1e300 * x,
    "subnormal": lambda x, _: 1e-320 * x,
    "subnormal in float32": lambda x, _: 1e-41 * x,
    "infinite": lambda x, g: np.where(g.random(x.shape) < 0.3, np.inf * np.sign(x), x),
    "mostly zero": lambda x, g: np.where(g.random(x.shape) < 0.7, 0.0, x),
    "all sizes": lambda x, g: x * 10.0 ** g.uniform(-40, 38, x.shape),
}
MARKED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "some": lambda share: share < 0.3,
    "one": lambda share: share == share.max(),
    "all": lambda share: share >= 0,
    "all but one": lambda share: share < share.max(),
    "none": lambda share: share > 1,
}


def odd_maps(kind: str, dtype: type, seed: int, shape: tuple[int, ...] = (3, 9, 7)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        return ODD[kind](generator.normal(size=shape), generator).astype(dtype)


@given(
    st.integers(0, 2**32),
    st.sampled_from(list(ODD)),
    st.sampled_from(list(MARKED)),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.sampled_from([2, 8, 256]),
)
@settings(max_examples=300, deadline=None)
def test_bounds_hold_on_odd_scores(seed: int, kind: str, marked: str, dtype: type, pages: int) -> None:
    maps, masks = odd_maps(kind, dtype, seed), MARKED[marked](np.random.default_rng(seed).random((3, 9, 7)))
    before, histogram.MOST_PAGES = histogram.MOST_PAGES, pages
    try:
        left, right, exact = HistogramPixels(), HistogramPixels(), ExactPixels()
        for state, images in ((left, slice(0, 1)), (left, slice(1, 2)), (right, slice(2, 3)), (exact, slice(0, 3))):
            state.add(maps[images], masks[images])
        left.merge(right)
        found, bounds, true = left.values(), left.bounds(), exact.values()
    finally:
        histogram.MOST_PAGES = before
    for key in PIXEL_LEVEL:
        assert np.isnan(found[key]) == np.isnan(true[key])
        assert np.isnan(true[key]) or bounds[key][0] <= true[key] <= bounds[key][1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["constant", "two values", "zeros of both signs", "far from zero"])
def test_few_scores_are_exact(kind: str, dtype: type) -> None:
    """Nothing lies between scores that tie, so AP is none of a mixture."""
    maps, masks = odd_maps(kind, dtype, 0), MARKED["some"](np.random.default_rng(0).random((3, 9, 7)))
    state, exact = HistogramPixels(), ExactPixels()
    state.add(maps, masks)
    exact.add(maps, masks)
    assert state.values() == pytest.approx(exact.values(), abs=1e-12)
    assert all(high - low < 1e-9 for low, high in state.bounds().values())


@pytest.mark.parametrize("kind", ["closer than float32", "beyond float32", "subnormal", "as close as float32"])
def test_float64_scores_are_told_apart_where_float32_could_not(kind: str) -> None:
    maps = odd_maps(kind, np.float64, 1, (8, 64, 64))
    masks = MARKED["some"](np.random.default_rng(1).random(maps.shape))
    state, exact = HistogramPixels(), ExactPixels()
    state.add(maps, masks)
    exact.add(maps, masks)
    assert state.values() == pytest.approx(exact.values(), abs=1e-3)


def test_float64_and_narrower_histograms_do_not_merge() -> None:
    left, right, masks = HistogramPixels(), HistogramPixels(), np.ones((1, 4, 4), dtype=bool)
    left.add(np.ones((1, 4, 4), dtype=np.float32), masks)
    right.add(np.ones((1, 4, 4)), masks)
    with pytest.raises(ValueError, match="maps of float64 cannot be added to maps of float32; convert one of them"):
        left.merge(right)
    left.add(np.full((1, 4, 4), 0.1), ~masks)  # rounded, so no longer said to be exact
    assert not left._exact


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_bounds_hold_where_a_million_pixels_tie(kind: type) -> None:
    masks = np.zeros((20, 256, 256), dtype=bool)
    masks[:, ::2] = np.arange(256) % 6 < 5  # half a million pixels in regions of five, all in one bin
    scores = masks.any(axis=(1, 2)).astype(float)
    case = {"maps": masks.astype(kind), "masks": masks, "image_scores": scores, "image_labels": masks.any(axis=(1, 2))}
    state = CategoryMetrics("histogram")
    state.update(**case)
    exact, bounds = evaluate(**case), state.bounds()
    assert all(bounds[key][0] <= exact[key] <= bounds[key][1] for key in PIXEL_LEVEL)


def test_a_histogram_takes_two_threads_at_most(monkeypatch: pytest.MonkeyPatch, drawn: dict[str, np.ndarray]) -> None:
    monkeypatch.setattr(threads, "processor_count", lambda: 8)
    pixels = HistogramPixels()
    pixels.add(drawn["maps"], drawn["masks"])
    assert len(pixels.thread_bins) == 2
    other = HistogramPixels()
    other.merge(pixels)
    assert pixels.values().keys() == other.values().keys()
    assert np.isnan(pixels.values()["aupro"]), "it is used up"


def test_a_histogram_counts_every_pixel_once_however_coarse_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "MOST_PAGES", 8)
    case = scaled(drawn_maps(6, 40), "twenty decades")
    pixels = HistogramPixels()
    for index in range(6):
        pixels.add(case["maps"][index : index + 1], case["masks"][index : index + 1])
    pixels.values()
    (bins,) = pixels.thread_bins
    assert bins.dropped > 12
    assert bins.used <= 8
    counted, hits, overlap, _ = bins.descending()
    assert (int(counted.sum()), int(hits.sum())) == (case["maps"].size, int(case["masks"].sum()))
    assert float(overlap.sum()) == pytest.approx(pixels.regions)


def test_small_pieces_are_sorted_together(monkeypatch: pytest.MonkeyPatch, drawn: dict[str, np.ndarray]) -> None:
    sorts: list[int] = []
    sort = np.sort
    monkeypatch.setattr(ranking.np, "sort", lambda values: sorts.append(len(values)) or sort(values))
    monkeypatch.setattr(threads, "WORTH_COMPILING", 1 << 60)
    parts = list(drawn["maps"].reshape(96, -1))
    limits = np.unique(drawn["maps"][drawn["masks"]])
    found = count_pixels(parts, limits)
    assert len(sorts) <= 2 * threads.workers()
    np.testing.assert_array_equal(found, count_pixels([drawn["maps"].reshape(-1)], limits))


def test_kernels_compile_without_a_folder_for_their_cache(tmp_path: Path) -> None:
    """A read-only installation and home: Numba then has nowhere to keep what it compiled."""
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from mddbench.metrics import threads\n"
        "threads.WORTH_COMPILING = 0\n"
        "from mddbench.metrics.ranking import count_pixels\n"
        "print(count_pixels([np.arange(6, dtype=np.float32)], np.array([2.5, 4], dtype=np.float32)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "array([3, 1])" in done.stdout
    assert "array([3, 2])" in done.stdout


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_give_the_bits_that_arrays_give(
    drawn: dict[str, np.ndarray], kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = torch.from_numpy(drawn["maps"]).to(kind)
    maps.view(-1)[:2] = torch.tensor([0.0, -0.0])
    arrays = maps.float().numpy() if kind == torch.bfloat16 else maps.numpy()
    monkeypatch.setattr(suite, "is_device_tensor", is_tensor)  # as if the processor were another device
    expected = evaluate(**{**drawn, "maps": arrays})
    state = CategoryMetrics()
    for part in (slice(0, 10), slice(10, 24)):
        rest = {key: values[part] for key, values in drawn.items()}
        state.update(**{**rest, "maps": maps[part] if part.start else maps[part].clone()})
    assert state.compute() == expected
    assert state.replicates(5, 0)["aupro"] == pytest.approx(_replicates_of(drawn, arrays)["aupro"], abs=EXACT)


def _replicates_of(drawn: dict[str, np.ndarray], maps: np.ndarray) -> dict[str, np.ndarray]:
    state = CategoryMetrics()
    state.update(**{**drawn, "maps": maps})
    return state.replicates(5, 0)


@pytest.mark.gpu
def test_a_gpu_gives_the_bits_that_the_host_gives(drawn: dict[str, np.ndarray]) -> None:
    assert evaluate(**{**drawn, "maps": torch.from_numpy(drawn["maps"]).cuda()}) == evaluate(**drawn)


def test_whole_numbers_on_a_device_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "is_device_tensor", is_tensor)
    maps = 2**24 + np.arange(512).reshape(2, 16, 16)
    masks = np.random.default_rng(0).random(maps.shape) < 0.5
    rest = {"masks": masks, "image_scores": np.zeros(2), "image_labels": np.array([True, False])}
    assert evaluate(maps=torch.from_numpy(maps), **rest) == evaluate(maps=maps, **rest)


def test_a_tensor_with_nan_is_named(drawn: dict[str, np.ndarray]) -> None:
    maps = torch.from_numpy(drawn["maps"].copy())
    maps[5, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="image 5: its map holds NaN"):
        evaluate(**{**drawn, "maps": maps})


def test_pixels_on_a_device_can_join_a_histogram(drawn: dict[str, np.ndarray]) -> None:
    one, other = CategoryMetrics("histogram"), CategoryMetrics("histogram")
    one.update(**drawn)
    other.update(**{**drawn, "maps": torch.from_numpy(drawn["maps"])})
    assert one.compute() == other.compute()
