"""The main job on the embedded dataset, and a user's own folders of real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mddbench.metrics.names import SEVEN
from mddbench.runs.records import read_record
from support import mddbench

SHORT = ("--set", "epochs=3", "--set", "image_size=64")


@pytest.mark.renders
def test_run_all_on_the_embedded_dataset(fresh_store: Callable[[str], Path]) -> None:
    out = fresh_store("out")
    ran = mddbench("run", "--all", "--out", out, *SHORT)
    assert ran.returncode == 0, ran.stderr
    records = [read_record(file) for file in sorted(out.glob("cells/*/record.json"))]
    assert [record.method for record in records] == ["mddnet", "rd4ad", "uniad"]
    for record in records:
        assert len(record.categories) == 8
        assert all(0.0 <= record.value(place, key) <= 1.0 for place in record.metrics for key in SEVEN)
        assert record.history[-1].loss < record.history[0].loss
        # Better than chance after seconds of training, and far from perfect: there is room between methods.
        assert 0.5 < record.value("mean", "p_auroc") < 0.95
        assert 0.45 < record.value("mean", "i_auroc") < 0.95
        assert f"{100 * record.value('mean', 'mad'):.1f}" in ran.stdout
    for name in ("gallery-rd4ad.png", "gallery-mdd-net.png"):
        with Image.open(out / "report" / "mini" / name) as picture:
            assert picture.height > 600


def test_a_folder_of_real_images(real: Path, tmp_path: Path) -> None:
    arguments = (
        "run",
        "folder/rd4ad",
        "--data-root",
        real,
        "--tracking",
        "none",
        "--set",
        "epochs=1",
        "--set",
        "image_size=64",
    )
    ran = mddbench(*arguments, "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "out").glob("cells/*/record.json")
    record = read_record(file)
    assert record.categories == ["ballscrew", "breast_us", "cookie", "magnetic_tile", "pavement"]
    assert "| magnetic_tile | 1 |" in (tmp_path / "out" / "report" / "real" / "categories-rd4ad.md").read_text()


def test_a_folder_with_image_labels_only(real_image_level: Path, tmp_path: Path) -> None:
    arguments = (
        "run",
        "folder/rd4ad",
        "--data-root",
        real_image_level,
        "--tracking",
        "none",
        "--out",
        tmp_path / "out",
    )
    ran = mddbench(*arguments, "--set", "epochs=1", "--set", "image_size=64")
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "out").glob("cells/*/record.json")
    record = read_record(file)
    assert record.metrics["mean"]["aupro"] is None
    assert record.metrics["mean"]["i_auroc"] is not None
    heading = next(line for line in ran.stdout.splitlines() if line.startswith("| Method"))
    assert "| I-AUROC | I-AP | I-F1max |" in heading  # columns that no row has are left out
    assert "P-AUROC" not in heading
    assert "AUPRO" not in heading


def test_views_of_items_on_fabricated_images(tmp_path: Path) -> None:
    """A run before the real images are there: its table says that they are drawn, and has the sample-level metric."""
    made = mddbench("data", "fabricate", "real_iad", tmp_path / "drawn")
    assert made.returncode == 0, made.stderr
    small = ("epochs=1", "image_size=64", "batch_size=4", "encoder.name=tf_efficientnet_lite0")
    arguments = ("run", "real_iad/rd4ad", "--data-root", tmp_path / "drawn", "--tracking", "none", "--seeds", "0")
    changes = [part for setting in small for part in ("--set", setting)]
    ran = mddbench(*arguments, *changes, "--set", "settings.bottleneck_width=16", "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "out").glob("cells/*/record.json")
    record = read_record(file)
    assert record.card.shown("setting") == "one model for 30 categories, fabricated images"
    assert record.card.mask_rule == "mask > 127, PIL bilinear, > 0.5"
    assert 0.0 <= record.value("mean", "s_auroc") <= 1.0
    assert 0.0 <= record.value("toy", "s_auroc") <= 1.0
    assert "fabricated images" in ran.stdout
    assert "| S-AUROC |" in ran.stdout
