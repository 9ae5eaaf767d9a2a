"""What lies in the cache and is not as it was written: seen, said in one line, and made anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mddbench.data.built import LIST, ensure_built
from mddbench.data.dataset import Dataset, open_dataset, read_dataset
from mddbench.data.fingerprint import SETTLED_NS
from mddbench.data.stored import ArrayFile
from mddbench.progress import SilentReporter
from support import save

Damage = Callable[[Path], object]


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def opened(tree: Path, cache: Path, reporter: Listening | None = None) -> Dataset:
    return open_dataset("folder", tree, cache, 32, reporter or Listening())


def flip(file: Path, place: int = -7) -> None:
    """Another bit in a byte of a file, whose size and time of change stay as they were."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def rewritten(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda file: np.save(file, change(np.load(file)))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a flipped bit": (flip, "its checksum is another one"),
    "cut short": (lambda file: os.truncate(file, file.stat().st_size - 5), "no array that can be read"),
    "empty": (lambda file: os.truncate(file, 0), "no array that can be read"),
    "no header": (lambda file: file.write_bytes(b"x" * file.stat().st_size), "no array that can be read"),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"x"), "its checksum is another one"),
    "two images swapped": (rewritten(lambda array: array[::-1]), "its checksum is another one"),
    "another dtype": (rewritten(lambda array: array.view(np.int8)), "int8 of shape"),
    "another shape": (rewritten(lambda array: array[:-1]), "of shape"),
    "another order": (rewritten(np.asfortranarray), "expected"),
}


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("which", ["images", "masks"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_is_decoded_anew(
    damage: str, which: str, settled: bool, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settled:  # as if all files had been written long ago
        monkeypatch.setattr("mddbench.data.stored.SETTLED_NS", -SETTLED_NS)
    before, cache = opened(tree, tmp_path / "cache"), tmp_path / "cache" / "decoded"
    images, masks = np.array(before.test.images), np.array(before.test.masks)
    (mask_file,) = cache.glob("*-masks.npy")
    file = mask_file if which == "masks" else mask_file.with_name(mask_file.name.replace("masks", "images"))
    change, reason = DAMAGES[damage]
    change(file)
    listening = Listening()
    after = opened(tree, tmp_path / "cache", listening)
    np.testing.assert_array_equal(after.test.images, images)
    np.testing.assert_array_equal(after.test.masks, masks)
    (line,) = [line for line in listening.lines if str(file) in line]
    assert reason in line
    assert line.endswith("decoding its images anew")
    assert "\n" not in line
    again = Listening()
    opened(tree, tmp_path / "cache", again)
    assert not any("anew" in line for line in again.lines)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"seals": 3, "oddities": {}}',
        b'{"seals": {"images": ["0", null]}, "oddities": {}}',
        b"\xff",
    ],
)
def test_arrays_without_a_checksum_are_not_trusted(content: bytes | None, tree: Path, tmp_path: Path) -> None:
    """As those of an older release, and those whose checksums are damaged."""
    before = np.array(opened(tree, tmp_path / "cache").train.images)
    for file in (tmp_path / "cache" / "decoded").glob("*.npy"):
        flip(file)
    for file in (tmp_path / "cache" / "decoded").glob("*.json"):
        file.unlink() if content is None else file.write_bytes(content)
    listening = Listening()
    np.testing.assert_array_equal(opened(tree, tmp_path / "cache", listening).train.images, before)
    assert sum("decoding its images anew" in line for line in listening.lines) == 2  # a line for each split


def test_an_array_of_another_split_is_seen(tmp_path: Path, tree: Path) -> None:
    """Two whole arrays of one shape in each other's place."""
    before = opened(tree, tmp_path / "cache")
    files = sorted((tmp_path / "cache" / "decoded").glob("*-images.npy"))
    assert len(before.train) == len(before.test)
    images = np.array(before.train.images), np.array(before.test.images)
    files[0].rename(tmp_path / "kept")
    files[1].rename(files[0])
    (tmp_path / "kept").rename(files[1])
    after = opened(tree, tmp_path / "cache")
    np.testing.assert_array_equal(after.train.images, images[0])
    np.testing.assert_array_equal(after.test.images, images[1])


def test_a_file_is_compared_once_for_each_change(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Path] = []
    original = ArrayFile._digest

    def count(self: ArrayFile, array: np.ndarray) -> str:
        compared.append(self.path)
        return original(self, array)

    monkeypatch.setattr(ArrayFile, "_digest", count)
    opened(tree, tmp_path / "cache")
    compared.clear()
    opened(tree, tmp_path / "cache")
    assert len(compared) == 3  # they have just changed, and could do so again without a new time
    monkeypatch.setattr("mddbench.data.stored.SETTLED_NS", -SETTLED_NS)
    opened(tree, tmp_path / "cache")
    compared.clear()
    opened(tree, tmp_path / "cache")
    assert compared == []
    (masks,) = (tmp_path / "cache" / "decoded").glob("*-masks.npy")
    os.utime(masks)
    opened(tree, tmp_path / "cache")
    assert compared == [masks]


def test_a_cache_that_can_only_be_read_is_compared_each_time(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tree, tmp_path / "cache")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mddbench.data.stored.SETTLED_NS", -SETTLED_NS)
    monkeypatch.setattr("mddbench.data.cache.write_seals", refuse)
    listening = Listening()
    assert len(opened(tree, tmp_path / "cache", listening).train) == 12
    assert not any("anew" in line for line in listening.lines)


def test_a_remembered_hash_that_is_damaged_is_not_believed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mddbench.data.fingerprint.SETTLED_NS", -SETTLED_NS)
    before = opened(tree, tmp_path / "cache").fingerprint
    (store,) = (tmp_path / "cache" / "manifests").iterdir()
    content = bytearray(store.read_bytes())
    place = content.rindex(b'"') - 1  # of a hash: another one that is as good by its looks
    content[place] = ord("0") if content[place] != ord("0") else ord("1")
    store.write_bytes(content)
    listening = Listening()
    assert opened(tree, tmp_path / "cache", listening).fingerprint == before
    assert any(str(store) in line and "hashing the files anew" in line for line in listening.lines)


def draw(root: Path) -> None:
    """A small dataset that is written and not brought."""
    for number in range(4):
        save(np.full((8, 8, 3), number, dtype=np.uint8), root / "nut" / "train" / "good" / f"{number}.bmp")


CHANGES: dict[str, tuple[Damage, str]] = {
    "damaged": (lambda root: flip(root / "nut/train/good/2.bmp"), "2.bmp is not as it was written"),
    "missing": (lambda root: (root / "nut/train/good/2.bmp").unlink(), "2.bmp is missing"),
    "extra": (lambda root: save(np.zeros((8, 8), np.uint8), root / "nut/train/good/x.bmp"), "x.bmp is none of its"),
    "no list": (lambda root: (root / LIST).unlink(), "no list of its files"),
    "damaged list": (lambda root: flip(root / LIST), "3.bmp is not as it was written"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_dataset_in_the_cache_that_is_not_as_it_was_written_is_written_anew(change: str, tmp_path: Path) -> None:
    root, hashes = tmp_path / "cache" / "own-v1", tmp_path / "cache" / "manifests"
    assert ensure_built(draw, root, hashes) == ""
    files = {path: path.read_bytes() for path in root.rglob("*.bmp")}
    assert ensure_built(draw, root, hashes) == ""
    damage, reason = CHANGES[change]
    damage(root)
    (root / "zz.txt").touch() if change == "extra" else None  # the user's own, which is kept
    warning = ensure_built(draw, root, hashes)
    assert reason in warning
    assert {path: path.read_bytes() for path in root.rglob("*.bmp")} == files
    (aside,) = root.parent.glob("own-v1.damaged-*")
    assert str(aside) in warning
    assert (change == "extra") == any(aside.rglob("zz.txt"))
    assert ensure_built(draw, root, hashes) == ""


def test_the_embedded_dataset_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    before = read_dataset("mini", None, tmp_path, 32)
    flip(before.samples[-1].image)
    after = read_dataset("mini", None, tmp_path, 32)
    assert after.samples == before.samples
    (warning,) = after.warnings
    assert "is not as it was written; it was written anew" in warning
