"""Files that are read in a way that somebody may not expect: one warning a dataset, in a run and in `data check`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mddbench.data.dataset import open_dataset
from mddbench.data.images import decode_image
from mddbench.progress import SilentReporter
from support import mddbench


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def save_deep(file: Path, highest: int) -> None:
    """16 bit grey, of which one pixel has this value and the others have less."""
    values = np.full((48, 56), highest // 2, dtype=np.uint16)
    values[3, 4] = highest
    Image.fromarray(values).save(file)


def save_pages(file: Path, pages: int, **options: object) -> None:
    frames = [Image.new("L", (56, 48), 40 * page) for page in range(1, pages + 1)]
    frames[0].save(file, save_all=True, append_images=frames[1:], **options)


def oddities_of(file: Path) -> set[str]:
    found: set[str] = set()
    decode_image(file, 16, oddities=found)
    return found


def warned(tree: Path, cache: Path, size: int = 32) -> list[str]:
    listening = Listening()
    open_dataset("folder", tree, cache, size, listening)
    return [line for line in listening.lines if line.startswith("warning")]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("highest", "odd"), [(1023, True), (4095, True), (16383, True), (0, False), (17000, False), (65535, False)]
)
def test_12_bit_in_a_16_bit_file_is_told_by_its_highest_value(
    highest: int, odd: bool, suffix: str, tmp_path: Path
) -> None:
    save_deep(tmp_path / f"image{suffix}", highest)
    assert oddities_of(tmp_path / f"image{suffix}") == ({"dark"} if odd else set())


def test_dark_images_of_8_bit_and_shallow_pages_are_nothing_odd(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (3, 3, 3)).save(tmp_path / "dark.png")
    Image.new("P", (8, 8), 3).save(tmp_path / "palette.png")
    Image.new("RGBA", (8, 8), (3, 3, 3, 255)).save(tmp_path / "alpha.tif")
    save_pages(tmp_path / "one.tif", 1)
    for file in tmp_path.iterdir():
        assert oddities_of(file) == set()


@pytest.mark.parametrize(
    ("name", "options"), [("a.tif", {}), ("a.tiff", {"compression": "tiff_deflate"}), ("a.webp", {}), ("a.png", {})]
)
def test_files_of_several_pages_are_told(name: str, options: dict[str, str], tmp_path: Path) -> None:
    save_pages(tmp_path / name, 3, **options)
    assert oddities_of(tmp_path / name) == {"pages"}
    assert abs(int(np.median(decode_image(tmp_path / name, 8)[0])) - 40) <= 1  # the first


def test_each_is_one_warning_a_dataset_with_the_number_and_one_name(tree: Path, tmp_path: Path) -> None:
    """Also of a dataset that was decoded before, and not for each split."""
    for number in range(3):
        save_deep(tree / "nut" / "train" / "good" / f"00{number}.png", 4095)
    save_deep(tree / "bolt" / "test" / "good" / "001.png", 4000)
    for folder in (tree / "nut" / "test" / "good", tree / "nut" / "ground_truth" / "spot"):
        for file in sorted(folder.iterdir())[:2]:
            file.unlink()
            save_pages(file.with_suffix(".tif"), 2)
    expected = [
        "4 images with 16 bits a value use a quarter of their range at most",
        "4 files have several pages or frames",
    ]
    lines = warned(tree, tmp_path / "cache")
    assert len(lines) == 2
    for line, part in zip(lines, expected, strict=True):
        assert part in line
        assert str(tree) in line
    assert f"{tree}/nut/train/good/000.png for one" in lines[0]
    assert warned(tree, tmp_path / "cache") == lines
    moved = tree.rename(tmp_path / "moved")
    assert [line.replace(str(moved), str(tree)) for line in warned(moved, tmp_path / "cache")] == lines
    ran = mddbench("data", "check", "folder", "--data-root", moved, "--out", tmp_path / "out", "--quiet", "--json")
    found = json.loads(ran.stdout)["warnings"]
    assert [sum(part in line for line in found) for part in expected] == [1, 1]
