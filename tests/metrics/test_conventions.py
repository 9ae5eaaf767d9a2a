"""The conventions of other code against plain restatements of what that code does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mddbench.metrics import conventions
from mddbench.metrics.names import IMAGE_LEVEL, SEVEN
from mddbench.metrics.suite import evaluate
from references import drawn_maps, naive_regions


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    case = drawn_maps(8, 40, seed=2)
    del case["image_labels"]
    return case


def trapezoids(points: list[tuple[float, float]]) -> float:
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))


def overlap_at(maps: np.ndarray, masks: np.ndarray, found: np.ndarray) -> float:
    shares = [
        np.mean([found[index][place] for place in region])
        for index, mask in enumerate(masks)
        for region in naive_regions(mask)
    ]
    return float(np.mean(shares))


def test_ader_equals_a_loop_over_its_thresholds(drawn: dict[str, np.ndarray]) -> None:
    maps, masks = drawn["maps"].astype(np.float64), drawn["masks"]
    roc, curve, pro = [], [], []
    for threshold in np.linspace(maps.min(), maps.max(), 51)[::-1]:
        found = maps >= threshold
        hits, wrong = int((found & masks).sum()), int((found & ~masks).sum())
        roc.append((wrong / (~masks).sum(), hits / masks.sum()))
        curve.append((hits / masks.sum(), hits / (hits + wrong)))
        pro.append((wrong / (~masks).sum(), overlap_at(maps, masks, found)))
    within = [point for point in pro if point[0] <= 0.3]
    within.append((0.3, float(np.interp(0.3, *zip(*pro, strict=True)))))
    scaled = (maps - maps.min()) / np.ptp(maps)
    f1 = max(2 * ((scaled > t) & masks).sum() / ((scaled > t).sum() + masks.sum()) for t in np.arange(21) / 20)
    got = conventions.evaluate("ader", **{**drawn, "maps": maps})
    assert got["p_auroc"] == pytest.approx(trapezoids(roc), abs=1e-12)
    assert got["p_ap"] == pytest.approx(trapezoids(curve), abs=1e-12)
    assert got["p_f1max"] == pytest.approx(f1, abs=1e-12)
    assert got["aupro"] == pytest.approx(trapezoids(within) / 0.3, abs=1e-12)


def test_rd4ad_equals_a_loop_over_images_and_thresholds(drawn: dict[str, np.ndarray]) -> None:
    maps, masks, values = drawn["maps"].astype(np.float64), drawn["masks"], []
    for image, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        step = (image.max() - image.min()) / 200
        points = []
        for number in range(200):
            found = image > image.min() + step * number
            points.append(((found & ~mask).sum() / (~mask).sum(), overlap_at(image[None], mask[None], found[None])))
        kept = [point for point in points if point[0] < 0.3][::-1]
        low, high = kept[0][0], kept[-1][0]
        values.append(trapezoids([((x - low) / (high - low), y) for x, y in kept]))
    assert conventions.evaluate("rd4ad", **{**drawn, "maps": maps})["aupro"] == pytest.approx(
        np.mean(values), abs=1e-12
    )


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
def test_labels_come_from_masks_and_the_rest_is_exact(drawn: dict[str, np.ndarray], name: str) -> None:
    exact = evaluate(**drawn, image_labels=drawn["masks"].any(axis=(1, 2)))
    found = conventions.evaluate(name, **drawn)
    same = [key for key in SEVEN if key in IMAGE_LEVEL or (name == "rd4ad" and key != "aupro")]
    assert {key: found[key] for key in same} == {key: exact[key] for key in same}
    assert all(abs(found[key] - exact[key]) > 1e-6 for key in SEVEN if key not in same)


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
def test_equal_steps_are_not_invariant_as_the_exact_metrics_are(drawn: dict[str, np.ndarray], name: str) -> None:
    moved = {**drawn, "maps": np.exp(2 * drawn["maps"])}
    assert abs(conventions.evaluate(name, **moved)["aupro"] - conventions.evaluate(name, **drawn)["aupro"]) > 0.01


def test_what_has_no_rule_is_refused(drawn: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="convention 'adr': expected one of ader, rd4ad"):
        conventions.evaluate("adr", **drawn)
    for wild in (np.inf, np.nan):
        maps = drawn["maps"].copy()
        maps[3, 0, 0] = wild
        with pytest.raises(ValueError, match="image 3: a score is not finite"):
            conventions.evaluate("ader", **{**drawn, "maps": maps})
    with pytest.raises(ValueError, match="expected masks of the maps' shape"):
        conventions.evaluate("ader", **{**drawn, "masks": drawn["masks"][:, :-1]})
    whole = {**drawn, "masks": 255 * drawn["masks"].astype(np.uint8)}
    assert conventions.evaluate("rd4ad", **whole) == conventions.evaluate("rd4ad", **drawn)


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
def test_what_is_not_defined_is_nan(drawn: dict[str, np.ndarray], name: str) -> None:
    normal = conventions.evaluate(name, **{**drawn, "masks": np.zeros_like(drawn["masks"])})
    assert all(np.isnan(value) for value in normal.values())
    constant = conventions.evaluate(name, **{**drawn, "maps": np.ones_like(drawn["maps"])})
    assert np.isnan(constant["aupro"])
