"""Test splits of defects only: every reader takes them alike, and what is not defined is empty and no fault."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mddbench.data.dataset import load_source
from mddbench.data.fabricate import fabricate
from mddbench.metrics.names import IMAGE_LEVEL, PIXEL_LEVEL
from mddbench.runs.records import read_record, record_files
from support import YAML, Done, mddbench, read

NORMAL = {"btad": "ok"}
BASES = {"btad": "BTech_Dataset_transformed"}
TESTS = {"mvtec_ad2": "test_public"}


def without_normal_tests(layout: str, root: Path) -> str:
    """Take the normal test images of a category away; which one it is."""
    fabricate(layout, load_source(layout), root, full=False)
    (root / "FABRICATED.json").unlink()
    if layout == "meta":
        raw = json.loads((root / "meta.json").read_text())
        raw["test"]["nut"] = [entry for entry in raw["test"]["nut"] if entry["anomaly"]]
        (root / "meta.json").write_text(json.dumps(raw))
        return "nut"
    if layout == "visa":
        file = root / "split_csv" / "1cls.csv"
        rows = [row for row in csv.reader(file.read_text().splitlines()) if row[:3] != ["candle", "test", "normal"]]
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        return "candle"
    if layout == "real_iad":
        file = root / "realiad_jsons" / "realiad_jsons" / "toy.json"
        raw = json.loads(file.read_text())
        raw["test"] = [entry for entry in raw["test"] if entry["mask_path"] and entry["anomaly_class"] != "OK"]
        file.write_text(json.dumps(raw))
        return "toy"
    (first, *_) = sorted((root / BASES.get(layout, ".")).glob(f"*/{TESTS.get(layout, 'test')}"))
    shutil.rmtree(first / NORMAL.get(layout, "good"))
    return first.parent.name


@pytest.mark.parametrize(
    "layout", ["folder", "meta", "mvtec", "mpdd", "btad", "uni_medical", "mvtec_loco", "mvtec_ad2", "visa", "real_iad"]
)
def test_defects_only_are_a_warning_and_no_fault(layout: str, tmp_path: Path) -> None:
    """But for the numbers, where it is known how many images there are."""
    category = without_normal_tests(layout, tmp_path / "root")
    found = read(layout, tmp_path / "root")
    assert not [fault for fault in found.faults if not fault.startswith(("expected", "nut of", "bolt of"))]
    assert found.counts[category][1] == 0
    assert any(f"category '{category}' has no normal test image" in warning for warning in found.warnings)


@pytest.mark.parametrize("layout", ["folder", "meta"])
def test_defects_without_masks_and_without_normal_images_measure_nothing(layout: str, tmp_path: Path) -> None:
    without_normal_tests(layout, tmp_path / "root")
    if layout == "meta":
        raw = json.loads((tmp_path / "root" / "meta.json").read_text())
        for entry in raw["test"]["nut"]:
            entry["mask_path"] = ""
        (tmp_path / "root" / "meta.json").write_text(json.dumps(raw))
    else:
        shutil.rmtree(tmp_path / "root" / "bolt" / "ground_truth")
    (fault,) = read(layout, tmp_path / "root").faults
    assert "has neither normal test images nor masks" in fault


@pytest.mark.parametrize("layout", ["folder", "meta"])
def test_a_run_on_defects_only_goes_through(layout: str, tmp_path: Path, command: Callable[..., Done]) -> None:
    category = without_normal_tests(layout, tmp_path / "root")
    (tmp_path / "own.yaml").write_text(YAML.replace("folder", layout).replace("epochs: 3", "epochs: 1"))
    out = tmp_path / "out"
    ran = command("run", tmp_path / "own.yaml", "--data-root", tmp_path / "root", "--out", out, "--tracking", "none")
    assert ran.status == 0, ran.err
    record = read_record(record_files(out)[0])
    assert {key for key, value in record.metrics[category].items() if value is None} == set(IMAGE_LEVEL)
    assert all(record.metrics[category][key] is not None for key in PIXEL_LEVEL)
    (table,) = out.rglob(f"categories-{record.label.lower()}.md")
    (row,) = [line for line in table.read_text().splitlines() if category in line]
    assert row.count("–") + row.count("n/a") == len(IMAGE_LEVEL)
    assert mddbench("data", "check", layout, "--data-root", tmp_path / "root", "--out", out).returncode == 0
