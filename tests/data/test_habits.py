"""What people do with folders of their own: it works, or one line says how to name things."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mddbench.data.dataset import load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.progress import SilentReporter
from support import mddbench, read, save, write_tree

QUIET = SilentReporter()
COUNTS = {"bolt": (6, 3, 3), "nut": (6, 3, 3)}


@pytest.mark.parametrize("name", ["good", "ok", "normal", "OK", "Normal"])
def test_the_folder_of_normal_images(name: str, tree: Path) -> None:
    for part in ("train", "test"):
        (tree / "nut" / part / "good").rename(tree / "nut" / part / name)
    found = read("folder", tree)
    assert found.faults == found.warnings == ()
    assert found.counts == COUNTS


@pytest.mark.parametrize("ending", ["_mask", "", "_gt"])
def test_the_ending_of_masks(ending: str, tree: Path) -> None:
    for mask in (tree / "nut" / "ground_truth" / "spot").iterdir():
        mask.rename(mask.with_stem(mask.stem.removesuffix("_mask") + ending))
    found = read("folder", tree)
    assert found.faults == ()
    assert all(sample.masks for sample in found.samples if sample.anomalous)


@pytest.mark.parametrize("way", ["{stem}_mask_{n}.png", "{stem}_gt{n}.png", "{stem}/{n}.png", "{stem}_Mask-{n}.png"])
def test_several_masks_of_one_image_are_united(way: str, tree: Path, tmp_path: Path) -> None:
    whole = open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)
    folder = tree / "nut" / "ground_truth" / "spot"
    for mask in list(folder.iterdir()):
        pixels = np.asarray(Image.open(mask))
        for number, rows in enumerate(np.array_split(np.arange(len(pixels)), 2)):
            piece = np.zeros_like(pixels)
            piece[rows] = pixels[rows]
            save(piece, folder / way.format(stem=mask.stem.removesuffix("_mask"), n=number))
        mask.unlink()
    found = read("folder", tree)
    assert found.faults == found.warnings == ()
    assert {len(sample.masks) for sample in found.samples if sample.anomalous and sample.category == "nut"} == {2}
    parts = open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)
    np.testing.assert_array_equal(parts.test.masks, whole.test.masks)


def test_a_number_in_the_name_of_an_image_is_no_number_of_a_mask(tree: Path) -> None:
    for part, ending in (("test", ""), ("ground_truth", "_mask")):
        for file in (tree / "nut" / part / "spot").iterdir():
            file.rename(file.with_stem(f"left_gt_{file.stem.removesuffix('_mask')}{ending}"))
    assert read("folder", tree).faults == ()
    for file in (tree / "nut" / "ground_truth" / "spot").iterdir():
        file.rename(file.with_stem(file.stem.removesuffix("_mask")))
    assert read("folder", tree).faults == ()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("{}_mask.png", "{}_mask_1.png", "a second mask for image"),
        ("{}_gt_1.png", "{}_mask.png", "a second mask for image"),
        ("{}.png", "{}_mask_1.png", "a second mask for image"),
        ("{}_mask.png", "{}/1.png", "masks for image"),
        ("{}_mask_1.png", "{}/1.png", "masks for image"),
    ],
)
def test_two_ways_to_give_the_masks_of_one_image_are_a_fault(first: str, second: str, words: str, tree: Path) -> None:
    mask = min((tree / "nut" / "ground_truth" / "spot").iterdir())
    stem = mask.stem.removesuffix("_mask")
    mask = mask.rename(mask.with_name(first.format(stem)))
    other = mask.parent / second.format(stem)
    other.parent.mkdir(exist_ok=True)
    shutil.copy(mask, other)
    faults = read("folder", tree).faults
    assert len(faults) == 1
    assert f"{words} '{stem}' beside" in faults[0]


def test_a_kind_within_a_kind_is_no_folder_of_an_image(tree: Path) -> None:
    """Although an image beside it has the same name."""
    for part, ending in (("test", ""), ("ground_truth", "_mask")):
        spot = tree / "nut" / part / "spot"
        (spot / "deep").mkdir()
        shutil.copy(spot / f"000{ending}.png", spot / f"deep{ending}.png")
        shutil.move(spot / f"001{ending}.png", spot / "deep" / f"001{ending}.png")
    found = read("folder", tree)
    assert found.faults == ()
    assert {len(sample.masks) for sample in found.samples if sample.anomalous} == {1}


def test_two_masks_without_numbers_are_a_fault_that_says_how_to_call_them(tree: Path) -> None:
    mask = min((tree / "nut" / "ground_truth" / "spot").iterdir())
    stem = mask.stem.removesuffix("_mask")
    shutil.copy(mask, mask.with_stem(f"{stem}_gt"))
    (fault,) = read("folder", tree).faults
    assert f"call several {stem}_mask_1, {stem}_mask_2" in fault


def test_no_masks_at_all_means_image_level_only(tree: Path, tmp_path: Path) -> None:
    for category in COUNTS:
        shutil.rmtree(tree / category / "ground_truth")
    dataset = open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)
    assert not dataset.test.has_masks
    assert not dataset.test.masks.any()


def test_kinds_of_defects_within_kinds(tree: Path) -> None:
    for part in ("test", "ground_truth"):
        folder = tree / "nut" / part / "spot"
        (tree / "nut" / part / "surface").mkdir()
        folder.rename(tree / "nut" / part / "surface" / "deep")
    found = read("folder", tree)
    assert found.faults == ()
    assert {sample.defect for sample in found.samples if sample.category == "nut"} == {"good", "surface/deep"}
    assert all(sample.masks for sample in found.samples if sample.anomalous)


def test_masks_for_a_kind_within_a_kind_that_is_not_there(tree: Path) -> None:
    shutil.copytree(tree / "nut" / "ground_truth" / "spot", tree / "nut" / "ground_truth" / "spot" / "old")
    (fault,) = read("folder", tree).faults
    assert "masks for a defect 'spot/old'" in fault


def test_one_category_by_its_own_folder(tree: Path) -> None:
    found = read("folder", tree / "nut")
    assert found.faults == ()
    assert found.counts == {"nut": (6, 3, 3)}
    (fault,) = read("mvtec", tree / "nut").faults
    assert "looks like one category (it holds train/ and test/); give its parent folder" in fault


def test_training_images_straight_in_train(tree: Path) -> None:
    for image in (tree / "nut" / "train" / "good").iterdir():
        image.rename(tree / "nut" / "train" / image.name)
    (tree / "nut" / "train" / "good").rmdir()
    assert read("folder", tree).counts == COUNTS


def test_test_images_straight_in_test_are_of_no_kind(tree: Path) -> None:
    image = tree / "nut" / "test" / "spot" / "001.png"
    shutil.copy(image, tree / "nut" / "test" / "001.png")
    (fault,) = read("folder", tree).faults
    assert "which says what they are" in fault


def test_defects_among_the_training_images_are_a_fault(tree: Path) -> None:
    shutil.copytree(tree / "nut" / "test" / "spot", tree / "nut" / "train" / "spot")
    (fault,) = read("folder", tree).faults
    assert f"{tree}/nut/train/spot: training images are normal ones" in fault


def test_masks_in_a_folder_of_another_name_are_a_warning(tree: Path) -> None:
    (tree / "nut" / "ground_truth").rename(tree / "nut" / "masks")
    found = read("folder", tree)
    assert found.faults == ()
    assert found.warnings == (f"{tree}/nut/masks: not read; masks belong into ground_truth/<defect>/",)


def test_images_in_a_heap_are_told_how_to_lie(tmp_path: Path) -> None:
    for kind in ("normal", "abnormal"):
        save(np.zeros((8, 8), dtype=np.uint8), tmp_path / "photos" / kind / "0.png")
    ran = mddbench("data", "check", "folder", "--data-root", tmp_path / "photos", "--out", tmp_path / "out", "--quiet")
    assert ran.returncode == 2
    assert f"no category below {tmp_path}/photos: expected folders <category>/train/good and" in ran.stderr
    assert "test/{good,<defect>}/*.png" in ran.stderr  # the tree that is expected


def test_found_and_expected_stand_side_by_side(tree: Path, tmp_path: Path) -> None:
    (tree / "bolt").rename(tree / "bottle")
    ran = mddbench("data", "check", "mvtec", "--data-root", tree, "--out", tmp_path / "out", "--quiet")
    assert ran.returncode == 2
    assert "6/209" in ran.stdout
    assert "0/391" in ran.stdout  # of hazelnut, which is not there
    ran = mddbench("data", "check", "mvtec", "--data-root", tree, "--out", tmp_path / "out", "--quiet", "--json")
    found = {row["category"]: row for row in json.loads(ran.stdout)["categories"]}
    assert found["bottle"]["expected"] == {"train": 209, "test_good": 20, "test_defective": 63}
    assert found["bottle"]["train"] == 6


def test_the_manifest_can_be_written(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifest.tsv"
    ran = mddbench("data", "check", "folder", "--data-root", tree, "--out", tmp_path / "out", "--manifest", file, "-q")
    assert ran.returncode == 0, ran.stderr
    lines = file.read_text().splitlines()
    assert len(lines) == 30
    assert lines[0].startswith("bolt/ground_truth/spot/000_mask.png\t")
    assert "30 files, fingerprint " in ran.stdout


@pytest.mark.parametrize("name", ["x.gif", "x.HEIC", "x.pgm"])
def test_images_of_a_kind_that_is_not_read_are_a_warning(name: str, tree: Path) -> None:
    (tree / "nut" / "train" / "good" / name).write_bytes(b"x")
    (warning,) = read("folder", tree).warnings
    assert f"{tree}/nut/train/good: 1 images are not read, {name} for one" in warning


def test_litter_beside_a_published_dataset_stops_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("mvtec", load_source("mvtec"), root, full=False)
    (root / "__MACOSX").mkdir()
    (root / "results").mkdir()
    tree = read("mvtec", root)
    assert tree.faults == ()
    assert tree.warnings == (f"{root}/results: not read, as it holds neither train/ nor test/",)


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_category_of_which_a_part_is_missing(part: str, tree: Path) -> None:
    shutil.rmtree(tree / "nut" / part)
    faults = read("folder", tree / "nut").faults
    assert any("category 'nut' needs" in fault and f"{tree}/nut/{part}" in fault for fault in faults)


def test_a_category_may_be_called_train(tree: Path) -> None:
    (tree / "nut").rename(tree / "train")
    assert read("folder", tree).counts == {"bolt": (6, 3, 3), "train": (6, 3, 3)}


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("mvtec", "mvtec_anomaly_detection"),
        ("mpdd", "MPDD"),
        ("mvtec_loco", "mvtec_loco_anomaly_detection"),
        ("mvtec_ad2", "mvtec_ad_2"),
        ("robustad", "RobustAD"),
        ("uni_medical", "medical"),
    ],
)
def test_the_folder_that_an_archive_unpacks_to(name: str, inside: str, tmp_path: Path) -> None:
    fabricate(name, load_source(name), tmp_path / "root" / inside, full=False)
    (tmp_path / "root" / inside / "FABRICATED.json").rename(tmp_path / "root" / "FABRICATED.json")
    tree = read(name, tmp_path / "root")
    assert tree.faults == ()
    assert tree.root == tmp_path / "root" / inside


@pytest.mark.parametrize("place", ["realiad_jsons", "."])
def test_real_iads_splits_where_peers_put_them(place: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("real_iad", load_source("real_iad"), root, full=False)
    before = read("real_iad", root)
    for file in (root / "realiad_jsons" / "realiad_jsons").iterdir():
        file.rename(root / place / file.name)
    after = read("real_iad", root)
    assert after.faults == ()
    assert after.samples == before.samples


def test_a_part_of_a_fabricated_tree_is_fabricated_too(tmp_path: Path) -> None:
    fabricate("folder", load_source("folder"), tmp_path / "root", full=False)
    dataset = open_dataset("folder", tmp_path / "root" / "nut", tmp_path / "cache", 32, QUIET)
    assert dataset.categories == ("nut",)
    assert dataset.fabricated


@pytest.mark.parametrize("masks", [True, False])
def test_normal_images_under_another_name_are_asked_for(masks: bool, tree: Path) -> None:
    (tree / "nut" / "test" / "good").rename(tree / "nut" / "test" / "clean")
    if not masks:
        shutil.rmtree(tree / "nut" / "ground_truth")
    found = read("folder", tree)
    assert (
        f"{tree}/nut/test: no normal test images; their folder is called good or ok or normal, found clean, spot"
        in found.warnings
    )
    (fault,) = found.faults
    assert (f"{tree}/nut/test/clean: no folder" if masks else "no metric is defined") in fault


def test_a_category_without_defects_is_a_warning(tree: Path) -> None:
    shutil.rmtree(tree / "nut" / "test" / "spot")
    shutil.rmtree(tree / "nut" / "ground_truth")
    found = read("folder", tree)
    assert found.faults == ()
    assert "category 'nut' has no defective test image" in found.warnings[0]


def test_one_missing_image_of_uniads_lines_is_one(tmp_path: Path) -> None:
    images = write_tree(tmp_path / "data" / "images")
    for split in ("train", "test"):
        names = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/{split}/*/*.png"))
        lines = [
            {"filename": n, "clsname": n.split("/")[0], "label": int("spot" in n), "label_name": "x"} for n in names
        ]
        (tmp_path / "data" / f"{split}.json").write_text("\n".join(map(json.dumps, lines)))
    (images / "bolt" / "train" / "good" / "000.png").unlink()
    (fault,) = read("meta", tmp_path / "data").faults
    assert f"{images}/bolt/train/good/000.png: not there; " in fault


@pytest.mark.parametrize("name", ["folder", "mvtec"])
def test_a_root_one_level_too_high_is_told(name: str, tree: Path) -> None:
    (fault,) = read(name, tree.parent).faults
    assert fault == f"categories lie deeper than {tree.parent}, {tree}/bolt for one; give {tree} by --data-root"


def test_another_datasets_folders_are_no_flood_of_warnings(tmp_path: Path) -> None:
    fabricate("visa", load_source("visa"), tmp_path / "root", full=False)
    found = read("mvtec", tmp_path / "root")
    assert len(found.faults) == 1
    assert found.warnings == ()


@pytest.mark.parametrize("way", ["absolute", "through a link", "backslashes", "absolute with backslashes", "doubled"])
@pytest.mark.parametrize("layout", ["meta", "uniad", "visa", "real_iad"])
def test_paths_in_files_may_be_written_in_many_ways(layout: str, way: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if layout == "uniad":
        images = write_tree(root)
        for split in ("train", "test"):
            names = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/{split}/*/*.png"))
            lines = [{"filename": n, "clsname": n.split("/")[0], "label": int("spot" in n)} for n in names]
            (root / f"{split}.json").write_text("\n".join(map(json.dumps, lines)))
    else:
        fabricate(layout, load_source(layout), root, full=False)
    (tmp_path / "link").symlink_to(root)
    before = read("meta" if layout == "uniad" else layout, root)
    assert before.faults == ()
    for file in (*root.glob("*.json"), *root.rglob("toy.json"), *root.rglob("1cls.csv")):
        place = f"{root}/realiad_256/toy" if layout == "real_iad" else str(root)
        text = file.read_text()
        for path in {str(p.relative_to(place)) for p in Path(place).rglob("*") if p.suffix.lower() in (".png", ".jpg")}:
            written = {
                "absolute": f"{place}/{path}",
                "through a link": f"{place}/{path}".replace(str(root), str(tmp_path / "link")),
                "backslashes": path.replace("/", "\\"),
                "absolute with backslashes": f"{place}/{path}".replace("/", "\\"),
                "doubled": path.replace("/", "//"),
            }[way]
            escaped = written if file.suffix == ".csv" else json.dumps(written)[1:-1]
            quote = "," if file.suffix == ".csv" else '"'
            for said in (path, path.replace("/", "//", 2), path.replace("/", "//", 1)):
                text = re.sub(rf"{quote}{re.escape(said)}(?=[{quote}\n\r])", lambda _, e=escaped, q=quote: q + e, text)
        file.write_text(text)
    given = tmp_path / "link" if way == "through a link" else root
    after = read("meta" if layout == "uniad" else layout, given)
    assert after.faults == ()
    assert [replaced(s.image, given, root) for s in after.samples] == [s.image for s in before.samples]
    assert [[replaced(m, given, root) for m in s.masks] for s in after.samples] == [
        list(s.masks) for s in before.samples
    ]


def replaced(path: Path, given: Path, root: Path) -> Path:
    return root / path.relative_to(given)


def test_one_category_is_called_as_it_was_given(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "screws").symlink_to(tree / "nut")
    assert read("folder", tmp_path / "screws").categories == ("screws",)
    monkeypatch.chdir(tree / "nut")
    assert read("folder", Path()).categories == ("nut",)
    assert read("folder", Path("../bolt/../nut")).categories == ("nut",)
