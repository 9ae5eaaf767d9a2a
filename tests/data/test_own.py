"""What this program wrote, and what systems leave on a disk, is no data, wherever it lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mddbench.data.dataset import load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.data.own import is_own, mark_own
from mddbench.data.textures import open_textures
from mddbench.progress import SilentReporter
from support import YAML, Done, read, write_tree

QUIET = SilentReporter()
LAYOUTS = ("folder", "mvtec", "mpdd", "uni_medical", "btad", "mvtec_loco", "mvtec_ad2", "visa", "real_iad", "meta")
BASES = {"btad": "BTech_Dataset_transformed"}


@pytest.mark.parametrize("where", [".", "any name", "nut/test/out"])
def test_a_second_run_takes_nothing_of_the_first_for_data(
    where: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Done]
) -> None:
    """Wherever the output lies among the images."""
    monkeypatch.chdir(tree)
    (tmp_path / "own.yaml").write_text(YAML.replace("epochs: 3", "epochs: 1"))
    asked = ("run", tmp_path / "own.yaml", "--data-root", ".", "--out", where, "--tracking", "none", "--no-report")
    first = command(*asked)
    assert first.status == 0, first.err
    second = command(*asked)
    assert second.status == 0, second.err
    assert "skipped, finished before" in second.err
    assert "warning" not in second.err


def test_a_cache_among_the_images_is_not_read(tree: Path) -> None:
    before = open_dataset("folder", tree, tree / "nut" / "test" / "kept", 32, QUIET)
    read_again = open_dataset("folder", tree, tree / "nut" / "test" / "kept", 32, QUIET)
    assert read_again.fingerprint == before.fingerprint
    assert read("folder", tree).warnings == ()


def test_output_of_an_older_release_is_told_by_what_it_holds(tmp_path: Path) -> None:
    for made in (
        "a/mlflow.db",
        "b/decoded/x.npy",
        "b/manifests/x.json",
        "c/cells/x/record.json",
        "c/cache/x",
        "d/decoded/x",
    ):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).touch()
    mark_own(tmp_path / "c")
    assert {name: is_own(tmp_path / name) for name in ("a", "b", "c", "c/cells", "d")} == {
        **dict.fromkeys(("a", "b", "c", "c/cells"), True),
        "d": False,
    }


def test_a_category_may_be_called_as_a_part_of_the_output_is(tree: Path) -> None:
    mark_own(tree)
    (tree / "nut").rename(tree / "cells")
    assert read("folder", tree).categories == ("bolt", "cells")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_lies_beside_the_categories_stops_nothing(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate(layout, load_source(layout), root, full=False)
    before = read(layout, root)
    for name in (
        "report",
        "mini",
        "drawn",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "#Recycle",
    ):
        place = root / BASES.get(layout, ".") / name
        place.mkdir()
        (place / "index.html").touch()
        (place / "FABRICATED.json").write_text("{}")
    (root / BASES.get(layout, ".") / "$RECYCLE.BIN" / "train").mkdir()
    after = read(layout, root)
    assert after.faults == before.faults == ()
    assert after.samples == before.samples
    assert {line.partition(": not read")[0].rpartition("/")[2] for line in after.warnings} <= {
        "report",
        "mini",
        "drawn",
    }


def test_a_folder_without_training_and_test_images_is_a_warning(tree: Path) -> None:
    shutil.copytree(tree / "nut" / "test" / "good", tree / "snapshots")
    found = read("folder", tree)
    assert found.faults == ()
    assert found.warnings == (f"{tree}/snapshots: not read, as it holds neither train/ nor test/",)


def test_pictures_that_this_program_drew_are_no_textures(tmp_path: Path) -> None:
    pictures = write_tree(tmp_path / "pictures")
    before = open_textures(pictures, 16, tmp_path / "cache", QUIET).fingerprint
    shutil.copytree(pictures / "nut", pictures / "out" / "report")
    assert open_textures(pictures, 16, tmp_path / "cache", QUIET).fingerprint != before
    mark_own(pictures / "out")
    assert open_textures(pictures, 16, tmp_path / "cache", QUIET).fingerprint == before
