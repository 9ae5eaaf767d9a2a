"""The sample-level AUROC: items that several images show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mddbench.metrics.images import ImageScores
from mddbench.metrics.names import SEVEN
from mddbench.metrics.suite import mean_over_categories


def of(scores: list[float], labels: list[bool], items: list[str]) -> float:
    images = ImageScores()
    images.add(np.array(scores, dtype=np.float32), np.array(labels))
    return images.item_auroc(items)


def test_an_item_is_as_anomalous_as_its_most_anomalous_view() -> None:
    scores, labels = [0.1, 0.9, 0.2, 0.3, 0.5, 0.4], [False, True, False, False, False, False]
    assert of(scores, labels, ["a", "a", "b", "b", "c", "c"]) == 1.0
    assert of(scores, labels, ["a", "b", "b", "a", "c", "c"]) == 1.0
    assert of([0.1, 0.2, 0.3, 0.4], [True, False, False, False], ["a", "a", "b", "b"]) == 0.0


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 9).map(lambda tenth: tenth / 10), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_it_is_the_auroc_of_maxima(rows: list[tuple[int, float, bool]]) -> None:
    items = sorted({item for item, _, _ in rows})
    highest = [np.float32(max(score for item, score, _ in rows if item == each)) for each in items]
    defective = [any(label for item, _, label in rows if item == each) for each in items]
    found = of([score for _, score, _ in rows], [label for _, _, label in rows], [str(item) for item, _, _ in rows])
    if len(set(defective)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(defective, highest), abs=1e-12)


def test_no_images_and_too_few_items() -> None:
    assert math.isnan(ImageScores().item_auroc([]))
    with pytest.raises(ValueError, match="expected an item for each of 2 images, found 1"):
        of([0.1, 0.2], [True, False], ["a"])


def test_it_has_a_mean_and_no_part_in_the_mean_of_the_seven() -> None:
    seven = dict.fromkeys(SEVEN, 0.5)
    means = mean_over_categories({"a": {**seven, "s_auroc": 1.0}, "b": {**seven, "s_auroc": 0.6}})
    assert means["s_auroc"] == pytest.approx(0.8)
    assert means["mad"] == pytest.approx(0.5)
    assert "s_auroc" not in mean_over_categories({"a": {**seven, "s_auroc": 1.0}, "b": seven})
