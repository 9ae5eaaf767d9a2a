"""Names whose letters systems compose in two ways: 'ü' in one sign (NFC), or as 'u' with a mark behind it (NFD)."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from mddbench.data.dataset import load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.data.samples import Tree
from mddbench.progress import SilentReporter
from support import manifest_of, read, write_tree

QUIET = SilentReporter()


def one_sign(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def two_signs(name: str) -> str:
    return unicodedata.normalize("NFD", name)


FORMS = {"NFC": one_sign, "NFD": two_signs}


def masks_of(tree: Tree) -> dict[str, str]:
    return {one_sign(s.image.stem): s.masks[0].name for s in tree.samples if s.anomalous and s.category == "nut"}


@pytest.mark.parametrize("images", FORMS)
@pytest.mark.parametrize("masks", FORMS)
@pytest.mark.parametrize("layout", ["folder", "mvtec"])
def test_masks_are_paired_however_letters_are_composed(images: str, masks: str, layout: str, tree: Path) -> None:
    """In files and in folders: the image lies in one form and its mask in the other."""
    for part, form in (("test", FORMS[images]), ("ground_truth", FORMS[masks])):
        folder = (tree / "nut" / part / "spot").rename(tree / "nut" / part / form("kratzer-ü"))
        for file in folder.iterdir():
            file.rename(file.with_name(form(f"für-{file.name}")))
    found = read(layout, tree)
    assert not [fault for fault in found.faults if "MVTec" not in fault]
    assert {name: one_sign(mask) for name, mask in masks_of(found).items()} == {
        f"für-{number:03d}": f"für-{number:03d}_mask.png" for number in range(3)
    }
    assert {sample.defect for sample in found.samples if sample.category == "nut"} == {"good", one_sign("kratzer-ü")}


@pytest.mark.parametrize("masks", FORMS)
def test_kinds_within_kinds_and_folders_of_masks_are_paired_too(masks: str, tree: Path, tmp_path: Path) -> None:
    for part, form in (("test", two_signs), ("ground_truth", FORMS[masks])):
        (tree / "nut" / part / form("größe")).mkdir()
        (tree / "nut" / part / "spot").rename(tree / "nut" / part / form("größe") / form("tief-ä"))
    found = read("folder", tree)
    assert found.faults == ()
    assert {s.defect for s in found.samples if s.category == "nut"} == {"good", one_sign("größe/tief-ä")}
    root = tmp_path / "loco"
    fabricate("mvtec_loco", load_source("mvtec_loco"), root, full=False)
    kind = root / "pushpins" / "test" / "logical_anomalies"
    image = next(iter(sorted(kind.iterdir())))
    truth = root / "pushpins" / "ground_truth" / "logical_anomalies" / image.stem
    image.rename(image.with_stem(one_sign("ü")))
    truth.rename(truth.with_name(FORMS[masks]("ü")))
    assert read("mvtec_loco", root).faults == ()


@pytest.mark.parametrize("on_disk", FORMS)
@pytest.mark.parametrize("in_file", FORMS)
@pytest.mark.parametrize("layout", ["meta", "visa", "real_iad"])
def test_files_that_name_images_find_them(on_disk: str, in_file: str, layout: str, tmp_path: Path) -> None:
    """Both the folder and the files in it have names that can be written in two ways."""
    root = tmp_path / "root"
    fabricate(layout, load_source(layout), root, full=False)
    before = read(layout, root)
    first, second = {
        "meta": ("images/", "images-é/"),
        "visa": ("Images/Anomaly/", "Images/Anomaly-é/"),
        "real_iad": ("NG/HS/", "NG/HS-é/"),
    }[layout]
    for folder in [path for path in root.rglob(first.strip("/").rpartition("/")[2]) if f"{path}/".endswith(first)]:
        folder.rename(str(folder).removesuffix(first.strip("/")) + FORMS[on_disk](second.strip("/")))
    for file in [*root.rglob("1cls.csv"), *root.rglob("*.json")]:
        text = (
            file.read_text(encoding="utf-8").replace(first.replace("/", "//"), first)
            if layout == "meta"
            else file.read_text()
        )
        file.write_text(text.replace(first, FORMS[in_file](second)), encoding="utf-8")
    after = read(layout, root)
    assert after.faults == ()
    assert after.counts == before.counts
    assert all(path.exists() for sample in after.samples for path in (sample.image, *sample.masks))


def test_a_category_that_a_file_names_in_two_ways_is_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("meta", load_source("meta"), root, full=False)
    (root / "FABRICATED.json").unlink()  # which says that it is called otherwise
    raw = json.loads((root / "meta.json").read_text())
    for part, form in (("train", one_sign), ("validation", two_signs), ("test", two_signs)):
        raw[part][form("nüt")] = raw[part].pop("nut")
    (root / "meta.json").write_text(json.dumps(raw))
    found = read("meta", root)
    assert found.faults == ()
    assert found.categories == ("bolt", one_sign("nüt"))


@pytest.mark.parametrize(
    "place",
    [
        "nut/train/good/ü.png",
        "nut/test/good/ü.png",
        "nut/test/spot/ü.png",
        "nut/test/ü/0.png",
        "nut/ground_truth/ü/0.png",
        "ü",
    ],
)
def test_two_names_in_one_folder_that_look_alike_are_a_fault(place: str, tree: Path) -> None:
    for number, form in enumerate((one_sign, two_signs)):
        target = tree / form(place)
        if place == "ü":
            (tree / "bolt").rename(target) if number else write_tree(tree, (form(place),))
        else:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((tree / "nut" / "test" / "spot" / f"00{number}.png").read_bytes())
    found = read("folder", tree)
    line = next(fault for fault in found.faults if "differs from" in fault)
    assert "only in how its letters are composed (Unicode NFC, NFD); rename or remove one" in line
    assert "\\u0308" in line  # so that it can be told which is which
    assert "\n" not in line
    if "ground_truth" not in place:
        assert found.faults[0] == line


def test_the_fingerprint_does_not_depend_on_how_letters_are_composed(tree: Path, tmp_path: Path) -> None:
    plain = manifest_of("folder", tree).fingerprint
    found = []
    for form in FORMS.values():
        root = write_tree(tmp_path / form("ä") / "tree", (form("nüt"), "nuz", "bolt"))
        image = root / form("nüt") / "train" / "good" / "000.png"
        image.rename(image.with_stem(form("é")))
        dataset = open_dataset("folder", root, tmp_path / "cache", 32, QUIET)
        found.append((dataset.fingerprint, dataset.categories, dataset.train.images.tobytes()))
    assert found[0] == found[1]
    assert manifest_of("folder", tree).fingerprint == plain


@pytest.mark.parametrize("ending", ["_Mask.png", "_MASK.PNG", "_GT.Png", "_gt.PNG", ".PNG"])
def test_endings_of_masks_in_any_case(ending: str, tree: Path) -> None:
    for mask in (tree / "nut" / "ground_truth" / "spot").iterdir():
        mask.rename(mask.with_name(mask.stem.removesuffix("_mask") + ending))
    found = read("folder", tree)
    assert found.faults == ()
    assert len(masks_of(found)) == 3
