"""Defective images among the training images: which ones, how many, and what is then judged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mddbench.data.dataset import Dataset, Split, open_dataset
from mddbench.errors import InputError
from mddbench.execution.arranged import arranged
from mddbench.execution.contamination import contaminated
from mddbench.experiments.ablation import expand, load_ablation
from mddbench.experiments.catalogue import load_experiment
from mddbench.progress import SilentReporter
from mddbench.runs.records import read_record
from support import experiment, mddbench, save, write_tree

QUIET = SilentReporter()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two categories with 19 normal training images, 3 normal test images, 8 spots and 5 cracks."""
    folder = tmp_path_factory.mktemp("contamination")
    tree = write_tree(folder / "tree", train=19)
    for place, category in enumerate(("bolt", "nut")):
        for number in range(13):
            kind = "spot" if number < 8 else "crack"
            pixels = np.full((48, 56, 3), 20 * place + 3 * number, dtype=np.uint8)
            save(pixels, tree / category / "test" / kind / f"{number:03d}.png")
            save(
                np.full((48, 56), 255, dtype=np.uint8),
                tree / category / "ground_truth" / kind / f"{number:03d}_mask.png",
            )
    return open_dataset("folder", tree, folder / "cache", 32, QUIET)


def files(split: Split, category: str | None = None, defective: bool = True) -> list[Path]:
    return [s.image for s in split.samples if s.anomalous == defective and category in (None, s.category)]


def test_without_the_setting_nothing_happens_and_nothing_is_written(dataset: Dataset) -> None:
    assert contaminated(dataset, experiment(), 0) is dataset
    assert "contamination" not in load_experiment("mini/rd4ad").model_dump()
    assert experiment(contamination=0).model_dump()["contamination"] == 0


def test_every_share_is_judged_on_the_same_images(dataset: Dataset) -> None:
    found = [contaminated(dataset, experiment(contamination=share), 0) for share in (0, 0.05, 0.1, 0.2)]
    for each in found:
        assert each.test.samples == found[0].test.samples
        for category in dataset.categories:
            kinds = Counter(sample.defect for sample in each.test.of(category).samples)
            assert kinds == {"good": 3, "spot": 4, "crack": 3}
            assert len(files(each.train, category, defective=False)) == 19
        assert not {*files(each.train)} & {*files(each.test)}
    added = [set(files(each.train)) for each in found]
    assert [len(each) for each in added] == [0, 2, 4, 10]
    assert added[0] < added[1] < added[2] < added[3], "what is added at a share is also added at a higher one"
    assert "5 % of the training images wanted, 5.0 % reached" in found[1].contamination
    assert "20 % of the training images wanted, 20.8 % reached" in found[3].contamination


def test_kinds_are_added_equally_and_only_as_many_as_are_set_aside(dataset: Dataset) -> None:
    found = contaminated(dataset, experiment(contamination=0.2), 0)
    for category in dataset.categories:
        kinds = Counter(sample.defect for sample in found.train.of(category).samples if sample.anomalous)
        assert kinds == {"spot": 3, "crack": 2}
    most = contaminated(dataset, experiment(contamination=0.5), 0)
    for category in dataset.categories:
        kinds = Counter(sample.defect for sample in most.train.of(category).samples if sample.anomalous)
        assert kinds == {"spot": 4, "crack": 2}, "half of each kind, rounded down"
    assert "50 % of the training images wanted, 24.0 % reached" in most.contamination


def test_the_seed_decides_and_pixels_go_with_their_samples(dataset: Dataset) -> None:
    first, again, other = (contaminated(dataset, experiment(contamination=0.2), seed) for seed in (0, 0, 1))
    assert first.train.samples == again.train.samples
    assert first.train.samples != other.train.samples
    pixels = {s.image: dataset.test.images[number] for number, s in enumerate(dataset.test.samples)}
    pixels |= {s.image: dataset.train.images[number] for number, s in enumerate(dataset.train.samples)}
    for split in (first.train, first.test, first.train.of("nut")):
        for number, sample in enumerate(split.samples):
            np.testing.assert_array_equal(split.images[number], pixels[sample.image])
        np.testing.assert_array_equal(np.asarray(split.images), [pixels[s.image] for s in split.samples])
        chosen = np.array([len(split) - 1, 0, 3])
        np.testing.assert_array_equal(split.images[chosen], [pixels[split.samples[number].image] for number in chosen])
        part = split.images[2:9]
        assert (len(part), part.shape) == (7, (7, 32, 32, 3))
    assert np.asarray(first.train.masks).any(axis=(1, 2)).sum() == len(files(first.train))
    assert (first.train_categories == ["bolt", "nut"].index("nut")).sum() == len(first.train.of("nut"))


def test_thresholds_are_set_on_normal_images(dataset: Dataset) -> None:
    found = arranged(dataset, experiment(contamination=0.2, calibration=0.5), 0)
    assert found.calibration is not None
    assert not files(found.calibration)
    assert len(files(found.calibration, defective=False)) == 20
    assert not {*files(found.calibration, defective=False)} & {*files(found.train, defective=False)}
    assert len(files(found.train)) == 4  # 20 % beside the 9 that are left of each category


def test_a_category_without_defects_to_take_is_named(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    for number in (1, 2):
        for file in (tree / "nut").glob(f"*/spot/{number:03d}*"):
            file.unlink()
    single = open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)
    with pytest.raises(InputError, match=r"test: contamination: 0\.2 needs 2 defective images of 'nut'; found no kind"):
        contaminated(single, experiment(contamination=0.2), 0)
    assert len(contaminated(single, experiment(contamination=0), 0).test.of("nut")) == 4


@pytest.mark.parametrize("value", [-0.1, 0.6, "some"])
def test_impossible_shares_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="contamination"):
        experiment(contamination=value)


def test_the_ablation_has_the_clean_training_on_the_same_split() -> None:
    _, variants = expand(load_ablation("ablation/contamination"), {})
    assert [each.contamination for each in variants] == [0, 0.05, 0.1, 0.2]


def test_cells_of_a_share_have_a_card_of_their_own(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", train=10)
    common = ("--data-root", tree, "--out", tmp_path / "out", "--tracking", "none", "--no-report", "-q", "--keep-maps")
    small = [word for each in ("image_size=64", "batch_size=4", "settings.channels=8") for word in ("--set", each)]
    for more in ((), ("--set", "contamination=0"), ("--set", "contamination=0.1")):
        ran = mddbench("run", "folder/padim", *common, *small, *more)
        assert ran.returncode == 0, ran.stderr
    found = [read_record(file) for file in sorted((tmp_path / "out").glob("cells/*/record.json"))]
    cards = {each.card.contamination for each in found}
    end = "half of the defective test images set aside"
    assert cards == {
        None,
        f"0 % of the training images wanted, 0.0 % reached; {end}",
        f"10 % of the training images wanted, 9.1 % reached; {end}",
    }
    assert len({each.identity for each in found}) == 3
    plain = next(each for each in found if each.card.contamination is None)
    assert "contamination" not in plain.settings
    assert "contamination" not in plain.card.texts()
    ran = mddbench("report", "--records", tmp_path / "out", "--to", tmp_path / "report", "--tables")
    assert len(list((tmp_path / "report").glob("*/main.md"))) == 3
    assert not plain.card.differing_task(plain.card)
    assert "defects in the training" in ran.stderr
