"""Broken trees: each gives one clear line that names the path, and exit status 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mddbench.cli.main import main
from mddbench.data.samples import Tree
from support import mddbench, read, save, write_tree

GREY = np.full((48, 56), 90, dtype=np.uint8)


def remove_root(root: Path) -> str:
    shutil.rmtree(root)
    return "expected the dataset's folder at {root}, found nothing"


def empty_root(root: Path) -> str:
    for category in root.iterdir():
        shutil.rmtree(category)
    return "no category below {root}: expected folders <category>/train/good"


def remove_train(root: Path) -> str:
    shutil.rmtree(root / "nut" / "train")
    return "category 'nut' needs normal training images in {root}/nut/train/good: found no such folder"


def empty_train(root: Path) -> str:
    for image in (root / "nut" / "train" / "good").iterdir():
        image.unlink()
    return "category 'nut' needs normal training images in {root}/nut/train/good: found no image there"


def remove_test(root: Path) -> str:
    shutil.rmtree(root / "nut" / "test")
    shutil.rmtree(root / "nut" / "ground_truth")
    return "category 'nut' needs test images in {root}/nut/test/<good or defect>: found no such folder"


def empty_defect(root: Path) -> str:
    (root / "nut" / "test" / "dent").mkdir()
    return "{root}/nut/test/dent: the folder holds no image"


def remove_mask(root: Path) -> str:
    (root / "nut" / "ground_truth" / "spot" / "001_mask.png").unlink()
    return "{root}/nut/test/spot/001.png: no mask for it; expected {root}/nut/ground_truth/spot/001_mask.png"


def remove_image(root: Path) -> str:
    (root / "nut" / "test" / "spot" / "001.png").unlink()
    return "{root}/nut/ground_truth/spot/001_mask.png: a mask without an image; expected {root}/nut/test/spot/001.*"


def remove_defect_images(root: Path) -> str:
    shutil.rmtree(root / "nut" / "test" / "spot")
    return "{root}/nut/ground_truth/spot: masks for a defect 'spot' that {root}/nut/test does not have"


def give_two_masks(root: Path) -> str:
    save(GREY, root / "nut" / "ground_truth" / "spot" / "001.png")
    return "a second mask for image '001'"


def give_one_stem_twice(root: Path) -> str:
    save(GREY, root / "nut" / "test" / "spot" / "001.bmp")
    return "two images of one stem"


def shrink_mask(root: Path) -> str:
    save(GREY[:40], root / "nut" / "ground_truth" / "spot" / "001_mask.png")
    return "{root}/nut/ground_truth/spot/001_mask.png: the mask is 56x40 pixels, its image 56x48"


def misname_train(root: Path) -> str:
    (root / "nut" / "train").rename(root / "nut" / "Train")
    return "category 'nut' needs normal training images in {root}/nut/train/good: found no such folder"


def call_a_category_mean(root: Path) -> str:
    (root / "nut").rename(root / "mean")
    return "{root}/mean: 'mean' is what the mean over categories is called"


def truncate_image(root: Path) -> str:
    file = root / "nut" / "train" / "good" / "002.png"
    file.write_bytes(file.read_bytes()[:400])
    return "{root}/nut/train/good/002.png: the image cannot be decoded"


def empty_image(root: Path) -> str:
    (root / "nut" / "train" / "good" / "002.png").write_bytes(b"")
    return "{root}/nut/train/good/002.png: not an image that can be read (0 bytes)"


def rename_text(root: Path) -> str:
    (root / "nut" / "test" / "good" / "000.png").write_text("no picture")
    return "{root}/nut/test/good/000.png: not an image that can be read (10 bytes)"


FAULTS = [
    remove_root,
    empty_root,
    remove_train,
    empty_train,
    remove_test,
    empty_defect,
    remove_mask,
    remove_image,
    remove_defect_images,
    give_two_masks,
    give_one_stem_twice,
    shrink_mask,
    misname_train,
    call_a_category_mean,
    truncate_image,
    empty_image,
    rename_text,
]


@pytest.mark.parametrize("break_it", FAULTS, ids=lambda fault: fault.__name__)
def test_a_run_stops_with_one_line(
    break_it: Callable[[Path], str],
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = break_it(tree).format(root=tree)
    arguments = ["run", "folder/rd4ad", "--data-root", tree, "--out", tmp_path / "out", "--tracking", "none", "--quiet"]
    monkeypatch.setattr("sys.argv", ["mddbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("mddbench: ")
    assert expected in lines[0]


def test_data_check_lists_every_fault(tree: Path, tmp_path: Path) -> None:
    expected = [remove_mask(tree), truncate_image(tree)]
    ran = mddbench("data", "check", "folder", "--data-root", tree, "--out", tmp_path / "out", "--quiet")
    assert ran.returncode == 2
    lines = ran.stderr.strip().splitlines()
    assert lines[2] == "folder is expected as"
    for line, text in zip(lines[:2], expected, strict=True):
        assert text.format(root=tree) in line


def test_data_check_of_a_sound_tree(tree: Path, tmp_path: Path) -> None:
    ran = mddbench("data", "check", "folder", "--data-root", tree, "--out", tmp_path / "out", "--json", "--quiet")
    assert ran.returncode == 0, ran.stderr
    assert '"faults": []' in ran.stdout
    assert '"test_defective": 3' in ran.stdout


def pairs(tree: Tree) -> dict[str, str | None]:
    return {
        sample.image.stem: sample.masks[0].stem if sample.masks else None
        for sample in tree.samples
        if sample.defect == "spot"
    }


def test_masks_are_paired_by_stem_not_by_position(tree: Path) -> None:
    masks = tree / "nut" / "ground_truth" / "spot"
    (tree / "nut" / "test" / "spot" / "001.png").rename(tree / "nut" / "test" / "spot" / "zz.png")
    (masks / "001_mask.png").rename(masks / "zz.png")  # without the suffix
    found = read("folder", tree)
    assert found.faults == ()
    assert pairs(found)["zz"] == "zz"
    assert pairs(found)["002"] == "002_mask"


def test_labels_come_from_the_folder(tree: Path) -> None:
    save(np.zeros((48, 56), dtype=np.uint8), tree / "nut" / "ground_truth" / "spot" / "001_mask.png")
    found = read("folder", tree)
    assert sum(sample.anomalous for sample in found.samples) == 6


def test_a_category_without_ground_truth_is_labelled_by_image(tree: Path) -> None:
    shutil.rmtree(tree / "nut" / "ground_truth")
    found = read("folder", tree)
    assert found.faults == ()
    assert all(not sample.masks for sample in found.samples if sample.category == "nut")


def test_upper_case_suffixes_and_hidden_files(tree: Path) -> None:
    image = tree / "nut" / "train" / "good" / "000.png"
    image.rename(image.with_suffix(".PNG"))
    (tree / "nut" / "train" / "good" / ".DS_Store.png").write_bytes(b"x")
    assert len(read("folder", tree).select("train")) == 12


def test_mvtec_compares_with_the_published_counts(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "mvtec", categories=("bottle",), train=2, size=32)
    faults = read("mvtec", root).faults
    assert f"expected 209 normal training images of category 'bottle' below {root}, found 2" in faults
    assert f"cable, capsule, carpet and 11 others of MVTec-AD's 15 categories are not below {root}" in faults[0]
