"""Records and stores that earlier versions wrote still load: one of each shape that was ever committed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mddbench.cli.entries import entries_from_folder
from mddbench.report.build import build_report
from mddbench.runs.card import Setting
from mddbench.runs.records import as_json, parse_record, read_record
from support import ROOT, mddbench

HISTORIC = ROOT / "tests" / "historic"
FILES = sorted(HISTORIC.glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_record_of_an_earlier_version_loads_with_all_that_it_says(file: Path) -> None:
    record, content = read_record(file), json.loads(file.read_text(encoding="utf-8"))
    assert record.card.setting == Setting(models="unified", categories=8)
    assert record.card.standard_setting
    written = json.loads(as_json(record))
    assert written["card"].pop("setting") == {
        "models": "unified",
        "categories": 8,
        "held_out": False,
        "fabricated": False,
    }
    assert content["card"].pop("setting") == "one model for 8 categories"
    assert (content.pop("record_version"), written["record_version"]) == (1, 2)
    for name, value in content.items():
        assert holds(written[name], value), name
    assert parse_record(as_json(record), "again") == record


def holds(new: Any, old: Any) -> bool:
    """True if all that is in an old JSON value is in the new one, which may have more keys."""
    if isinstance(old, dict):
        return all(name in new and holds(new[name], value) for name, value in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(map(holds, new, old))
    return bool(new == old)


def test_records_of_all_versions_stand_in_one_report() -> None:
    report = build_report(entries_from_folder(HISTORIC), [])
    assert len(report.entries) == len({read_record(file).identity for file in FILES})
    text = "".join(text for name, text in report.texts.items() if name.name == "main.md")
    assert all(f"| {label} " in text for label in ("RD4AD", "MDD-Net", "UniAD"))


def test_a_store_of_an_earlier_version_is_read_and_goes_on(tmp_path: Path) -> None:
    shutil.unpack_archive(HISTORIC / "store.zip", tmp_path)
    shown = mddbench("report", "--out", tmp_path / "out", "--to", tmp_path / "report", "--tables")
    assert shown.returncode == 0, shown.stderr
    assert "| RD4AD | 1 |" in shown.stdout
    assert (tmp_path / "report" / "folder" / "main.md").exists()
    exported = mddbench("export", tmp_path / "results", "--out", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    (file,) = (tmp_path / "results").rglob("*.json")
    assert read_record(file).card.shown("setting") == "one model for 2 categories"
