"""The manifest: what it holds, what it remembers, and what it notices."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mddbench.data import fingerprint
from mddbench.data.dataset import dataset_manifest, open_dataset
from mddbench.data.fingerprint import SETTLED_NS, Manifest
from mddbench.errors import InputError
from mddbench.progress import SilentReporter
from support import read, save

QUIET = SilentReporter()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read to be hashed, in any order."""
    files: list[Path] = []
    original = fingerprint.file_sha256

    def count(file: Path) -> str:
        files.append(file)
        return original(file)

    monkeypatch.setattr(fingerprint, "file_sha256", count)
    monkeypatch.setattr(fingerprint, "SETTLED_NS", -SETTLED_NS)  # as if all files had been written long ago
    return files


def of(root: Path, cache: Path) -> Manifest:
    return dataset_manifest(read("folder", root), cache, QUIET)


def test_it_lists_each_file_that_is_read_once(tree: Path, tmp_path: Path) -> None:
    found = of(tree, tmp_path / "cache")
    assert [entry.path for entry in found.entries] == sorted(
        path.relative_to(tree).as_posix() for path in tree.rglob("*.png")
    )
    assert all(entry.size == (tree / entry.path).stat().st_size for entry in found.entries)


def test_a_file_is_hashed_once(tree: Path, tmp_path: Path, hashed: list[Path]) -> None:
    first = of(tree, tmp_path / "cache")
    assert len(hashed) == len(first.entries) == 30
    assert of(tree, tmp_path / "cache") == first
    assert len(hashed) == 30
    assert of(tree, tmp_path / "other") == first
    assert len(hashed) == 60


def test_only_what_changed_is_hashed_again(tree: Path, tmp_path: Path, hashed: list[Path]) -> None:
    first = of(tree, tmp_path / "cache")
    image = tree / "nut" / "train" / "good" / "000.png"
    content, times = bytearray(image.read_bytes()), image.stat()
    content[-1] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size and same time, another content
    hashed.clear()
    second = of(tree, tmp_path / "cache")
    assert hashed == [image]
    assert second.fingerprint != first.fingerprint


def test_a_file_that_has_just_changed_is_not_remembered(tree: Path, tmp_path: Path) -> None:
    of(tree, tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "manifests").glob("*.json")
    assert json.loads(store.read_text().splitlines()[1]) == []


@pytest.mark.parametrize("content", [b"", b"[[1, 2]]", b"{", b"\xff"])
def test_a_broken_memory_is_made_anew(content: bytes, tree: Path, tmp_path: Path, hashed: list[Path]) -> None:
    first = of(tree, tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "manifests").glob("*.json")
    store.write_bytes(content)
    assert of(tree, tmp_path / "cache") == first
    assert len(hashed) == 60


def test_a_file_that_changes_while_it_is_decoded_stops_the_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decoded is what was fingerprinted."""
    image = tree / "nut" / "train" / "good" / "000.png"
    before = of(tree, tmp_path / "cache")
    save(np.zeros((48, 56, 3), dtype=np.uint8), image)
    monkeypatch.setattr("mddbench.data.dataset.dataset_manifest", lambda *_: before)
    with pytest.raises(InputError, match=r"000.png: the file has changed since its fingerprint was taken; run again"):
        open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)


def test_the_place_does_not_matter_nor_how_it_is_given(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)
    arrays = {file.name for file in (tmp_path / "cache" / "decoded").glob("*.npy")}
    monkeypatch.chdir(tree)
    for root in (Path(), Path("../tree"), Path("bolt/..")):
        assert open_dataset("folder", root, tmp_path / "cache", 32, QUIET).fingerprint == whole.fingerprint
    assert {file.name for file in (tmp_path / "cache" / "decoded").glob("*.npy")} == arrays


def test_another_view_of_the_same_root_forgets_nothing(tree: Path, tmp_path: Path, hashed: list[Path]) -> None:
    of(tree, tmp_path / "cache")
    samples = read("folder", tree).samples
    fingerprint.manifest(tree, [samples[0].image], QUIET, tmp_path / "cache" / "manifests")
    hashed.clear()
    of(tree, tmp_path / "cache")
    assert hashed == []


def test_a_mask_that_changes_while_it_is_decoded_stops_the_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = of(tree, tmp_path / "cache")
    save(np.ones((48, 56), dtype=np.uint8), tree / "nut" / "ground_truth" / "spot" / "000_mask.png")
    monkeypatch.setattr("mddbench.data.dataset.dataset_manifest", lambda *_: before)
    with pytest.raises(InputError, match=r"000_mask.png: the file has changed since its fingerprint was taken"):
        open_dataset("folder", tree, tmp_path / "cache", 32, QUIET)
