"""The embedded dataset: the same every time, exact, and without a pixel shared between training and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mddbench.data.datasets import mini
from mddbench.data.drawing import DEFECTS
from mddbench.data.samples import Tree
from mddbench.runs.records import read_records
from support import ROOT, manifest_of, read


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("mini")
    mini.build(root)
    return read("mini", root).sound("mini")


def test_it_is_as_large_as_it_says(built: Tree) -> None:
    assert len(built.categories) >= 6
    assert len({sample.defect for sample in built.samples if sample.anomalous}) >= 4
    assert mini.DATASET.published is not None
    for category, (train, good, defective) in mini.DATASET.published.categories.items():
        mine = [sample for sample in built.samples if sample.category == category]
        assert sum(sample.split == "train" for sample in mine) == train
        assert sum(sample.split == "test" and not sample.anomalous for sample in mine) == good
        assert sum(sample.anomalous and bool(sample.masks) for sample in mine) == defective


def test_it_is_the_same_every_time(built: Tree, tmp_path: Path) -> None:
    mini.build(tmp_path)
    found = manifest_of("mini", tmp_path).fingerprint
    assert found == manifest_of("mini", built.root).fingerprint
    committed = {record.fingerprint for record in read_records(ROOT / "results" / "mini")}
    assert committed == {found}, "mini has changed: raise its version and run the quick suite again"


@pytest.mark.parametrize("photograph", mini.PHOTOGRAPHS.values(), ids=mini.PHOTOGRAPHS)
def test_train_and_test_come_from_disjoint_parts(photograph: mini.Photograph) -> None:
    import skimage.data

    height, width = getattr(skimage.data, photograph.function)().shape[:2]
    seen = np.zeros((height, width), dtype=int)
    for left, top, right, bottom in (photograph.train, photograph.test):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert min(right - left, bottom - top) >= photograph.window
        seen[top:bottom, left:right] += 1
    assert seen.max() == 1


@pytest.mark.parametrize("defect", DEFECTS)
def test_masks_are_exact(defect: str) -> None:
    generator = np.random.default_rng(5)
    for _ in range(20):
        image = generator.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        defective, mask = DEFECTS[defect](image, generator)
        changed = (defective != image).any(axis=-1)
        assert not (changed & ~mask).any()
        assert changed[mask].mean() > 0.9
        assert 3 <= mask.sum() < 0.3 * mask.size
