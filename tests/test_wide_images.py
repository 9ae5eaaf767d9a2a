"""Images that are no squares, from their files to predictions, exports and changed light."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mddbench as api
from mddbench.data.cache import decoded_splits
from mddbench.data.images import decode_image, decode_mask
from mddbench.engine.memory import bytes_of_batch
from mddbench.errors import InputError
from mddbench.experiments.catalogue import load_experiment
from mddbench.inference.export import can_export
from mddbench.nn.encoder import FrozenEncoder
from mddbench.progress import SilentReporter
from mddbench.runs.evidence import EVIDENCE, load_evidence
from mddbench.runs.maps import kept_maps
from mddbench.runs.records import RECORD, Record, read_record
from mddbench.sizes import image_size_of, parse_size, pixel_count, position_count, shown_size, written_size
from support import manifest_of, mddbench, read, write_tree

SIZE = (64, 96)
SMALL = [word for each in ("batch_size=4", "settings.channels=8") for word in ("--set", each)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cell of PaDiM on images of 64x96 pixels, with thresholds and maps."""
    folder = tmp_path_factory.mktemp("wide")
    tree = write_tree(folder / "tree", train=10)
    words = ("--set", "image_size=[64, 96]", "--set", "calibration=0.2", "--keep-maps")
    ran = mddbench(
        *("run", "folder/padim", "--data-root", tree, "--out", folder / "out", "--tracking", "none"),
        *SMALL,
        *words,
        "-q",
    )
    assert ran.returncode == 0, ran.stderr
    return folder


def cell_of(cells: Path) -> tuple[Path, Record]:
    (file,) = (cells / "out" / "cells").glob(f"*/{RECORD}")
    return file.parent, read_record(file)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(128, 128), ("128", 128), ("96x160", (96, 160)), ([96, 160], (96, 160)), ((96, 96), 96), ([32, 8192], (32, 8192))],
)
def test_a_size_is_a_side_or_height_and_width(given: Any, expected: Any) -> None:
    assert parse_size(given) == expected


@pytest.mark.parametrize(
    "given", [31, 8193, [64, 31], [64], [64, 64, 64], "64x", "axb", "", True, [64.0, 64], None, {}]
)
def test_anything_else_is_no_size(given: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"(expected a side such as 256|input should be (greater than or equal to 32|less than or equal to 8192)$)",
    ):
        parse_size(given)


def test_a_size_in_numbers_and_words() -> None:
    assert (pixel_count(64), pixel_count(SIZE)) == (4096, 6144)
    assert (position_count(70, 16), position_count((70, 96), 16)) == (16, 24)
    assert (shown_size(64), shown_size(SIZE)) == ("64x64", "64x96")
    assert (written_size(64), written_size(SIZE)) == ("64", "[64, 96]")
    assert (image_size_of(64, 64), image_size_of(*SIZE)) == (64, SIZE)


def test_a_square_in_brackets_is_the_same_setting() -> None:
    plain = load_experiment("mini/rd4ad", {"image_size": 64})
    brackets = load_experiment("mini/rd4ad", {"image_size": [64, 64]})
    assert plain.image_size == brackets.image_size == 64
    assert load_experiment("mini/rd4ad", {"image_size": [64, 96]}).image_size == SIZE
    with pytest.raises(InputError, match=r"'image_size' is \[64\]: expected a side such as 256, or height and width"):
        load_experiment("mini/rd4ad", {"image_size": [64]})


def test_images_and_masks_are_decoded_alike(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:20, 60:] = 255  # the upper right quarter of the width
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image, native = decode_image(tmp_path / "a.png", SIZE)
    mask = decode_mask(tmp_path / "a.png", SIZE, native)
    assert image.shape == (64, 96, 3)
    assert native == (80, 40)
    expected = np.zeros(SIZE, dtype=bool)
    expected[:32, 72:] = True
    np.testing.assert_array_equal(mask, expected)
    assert (image[..., 0][expected] > 127).all()
    assert (image[..., 0][~expected] <= 127).all()


def test_each_size_is_decoded_into_arrays_of_its_own(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    samples, files = read("folder", root).select("test"), manifest_of("folder", root)
    shapes = {}
    for size in (64, SIZE, (96, 64)):
        (decoded,) = decoded_splits([samples], size, tmp_path / "decoded", files, SilentReporter())
        shapes[size] = decoded.images.shape[1:], decoded.masks.shape[1:]
    assert shapes == {
        64: ((64, 64, 3), (64, 64)),
        SIZE: ((64, 96, 3), (64, 96)),
        (96, 64): ((96, 64, 3), (96, 64)),
    }


def test_the_memory_of_a_batch_counts_height_and_width() -> None:
    encoder = FrozenEncoder("test_resnet", (1, 2))
    assert bytes_of_batch(encoder, 2, (64, 128)) == 2 * bytes_of_batch(encoder, 2, 64)


def test_a_cell_says_its_size(cells: Path) -> None:
    folder, record = cell_of(cells)
    assert record.settings["image_size"] == [64, 96]
    assert record.card.image_size == SIZE
    assert record.card.shown("image_size") == "64x96"
    assert {stored.maps.shape[1:] for stored in kept_maps(folder / "maps")} == {SIZE}


def test_new_images_are_resized_alike(cells: Path, tmp_path: Path) -> None:
    folder, _ = cell_of(cells)
    test = cells / "tree" / "bolt" / "test"
    ran = mddbench("predict", "folder/padim", test, "--out", cells / "out", "-q", "--to", tmp_path / "to")
    assert ran.returncode == 0, ran.stderr
    with (tmp_path / "to" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (evidence,) = (each for each in load_evidence(folder / EVIDENCE) if each.category == "bolt")
    np.testing.assert_array_equal(sorted(float(row["score"]) for row in rows), sorted(evidence.scores))
    heat = next((tmp_path / "to" / "heat").rglob("*.png"))
    with Image.open(heat) as picture:
        assert picture.size[1] >= 48  # as high as the image


def test_scores_in_memory_and_of_an_exported_model(cells: Path, tmp_path: Path) -> None:
    folder, _ = cell_of(cells)
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    maps, scores = api.load(folder).score(images)
    assert maps.shape == (3, *SIZE)
    assert scores.shape == (3,)
    assert api.load(folder).score([])[0].shape == (0, *SIZE)
    if not can_export():
        pytest.skip("this torch writes no programs")
    ran = mddbench("export-model", folder, tmp_path / "model.pt2")
    assert ran.returncode == 0, ran.stderr
    assert "(B, 64, 96, 3)" in (tmp_path / "model.pt2.md").read_text(encoding="utf-8")


def test_changed_images_have_their_size(cells: Path) -> None:
    words = ("--data-root", cells / "tree", "--out", cells / "out", "--set", "image_size=[64, 96]")
    ran = mddbench(
        *("shift", "folder/padim", *words, *SMALL, "--set", "calibration=0.2"),
        *("--changes", "motion,rotation", "--levels", "3", "-q"),
    )
    assert ran.returncode == 0, ran.stderr
    folder, _ = cell_of(cells)
    assert json.loads((folder / "shift.json").read_text(encoding="utf-8"))


def test_a_size_that_does_not_fit_is_said_before_anything_is_decoded(cells: Path) -> None:
    words = ("--data-root", cells / "tree", "--out", cells / "other")
    ran = mddbench("run", "folder/rd4ad", *words, "--set", "image_size=[64, 100]", "-q")
    assert ran.returncode == 2
    assert "rd4ad: image_size [64, 100] does not fit; use a multiple of 32" in ran.stderr
    ran = mddbench("data", "check", "folder", "--data-root", cells / "tree", "--image-size", "64x9")
    assert ran.returncode == 2
    assert "--image-size 64x9: input should be greater than or equal to 32" in ran.stderr
