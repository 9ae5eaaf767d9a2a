"""Holding out: only training images, split by category, with drawn defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mddbench.data.dataset import Dataset, open_dataset
from mddbench.errors import InputError
from mddbench.execution.holdout import FOLDS, hold_out, is_held_out
from mddbench.nn.synthesis import KINDS
from mddbench.progress import SilentReporter
from support import write_tree

QUIET = SilentReporter()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    tree = write_tree(tmp_path / "tree", train=9)
    return open_dataset("folder", tree, tmp_path / "cache", 64, QUIET)


def test_nothing_of_the_test_split_is_in_it(dataset: Dataset) -> None:
    found = hold_out(dataset)
    training = {image.tobytes() for image in dataset.train.images}
    kept = [image.tobytes() for image in found.train.images]
    normal = [
        image.tobytes() for image, s in zip(found.test.images, found.test.samples, strict=True) if not s.anomalous
    ]
    assert set(kept) | set(normal) == training
    assert not set(kept) & set(normal)
    test_files = {sample.image for sample in dataset.test.samples}
    assert not test_files & {sample.image for sample in (*found.train.samples, *found.test.samples)}


def test_each_category_is_split_and_each_image_gets_each_defect(dataset: Dataset) -> None:
    found = hold_out(dataset)
    for category in dataset.categories:
        held = -(-9 // FOLDS)
        assert len(found.train.of(category)) == 9 - held
        part = found.test.of(category)
        assert len(part) == held * (1 + len(KINDS))
        assert part.has_masks
        for index, sample in enumerate(part.samples):
            good = part.images[index - index % (1 + len(KINDS))]
            assert sample.anomalous == bool(part.masks[index].any())
            changed = (part.images[index].astype(int) != good).any(axis=-1)
            assert not (changed & ~part.masks[index]).any()
    assert is_held_out(found)
    assert not is_held_out(dataset)
    assert found.fingerprint != dataset.fingerprint


def test_it_is_the_same_every_time_and_leaves_the_generator_alone(dataset: Dataset) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = hold_out(dataset), hold_out(dataset)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    np.testing.assert_array_equal(first.test.masks, second.test.masks)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", train=3)
    opened = open_dataset("folder", tree, tmp_path / "cache", 64, QUIET)
    with pytest.raises(InputError, match="holding out needs 4 training images, 'bolt' has 3"):
        hold_out(opened)
