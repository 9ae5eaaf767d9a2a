"""What every dataset must do, on a tree in its own layout with its traps planted."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from naive_datasets import READERS
from PIL import Image

from mddbench.data.dataset import load_source, open_dataset, read_dataset
from mddbench.data.fabricate import FEW, fabricate
from mddbench.data.images import decode_image, native_mask
from mddbench.data.samples import Tree
from mddbench.errors import InputError
from mddbench.plugins import DATASETS, modules
from mddbench.progress import SilentReporter
from support import mddbench, read

NAMES = list(modules(DATASETS))
DRAWN = [name for name in NAMES if load_source(name).fabricate is not None]
BY_FILES = ["elpv", "meta", "real_iad", "robustad", "visa"]
"""Those whose images are named by files."""
WITH_MASKS = [name for name in DRAWN if not load_source(name).mask_rule.labels]
QUIET = SilentReporter()


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A fabricated tree of each dataset, drawn once."""
    trees: dict[str, Path] = {}

    def draw(name: str) -> Path:
        if name not in trees:
            trees[name] = tmp_path_factory.mktemp(name) / "root"
            fabricate(name, load_source(name), trees[name], full=False)
        return trees[name]

    return draw


@pytest.fixture
def root(name: str, originals: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(originals(name), tmp_path / "root"))


def a_defect(tree: Tree) -> Path:
    return next(sample.image for sample in tree.samples if sample.anomalous)


@pytest.mark.parametrize("name", NAMES)
def test_it_describes_itself(name: str) -> None:
    source = load_source(name)
    assert source.description
    assert source.layout.startswith("ROOT/") or not source.layout
    assert source.fabricate is None or source.build is None


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_root_is_one_line(name: str, tmp_path: Path) -> None:
    faults = read(name, tmp_path / "nothing").faults
    assert len(faults) == 1
    assert "\n" not in faults[0]
    assert str(tmp_path / "nothing") in faults[0]


@pytest.mark.parametrize("name", [name for name in NAMES if load_source(name).build is None])
def test_a_dataset_that_is_not_embedded_asks_for_its_root(name: str, tmp_path: Path) -> None:
    """One of a package says how to install it, too."""
    package = load_source(name).package
    with pytest.raises(InputError, match=f"{f'{re.escape(package.requirement)}.*' if package else ''}--data-root"):
        read_dataset(name, None, tmp_path, 64)


@pytest.mark.parametrize("name", [name for name in NAMES if load_source(name).build is not None])
def test_an_embedded_dataset_is_sound_and_as_expected(name: str, tmp_path: Path) -> None:
    tree = read_dataset(name, None, tmp_path, 64).sound(name)
    published = load_source(name).published
    assert published is not None
    assert tree.counts == published.categories


def test_every_dataset_has_a_layout_and_a_naive_second_reading_or_is_drawn_anyway() -> None:
    sources = {name: load_source(name) for name in NAMES}
    assert all(source.layout for source in sources.values())
    assert sorted(READERS) == DRAWN == [name for name, source in sources.items() if source.build is None]


@pytest.mark.parametrize("name", DRAWN)
def test_labels_and_mask_areas_are_those_of_a_naive_reading(name: str, root: Path) -> None:
    tree = read(name, root)
    assert tree.faults == tree.warnings == ()
    assert set(tree.counts.values()) == {FEW}
    rule = load_source(name).mask_rule
    found = {}
    for sample in tree.samples:
        _, native = decode_image(sample.image, 16)
        area = int(native_mask(sample.masks, native, rule).sum())
        assert (area > 0) == (sample.anomalous and name in WITH_MASKS)
        found[sample.image.relative_to(tree.root).as_posix()] = (sample.split, sample.anomalous, area)
    assert found == READERS[name](root)


@pytest.mark.parametrize("name", DRAWN)
def test_it_opens(name: str, root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(name, root, tmp_path / "cache", 32, QUIET)
    train, good, defective = (count * len(dataset.categories) for count in FEW)
    assert (len(dataset.train), len(dataset.test)) == (train, good + defective)
    anomalous = [sample.anomalous for sample in dataset.test.samples]
    assert any(anomalous)
    assert dataset.test.masks.any(axis=(1, 2)).tolist() == [name in WITH_MASKS and each for each in anomalous]
    assert dataset.test.has_masks == (name in WITH_MASKS)
    assert not dataset.train.masks.any()
    assert (dataset.test.items is not None) == any(sample.item for sample in dataset.test.samples)
    moved = root.rename(root.with_name("elsewhere"))
    assert open_dataset(name, moved, tmp_path / "cache", 32, QUIET).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", DRAWN)
def test_files_that_nobody_asked_for_change_nothing(name: str, root: Path) -> None:
    before = read(name, root)
    for folder in {sample.image.parent for sample in before.samples}:
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "._000.png").write_bytes(b"x")
    after = read(name, root)
    assert after.samples == before.samples
    assert after.faults == ()


@pytest.mark.parametrize("name", WITH_MASKS)
def test_a_mask_that_is_missing_is_named(name: str, root: Path) -> None:
    sample = next(sample for sample in read(name, root).samples if sample.anomalous)
    for mask in sample.masks:
        mask.unlink()
    faults = read(name, root).faults
    assert any(
        ("no mask for it" in fault and str(sample.image) in fault) or str(sample.masks[0]) in fault for fault in faults
    )
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_that_is_missing_is_noticed(name: str, root: Path) -> None:
    next(sample.image for sample in read(name, root).samples if sample.split == "train").unlink()
    faults = read(name, root).faults
    assert len(faults) == 1
    assert "not there" in faults[0] or "expected 10 normal training images" in faults[0]


@pytest.mark.parametrize("name", DRAWN)
def test_a_link_out_of_the_root_is_named(name: str, root: Path, tmp_path: Path) -> None:
    image = a_defect(read(name, root))
    shutil.move(image, tmp_path / "outside")
    image.symlink_to(tmp_path / "outside")
    assert any(f"{image}: a symbolic link out of" in fault for fault in read(name, root).faults)


@pytest.mark.parametrize("name", DRAWN)
def test_a_folder_linked_out_of_the_root_is_named_and_one_within_it_is_fine(
    name: str, root: Path, tmp_path: Path
) -> None:
    tree = read(name, root)
    folder, inside = a_defect(tree).parent, tree.root / ".moved"
    shutil.move(folder, inside)
    folder.symlink_to(inside)
    assert read(name, root).faults == ()
    shutil.move(inside, tmp_path / "outside")
    folder.unlink()
    folder.symlink_to(tmp_path / "outside")
    assert any(f"{folder}: a symbolic link out of" in fault for fault in read(name, root).faults)


@pytest.mark.parametrize("name", DRAWN)
def test_a_pipe_in_the_place_of_an_image_does_not_hang(name: str, root: Path) -> None:
    image = a_defect(read(name, root))
    image.unlink()
    os.mkfifo(image)
    assert any(f"{image}: not an ordinary file" in fault for fault in read(name, root).faults)


@pytest.mark.parametrize("name", WITH_MASKS)
def test_a_mask_of_another_size_stops_a_run(name: str, root: Path, tmp_path: Path) -> None:
    mask = next(sample.masks[0] for sample in read(name, root).samples if sample.anomalous)
    Image.fromarray(np.ones((5, 7), dtype=np.uint8)).save(mask)
    with pytest.raises(InputError, match="the mask is 7x5 pixels, its image"):
        open_dataset(name, root, tmp_path / "cache", 32, QUIET)


@pytest.mark.parametrize("name", BY_FILES)
def test_a_file_that_says_what_there_is_belongs_to_the_fingerprint(name: str, root: Path, tmp_path: Path) -> None:
    tree = read(name, root)
    before = open_dataset(name, root, tmp_path / "cache", 32, QUIET).fingerprint
    tree.sources[0].write_text(tree.sources[0].read_text() + "\n")
    assert open_dataset(name, root, tmp_path / "cache", 32, QUIET).fingerprint != before


@pytest.mark.renders
@pytest.mark.parametrize("name", ["visa"])
def test_the_commands(name: str, tmp_path: Path) -> None:
    made = mddbench("data", "fabricate", name, tmp_path / "root")
    assert made.returncode == 0, made.stderr
    checked = mddbench("data", "check", name, "--data-root", tmp_path / "root", "--out", tmp_path / "out", "--quiet")
    assert checked.returncode == 0, checked.stderr
    assert "fingerprint" in checked.stdout
    shown = mddbench("data", "show", name, "--data-root", tmp_path / "root", "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert min(picture.size) > 500
