"""Pixels: modes, masks, the cache, the fingerprint."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mddbench.data import cache, parallel
from mddbench.data.cache import decoded_splits
from mddbench.data.dataset import Dataset, open_dataset
from mddbench.data.images import decode_image, decode_mask
from mddbench.errors import InputError
from mddbench.progress import SilentReporter
from support import manifest_of, read, save, write_tree

QUIET = SilentReporter()


def opened(root: Path, cache: Path, size: int = 32) -> Dataset:
    return open_dataset("folder", root, cache, size, QUIET)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    file = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    grey = np.full((20, 30), 200, dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(np.full((20, 30), 200 * 257, dtype=np.uint16)).save(file)
    else:
        Image.fromarray(grey).convert(mode, dither=Image.Dither.NONE).save(file)
    pixels, native = decode_image(file, 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert native == (30, 20)
    assert abs(int(np.median(pixels)) - (255 if mode == "1" else 200)) <= 1


@pytest.mark.parametrize("high", [1, 255])
def test_a_mask_is_what_is_not_zero(high: int, tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[16:32, 16:48] = high
    save(mask, tmp_path / "mask.png")
    found = decode_mask(tmp_path / "mask.png", 32, (64, 64))
    expected = np.zeros((32, 32), dtype=bool)
    expected[8:16, 8:24] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_a_mask_is_the_same_in_every_mode(mode: str, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[4:12, 4:20] = 255
    Image.fromarray(mask).convert(mode, dither=Image.Dither.NONE).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(decode_mask(tmp_path / "mask.png", 32, (32, 32)), mask > 0)


def test_a_jpeg_mask_does_not_grow(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=60)
    np.testing.assert_array_equal(decode_mask(tmp_path / "mask.jpg", 64, (64, 64)), mask > 0)


def test_a_cut_cache_is_made_anew(tree: Path, tmp_path: Path) -> None:
    before = np.array(opened(tree, tmp_path / "cache").train.images)
    for file in (tmp_path / "cache").rglob("*-images.npy"):
        file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(opened(tree, tmp_path / "cache").train.images, before)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.data.images.MAX_PIXELS", 100)
    save(np.zeros((20, 30), dtype=np.uint8), tmp_path / "big.png")
    with pytest.raises(InputError, match=r"big.png: 30x20 pixels is more than the 100 allowed"):
        decode_image(tmp_path / "big.png", 16)


def test_the_cache_holds_what_decoding_gives_and_is_written_once(tree: Path, tmp_path: Path) -> None:
    first = opened(tree, tmp_path / "cache")
    for sample, image, mask in zip(first.test.samples, first.test.images, first.test.masks, strict=True):
        pixels, native = decode_image(sample.image, 32)
        np.testing.assert_array_equal(image, pixels)
        truth = decode_mask(sample.masks[0], 32, native) if sample.masks else np.zeros((32, 32), bool)
        np.testing.assert_array_equal(mask, truth)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}
    assert len(files) == 3  # no training image has a mask
    opened(tree, tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")} == files
    opened(tree, tmp_path / "cache", size=40)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 6


def test_a_changed_image_is_decoded_anew(tree: Path, tmp_path: Path) -> None:
    before = opened(tree, tmp_path / "cache")
    save(np.full((48, 56, 3), 7, dtype=np.uint8), before.train.samples[0].image)
    after = opened(tree, tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    assert (after.train.images[0] == 7).all()


def test_a_failed_decoding_leaves_no_cache(tree: Path, tmp_path: Path) -> None:
    (tree / "nut" / "train" / "good" / "002.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"002\.png"):
        opened(tree, tmp_path / "cache")
    assert {file.suffix for file in (tmp_path / "cache" / "decoded").iterdir()} <= {".lock"}


def test_too_small_a_disk_is_said_before(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("mddbench.data.cache.shutil.disk_usage", lambda _: usage._replace(free=10))
    samples = read("folder", tree).select("train")
    with pytest.raises(InputError, match=r"decoded images need 0 MiB, 0 MiB are free"):
        decoded_splits([samples], 32, tmp_path / "cache", manifest_of("folder", tree), QUIET)


def test_the_fingerprint_depends_on_content_and_paths_not_on_the_place(tree: Path, tmp_path: Path) -> None:
    digest = manifest_of("folder", tree).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(tree, moved)
    assert manifest_of("folder", moved).fingerprint == digest
    image = moved / "nut" / "train" / "good" / "000.png"
    image.rename(image.with_stem("renamed"))
    assert manifest_of("folder", moved).fingerprint != digest


def test_splits_by_category_keep_order_and_masks(tree: Path, tmp_path: Path) -> None:
    data = opened(tree, tmp_path / "cache")
    parts = [data.test.of(category) for category in data.categories]
    assert [sample for part in parts for sample in part.samples] == list(data.test.samples)
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), data.test.images)
    assert data.train_categories.tolist() == [0] * 6 + [1] * 6
    assert all(part.has_masks for part in parts)


def test_two_processes_that_start_together_decode_once(tree: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mddbench.data.dataset import open_dataset\n"
        "from mddbench.progress import LineReporter\n"
        "dataset = open_dataset('folder', Path(sys.argv[1]), Path(sys.argv[2]), 512, LineReporter())\n"
        "print(int(dataset.train.images.sum()), int(dataset.test.masks.sum()))\n"
    )
    command = [sys.executable, "-c", program, str(tree), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) for _ in range(3)]
    ended = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], ended
    assert len({told for told, _ in ended}) == 1
    assert sum("decoding train images: 12/12" in said for _, said in ended) == 1
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize(("limit", "most"), [("AHEAD", 8), ("ROOM", 8 * 4 * 32**2)])
def test_many_images_are_decoded_with_few_in_memory(
    limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "many", train=40)
    waiting, highest = 0, 0
    decode, append = cache._decode, cache.Writer.append
    lock = threading.Lock()

    def count(*arguments: Any) -> Any:
        nonlocal waiting, highest
        with lock:
            waiting += 1
            highest = max(highest, waiting)
        return decode(*arguments)

    def written(self: Any, values: np.ndarray) -> None:
        nonlocal waiting
        append(self, values)
        if values.ndim == 3:
            with lock:
                waiting -= 1

    monkeypatch.setattr(cache, "_decode", count)
    monkeypatch.setattr(cache.Writer, "append", written)
    monkeypatch.setattr(parallel if limit == "AHEAD" else cache, limit, most)
    dataset = opened(root, tmp_path / "cache")
    assert waiting == 0
    assert highest <= 8
    np.testing.assert_array_equal(dataset.train.images[79], decode_image(dataset.train.samples[79].image, 32)[0])


def test_what_a_killed_process_left_is_removed(tree: Path, tmp_path: Path) -> None:
    arrays = tmp_path / "cache" / "decoded"
    opened(tree, tmp_path / "cache")
    for file in list(arrays.glob("*.npy")):
        file.rename(file.with_name(f"{file.name}.99999.part"))
    opened(tree, tmp_path / "cache")
    assert not list(arrays.glob("*.part"))


def test_32_bit_images_are_refused_whatever_their_values(tmp_path: Path) -> None:
    for value in (200, -5, 10**6):
        Image.fromarray(np.full((8, 8), value, dtype=np.int32)).save(tmp_path / "image.tif")
        with pytest.raises(InputError, match="of a kind that is not read"):
            decode_image(tmp_path / "image.tif", 8)
    Image.fromarray(np.full((8, 8), 200 * 257, dtype=np.uint16)).save(tmp_path / "image.png")
    assert (decode_image(tmp_path / "image.png", 8)[0] == 200).all()
