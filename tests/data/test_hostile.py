"""What somebody could put into a dataset to harm, hang or mislead: one clear line each, or read right."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from packaging.version import Version
from PIL import Image

from mddbench.data.cache import decode_faults
from mddbench.data.dataset import load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.data.images import ABOVE_ZERO, MaskRule, decode_image, decode_mask, native_mask
from mddbench.errors import InputError
from mddbench.progress import SilentReporter
from support import mddbench, read, save

QUIET = SilentReporter()

Change = Callable[[Any], object]


def rewrite(file: Path, change: Change) -> None:
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


PATHS = {
    "../../etc/passwd": "leads out of the dataset's folder",
    "/etc/passwd": "leads out of the dataset's folder",
    "C:/x.png": "leads out of the dataset's folder",
    "..": "leads out of the dataset's folder",
    "a/../../b.png": "leads out of the dataset's folder",
    "x\0.png": "leads out of the dataset's folder",
    "a\\..\\b.png": "leads out of the dataset's folder",
    "..\\b.png": "leads out of the dataset's folder",
    "\\etc\\passwd": "leads out of the dataset's folder",
    "\\\\host\\share\\b.png": "leads out of the dataset's folder",
    "//etc/passwd": "leads out of the dataset's folder",
    "c:\\b.png": "leads out of the dataset's folder",
    "ROOT/../b.png": "leads out of the dataset's folder",
    "ROOT": "leads out of the dataset's folder",
    "ROOT-other/b.png": "leads out of the dataset's folder",
    "": "names no file",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["real_iad", "meta", "visa"])
def test_a_path_out_of_the_folder_is_refused(name: str, path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate(name, load_source(name), root, full=False)
    expected, path = PATHS[path], path.replace("ROOT", str(root))
    if name == "visa":
        file = root / "split_csv" / "1cls.csv"
        lines = file.read_text().splitlines()
        fields = lines[1].split(",")
        lines[1] = ",".join([*fields[:3], path, ""])
        file.write_text("\n".join(lines))
    elif name == "meta":
        rewrite(root / "meta.json", lambda raw: raw["test"]["bolt"][0].update(img_path=path))
    else:
        rewrite(
            root / "realiad_jsons" / "realiad_jsons" / "toy.json", lambda raw: raw["test"][0].update(image_path=path)
        )
    (fault, other) = read(name, root).faults
    assert re.match(r"expected \d+ normal (training|test) images of category", other)
    assert expected in fault
    assert repr(path)[1:-1] in fault or not path  # as the file has it
    assert "\n" not in fault


REAL_IAD: list[tuple[Change, str]] = [
    (lambda raw: raw["test"][-1].update(mask_path="../m.png"), "leads out of the dataset's folder"),
    (lambda raw: raw["test"][-1].update(mask_path=7), "has no text 'mask_path'"),
    (lambda raw: raw["meta"].update(prefix="../"), "leads out of the dataset's folder"),
    (lambda raw: raw["meta"].update(prefix="nut/"), "found no such folder"),
    (lambda raw: raw.pop("meta"), "has no text 'normal_class'"),
    (lambda raw: raw.pop("train"), "expected a list 'train'"),
    (lambda raw: raw["train"].append(3), "has no text 'image_path'"),
    (lambda raw: raw["train"][0].update(anomaly_class="HS", mask_path="m.png"), "training images are normal"),
    (lambda raw: raw["test"].append(raw["test"][0]), "one image is named 2 times"),
    (lambda raw: raw["test"].append(raw["train"][0]), "one image is named 2 times"),
]


@pytest.mark.parametrize(("change", "message"), REAL_IAD)
def test_a_split_file_that_is_wrong_is_one_line(change: Change, message: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("real_iad", load_source("real_iad"), root, full=False)
    rewrite(root / "realiad_jsons" / "realiad_jsons" / "toy.json", change)
    faults = read("real_iad", root).faults
    assert message in faults[0]
    assert all("\n" not in fault for fault in faults)


META: list[tuple[Change, str]] = [
    (lambda raw: raw.pop("test"), "expected the keys train and test"),
    (lambda raw: raw["test"].update(bolt=3), "expected a list of entries"),
    (lambda raw: raw["test"]["bolt"][0].update(anomaly=2), "'anomaly' is neither 0 nor 1"),
    (lambda raw: raw["test"]["bolt"][0].update(mask_path=["a"]), "a mask is not named by a text"),
    (lambda raw: raw["test"].update(mean=raw["test"].pop("bolt")), "'mean' is what the mean over categories is called"),
    (lambda raw: raw["test"].update({"../x": raw["test"].pop("bolt")}), "is not a name"),
    (lambda raw: raw["test"].update({"x\n\x1b[2J": raw["test"].pop("bolt")}), "is not a name"),
]


@pytest.mark.parametrize(("change", "message"), META)
def test_a_meta_file_that_is_wrong_is_one_line(change: Change, message: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("meta", load_source("meta"), root, full=False)
    rewrite(root / "meta.json", change)
    faults = read("meta", root).faults
    assert any(message in fault for fault in faults)
    assert all(fault.isprintable() for fault in faults)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"[" * 200_000, "nested too deeply"),
        (b"null", "expected the keys train and test"),
    ],
)
def test_a_file_that_is_no_meta_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_bytes(content)
    (fault,) = read("meta", tmp_path).faults
    assert message in fault
    assert ("JSON" in fault) == (message == "not valid JSON")
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected the header object,split,label,image,mask"),
        ("object,split,label,image,mask\ncandle,train\n", "line 2: expected 5 columns, found 2"),
        pytest.param(
            f"object,split,label,image,mask\n{'x' * 200_000},train\n", "line 2: not valid CSV (field larger", id="long"
        ),
        ("object,split,label,image,mask\ncandle,val,normal,a.JPG,\n", "expected split train or test"),
        ("object,split,label,image,mask\ncandle,test,anomaly,a.JPG,\n", "has no mask"),
        ("object,split,label,image,mask\ncandle,train,anomaly,a.JPG,m.png\n", "training images are normal"),
    ],
)
def test_visas_split_file_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text(text)
    (fault,) = read("visa", tmp_path).faults
    assert message in fault


def test_a_name_that_is_no_text(tree: Path) -> None:
    image = tree / "nut" / "train" / "good" / "000.png"
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/\xff\xfe.png"))
    (fault,) = read("folder", tree).faults
    assert "the name is not printable UTF-8 text" in fault
    fault.encode()
    ran = mddbench("data", "check", "folder", "--data-root", tree, "--out", tree.parent / "out", "--quiet")
    assert ran.returncode == 2
    assert "the name is not printable UTF-8 text" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_folder_that_cannot_be_looked_into(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "good":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    faults = read("folder", tree).faults
    assert {fault.partition(": ")[2] for fault in faults} == {"cannot be read (Permission denied)"}
    assert f"{tree}/bolt/train/good" in faults[0]


def test_links_in_a_circle(tree: Path) -> None:
    image = tree / "nut" / "train" / "good" / "000.png"
    image.unlink()
    image.symlink_to(image)
    (fault,) = read("folder", tree).faults
    assert str(image) in fault
    assert "cannot be" in fault


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """A PNG of 40 kB that says that it has 1.6 billion pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 40_001 * 1000, 9)
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"bomb.png: "):
        decode_image(file, 16)


@pytest.mark.parametrize("tag", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(tag: int, tmp_path: Path) -> None:
    """And so lies under a mask that was drawn over what a viewer shows."""
    upright = np.zeros((40, 60, 3), dtype=np.uint8)
    upright[:20, :30] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[tag]
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "image.png", exif=exif)
    pixels, native = decode_image(tmp_path / "image.png", 20)
    assert native == (60, 40)
    np.testing.assert_array_equal(pixels[5, [4, 14]], [[255] * 3, [0] * 3])
    np.testing.assert_array_equal(pixels[15, [4, 14]], [[0] * 3, [0] * 3])
    save(upright[..., 0], tmp_path / "mask.png")
    np.testing.assert_array_equal(decode_mask(tmp_path / "mask.png", 20, native), pixels[..., 0] > 127)


def test_a_mask_over_the_pixels_as_stored_is_told_apart(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(tmp_path / "image.png", exif=exif)
    save(np.zeros((40, 60), dtype=np.uint8), tmp_path / "mask.png")
    _, native = decode_image(tmp_path / "image.png", 16)
    with pytest.raises(InputError, match="the image is turned by its EXIF orientation"):
        decode_mask(tmp_path / "mask.png", 16, native)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_is_an_error_or_is_ignored_in_one_line(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((20, 20, 3), 90, dtype=np.uint8))
    for broken in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0"):
        image.save(tmp_path / "image.jpg", exif=broken)
        try:
            pixels, _ = decode_image(tmp_path / "image.jpg", 8)
            assert abs(int(pixels.mean()) - 90) < 3
        except InputError as fault:
            assert "\n" not in str(fault)  # noqa: PT017


def test_kinds_of_pixels_that_are_not_read(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float.tif: its pixels are of a kind that is not read \('F'\)"):
        decode_image(tmp_path / "float.tif", 8)
    Image.fromarray(np.full((8, 8), 10**6, dtype=np.int32)).save(tmp_path / "large.tif")
    with pytest.raises(InputError, match=r"large.tif: its pixels are of a kind that is not read \('I'\)"):
        decode_image(tmp_path / "large.tif", 8)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8), 3, dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "image.png", transparency=bytes([0, 128, 255, 7]))
    pixels, _ = decode_image(tmp_path / "image.png", 4)
    assert pixels[0, 0].tolist() == [10, 20, 30]


def test_a_mask_of_class_numbers_in_black_is_seen(tmp_path: Path) -> None:
    indices = np.zeros((16, 16), dtype=np.uint8)
    indices[:8] = 2
    mask = Image.fromarray(indices, mode="P")
    mask.putpalette([0] * 768)
    mask.save(tmp_path / "mask.png")
    assert native_mask([tmp_path / "mask.png"], (16, 16)).sum() == 128


def test_a_mask_of_16_bit(tmp_path: Path) -> None:
    values = np.zeros((16, 16), dtype=np.uint16)
    values[:4] = 300
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert native_mask([tmp_path / "mask.png"], (16, 16)).sum() == 64


def test_interpolated_masks_do_not_grow(tmp_path: Path) -> None:
    save(np.repeat(np.array([[0, 60, 120, 180, 255, 255]], dtype=np.uint8), 6, axis=0), tmp_path / "mask.png")
    assert native_mask([tmp_path / "mask.png"], (6, 6), MaskRule(127)).sum() == 18
    assert str(MaskRule(127)) == "mask > 127, PIL bilinear, > 0.5"


def test_an_empty_mask_of_a_defect_is_a_warning(tree: Path) -> None:
    mask = tree / "nut" / "ground_truth" / "spot" / "001_mask.png"
    save(np.zeros((48, 56), dtype=np.uint8), mask)
    found = list(decode_faults(read("folder", tree).samples, 64, ABOVE_ZERO, QUIET))
    assert [(str(mask) in line, stops) for line, stops in found] == [(True, False)]
    ran = mddbench("data", "check", "folder", "--data-root", tree, "--out", tree.parent / "out", "--quiet", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "the mask of a defective image is empty" in json.loads(ran.stdout)["warnings"][0]


def test_a_full_disk_is_one_error_and_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    """The size of any file is limited to 40 kB, in a process of its own: the disk refuses to take more."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from mddbench.data.dataset import open_dataset\n"
        "from mddbench.errors import InputError\n"
        "from mddbench.progress import SilentReporter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "try:\n"
        "    open_dataset('folder', Path(sys.argv[1]), Path(sys.argv[2]), 128, SilentReporter())\n"
        "except InputError as fault:\n"
        "    print(fault)\n"
    )
    cache = tmp_path / "cache"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tree), str(cache)], capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"decoded images cannot be written \(File too large\); free some room", ran.stdout), ran.stdout
    assert {file.suffix for file in (cache / "decoded").iterdir()} <= {".lock"}
    dataset = open_dataset("folder", tree, cache, 128, QUIET)
    assert np.array_equal(dataset.train.images[0], decode_image(dataset.train.samples[0].image, 128)[0])


@pytest.mark.parametrize("colours", [2, 4])
def test_a_mask_of_two_colours_is_not_inverted_by_its_palette(colours: int, tmp_path: Path) -> None:
    """A palette may begin with white; the numbers tell only where the colours are all alike."""
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).convert("RGB").quantize(colours).save(tmp_path / "mask.png")
    assert native_mask([tmp_path / "mask.png"], (64, 64)).sum() == 100
    Image.fromarray(mask).convert("CMYK").save(tmp_path / "mask.tif")
    assert native_mask([tmp_path / "mask.tif"], (64, 64)).sum() == 100


def test_a_mask_that_marks_most_of_the_image_and_one_that_vanishes_are_warnings(tree: Path) -> None:
    truth = tree / "nut" / "ground_truth" / "spot"
    save(np.pad(np.zeros((1, 1), dtype=np.uint8), ((0, 47), (0, 55)), constant_values=255), truth / "001_mask.png")
    save(np.pad(np.full((1, 1), 255, dtype=np.uint8), ((0, 47), (0, 55))), truth / "002_mask.png")
    lines = [line for line, stops in decode_faults(read("folder", tree).samples, 16, ABOVE_ZERO, QUIET) if not stops]
    assert "001_mask.png: 100% of the image is marked as defect; is the mask inverted?" in lines[0]
    assert "1 defects have no pixel left at 16x16, that of" in lines[1]


@pytest.mark.parametrize(
    ("name", "place"), [("meta", "meta.json"), ("visa", "split_csv/1cls.csv"), ("folder", "FABRICATED.json")]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_a_file_that_says_what_there_is_must_be_one(name: str, place: str, kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate(name, load_source(name), root, full=False)
    (root / place).rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(root / place)
    else:
        (root / place).symlink_to("/dev/zero" if kind == "device" else tmp_path / "moved")
    try:
        said = " ".join(read(name, root).faults)
    except InputError as fault:
        said = str(fault)
    assert str(root / place) in said


def test_a_split_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.data.splits.LARGEST", 10)
    (tmp_path / "meta.json").write_text('{"train": {}, "test": {}}')
    (fault,) = read("meta", tmp_path).faults
    assert "more than the 10 bytes allowed" in fault


def test_an_image_file_that_is_too_large_is_not_read(tree: Path) -> None:
    image = tree / "nut" / "train" / "good" / "000.png"
    with image.open("r+b") as file:
        file.truncate(2**36)  # sparse: it takes no room
    (fault,) = read("folder", tree).faults
    assert f"{image}: 68719476736 bytes is more than the" in fault
    with pytest.raises(InputError, match="bytes is more than the"):
        decode_image(image, 8)


def test_the_root_of_an_archive_may_not_lie_elsewhere(tmp_path: Path) -> None:
    fabricate("btad", load_source("btad"), tmp_path / "root", full=False)
    inner = tmp_path / "root" / "BTech_Dataset_transformed"
    inner.rename(tmp_path / "outside")
    inner.symlink_to(tmp_path / "outside")
    (fault,) = read("btad", tmp_path / "root").faults
    assert f"{inner}: a symbolic link out of" in fault


EMPTY: list[tuple[Change, str]] = [
    (lambda raw: raw.update(train={}, test={}, validation={}), "no image below"),
    (
        lambda raw: (raw["train"].pop("nut"), raw["validation"].pop("nut")),
        "category 'nut' has no normal training image",
    ),
    (lambda raw: raw["test"].pop("nut"), "category 'nut' has no test image"),
    (lambda raw: raw["test"]["nut"][-1].update(mask_path=""), "no mask for it, but other defects of 'nut' have one"),
]


@pytest.mark.parametrize(("change", "message"), EMPTY)
def test_a_category_that_cannot_be_trained_or_judged_is_a_fault(change: Change, message: str, tmp_path: Path) -> None:
    fabricate("meta", load_source("meta"), tmp_path / "root", full=False)
    rewrite(tmp_path / "root" / "meta.json", change)
    assert any(message in fault for fault in read("meta", tmp_path / "root").faults)


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("mvtec", load_source("mvtec"), root, full=False)
    (root / "bottle" / "ground_truth" / "broken" / "000_mask.png").unlink()
    (root / "cable" / "train" / "good" / "000.png").unlink()
    os.mkfifo(root / "cable" / "train" / "good" / "000.png")
    (root / "grid" / "train" / "good" / "000.png").unlink()
    save(np.zeros((4, 4), dtype=np.uint8), root / "pill" / "test" / "good" / "011.jpg")
    (root / "pill" / "test" / "good" / "012.png").write_bytes(b"")
    ran = mddbench("data", "check", "mvtec", "--data-root", root, "--out", tmp_path / "out", "--quiet")
    assert ran.returncode == 2
    for problem in (
        "no mask for it",
        "not an ordinary file",
        "expected 10 normal training images of category 'grid'",
        "expected 5 normal test images of category 'pill'",
        "not an image that can be read (0 bytes)",
    ):
        assert ran.stderr.count(problem) == 1, (problem, ran.stderr)


def test_names_that_would_move_the_cursor_are_spelt_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("meta", load_source("meta"), root, full=False)
    rewrite(root / "meta.json", lambda raw: raw["test"]["nut"][-1].update(specie_name="a\n\x1b[31m\ud800"))
    ran = mddbench("data", "check", "meta", "--data-root", root, "--out", tmp_path / "out", "--quiet")
    assert ran.returncode == 2
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert "is not printable text" in ran.stderr


@pytest.mark.renders
def test_what_a_faulty_tree_has_is_shown(tree: Path, tmp_path: Path) -> None:
    (tree / "nut" / "ground_truth" / "spot" / "001_mask.png").unlink()
    out = ("--out", tmp_path / "out")
    ran = mddbench("data", "show", "folder", "--data-root", tree, *out)
    assert ran.returncode == 0, ran.stderr
    assert "no mask for it" in ran.stderr
    assert (tmp_path / "out" / "folder.png").exists()
    ran = mddbench("data", "show", "folder", "--data-root", tree, *out, "--file", tmp_path / "sheet.abc")
    assert ran.returncode == 2
    assert "expected a picture's name" in ran.stderr


def test_folders_within_folders_without_end(tree: Path) -> None:
    spot = tree / "nut" / "test" / "spot"
    (spot / "again").symlink_to(spot)
    deep = spot / "/".join("a" * 300)
    deep.mkdir(parents=True)
    assert any("the folder holds no image" in fault for fault in read("folder", tree).faults)


def test_a_faulty_entry_hides_no_other(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("visa", load_source("visa"), root, full=False)
    file = root / "split_csv" / "1cls.csv"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace(",train,", ",val,")
    lines[2] = lines[2].replace("candle/Data", "../candle/Data")
    file.write_text("\n".join(lines))
    (root / "candle" / "Data" / "Images" / "Normal" / "0005.JPG").unlink()
    faults = "\n".join(read("visa", root).faults)
    for problem in (
        "found 'val'",
        "leads out of",
        "0005.JPG: not there",
        "expected 10 normal training images of category",
    ):
        assert problem in faults


def test_a_great_many_faulty_entries_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("meta", load_source("meta"), root, full=False)
    rewrite(
        root / "meta.json",
        lambda raw: [entry.update(anomaly=7) for part in raw.values() for each in part.values() for entry in each],
    )
    faults = read("meta", root).faults
    assert len(faults) == 21
    assert faults[-1].endswith("meta.json: 26 more entries are at fault")


def test_a_folder_linked_out_is_told_once(tree: Path, tmp_path: Path) -> None:
    (tree / "nut").rename(tmp_path / "outside")
    (tree / "nut").symlink_to(tmp_path / "outside")
    (fault,) = read("folder", tree).faults
    assert f"{tree}/nut: a symbolic link out of" in fault


@pytest.mark.parametrize("name", ["10.02.03\u202fAM", "\u90e8\u54c1\u30001", "caf\u00e9", "a\u00a0b"])
def test_names_in_all_scripts_are_names(name: str, tree: Path) -> None:
    (tree / "nut" / "train" / "good" / "000.png").rename(tree / "nut" / "train" / "good" / f"{name}.png")
    (tree / "bolt").rename(tree / name)
    assert read("folder", tree).faults == ()


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\u202eb", "a\u2028b"])
def test_names_that_are_no_text_are_spelt_out(name: str, tree: Path) -> None:
    (tree / "nut").rename(tree / name)
    faults = read("folder", tree).faults
    assert faults
    assert all(name not in fault for fault in faults)


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("visa", load_source("visa"), root, full=False)
    file = root / "split_csv" / "1cls.csv"
    file.rename(file.with_name("real.csv"))
    file.symlink_to("real.csv")
    assert read("visa", root).faults == ()


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PPM"])
def test_a_file_of_another_kind_is_not_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "image.png", format=kind)
    with pytest.raises(InputError, match="not an image that can be read"):
        decode_image(tmp_path / "image.png", 8)


def test_palettes_of_masks_are_decided_by_their_colours(tmp_path: Path) -> None:
    numbers = np.zeros((8, 8), dtype=np.uint8)
    numbers[0], numbers[1] = 1, 2

    def area(palette: list[int], values: np.ndarray, rule: MaskRule = ABOVE_ZERO) -> int:
        mask = Image.fromarray(values, mode="P")
        mask.putpalette(palette)
        mask.save(tmp_path / "mask.png")
        return int(native_mask([tmp_path / "mask.png"], (8, 8), rule).sum())

    black_black_red = [0, 0, 0, 0, 0, 0, 255, 0, 0]
    assert area(black_black_red, numbers) == 8
    assert area(black_black_red, numbers, MaskRule(numbers=True)) == 16
    white_black = [255, 255, 255, 0, 0, 0]
    assert area(white_black, np.ones((8, 8), dtype=np.uint8)) == 0
    assert area(white_black, np.zeros((8, 8), dtype=np.uint8)) == 64


@pytest.mark.skipif(
    Version(PIL.__version__) < Version("13"),
    reason="Pillow below 13 reads four bytes for three of an uncompressed YCbCr TIFF",
)
def test_a_mask_of_luma_and_chroma(tmp_path: Path) -> None:
    values = np.zeros((8, 8), dtype=np.uint8)
    values[0], values[1] = 100, 200
    Image.fromarray(values).convert("RGB").convert("YCbCr").save(tmp_path / "mask.tif")
    assert native_mask([tmp_path / "mask.tif"], (8, 8)).sum() == 16


def test_a_cache_that_cannot_be_written_is_one_line(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot be made \(.*\); give another folder by --cache-dir"):
        open_dataset("folder", tree, tmp_path / "file", 32, QUIET)


def test_real_iad_without_its_images_says_what_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("real_iad", load_source("real_iad"), root, full=False)
    (root / "realiad_256" / "toy").rename(tmp_path / "toy")
    (fault,) = read("real_iad", root).faults
    assert "expected its images below" in fault
    assert "unpack them there" in fault
    (root / "realiad_256").rename(tmp_path / "all")
    (fault,) = read("real_iad", root).faults
    assert f"expected Real-IAD's images below {root}/realiad_256, or another release" in fault
