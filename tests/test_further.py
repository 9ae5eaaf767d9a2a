"""Further metrics in records and tables: they are there where they were measured, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mddbench.errors import InputError
from mddbench.metrics.names import LOW_RATES
from mddbench.report.build import build_report
from mddbench.report.rows.entries import Entry
from mddbench.report.write import page_of
from mddbench.runs.merge import FoundRecord, merge
from mddbench.runs.records import Record, as_json, parse_record
from support import ROOT, record

TABLE = Path("mini/low-rates.md")


def with_low_rates(seed: int = 0, value: float = 0.25, keys: int = 6, **changes: object) -> Record:
    values: dict[str, float | None] = {metric.key: value for metric in LOW_RATES[:keys]}
    of_nut = {**values, "aupimo": None}
    return record(seed, further={"mean": values, "bolt": values, "nut_100%": of_nut}, **changes)


def texts(*records: Record) -> dict[Path, str]:
    return build_report([Entry(each, tuple, f"run-{each.identity}") for each in records], []).texts


def test_committed_records_are_written_without_them() -> None:
    files = sorted((ROOT / "results").rglob("*.json"))[:6]
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        old = parse_record(text, str(file))
        assert old.further == {}
        assert set(json.loads(as_json(old))) == set(json.loads(text))
        assert "further" not in old.deterministic()


def test_a_record_keeps_them_and_refuses_what_is_no_value() -> None:
    new = with_low_rates()
    assert parse_record(as_json(new), "new") == new
    assert new.value("bolt", "aupro_05") == 0.25
    for group, key in (("nut_100%", "aupimo"), ("bolt", "spro_05"), ("bolt", "of_nothing")):
        assert new.value(group, key) != new.value(group, key)  # NaN
    assert new.value("bolt", "aupro") == record().value("bolt", "aupro")
    raw = json.loads(as_json(new))
    raw["further"]["bolt"]["aupro_05"] = 1.5
    with pytest.raises(InputError, match=r"further\.bolt\.aupro_05"):
        parse_record(json.dumps(raw), "broken")


def test_of_two_equal_records_the_one_that_has_them_is_kept() -> None:
    old, new = FoundRecord(record(), "old"), FoundRecord(with_low_rates(), "new")
    for order in ((old, new), (new, old)):
        merged = merge(order)
        assert merged.kept == (new,)
        assert merged.conflicts == ()


def test_the_table_is_there_only_if_a_record_has_them() -> None:
    old = record(0, protocol="b" * 12, label="Old")
    assert not [file for file in texts(record(), old) if "low-rates" in file.name]
    found = texts(with_low_rates(0, 0.25), with_low_rates(1, 0.35), old)
    rows = {line.split("|")[1].strip(): line for line in found[TABLE].splitlines() if line.startswith("| ")}
    assert rows["Method"].count("AUPRO@0.0") == 2
    assert "sPRO" not in rows["Method"]
    assert "30.0 ± 7.1" in rows["RD4AD"]
    assert rows["Old"].count("–") == 6  # not measured
    assert "25.0" not in rows["Old"]
    of_categories = found[Path("mini/categories-low-rates-rd4ad.md")]
    assert "30.0 ± 7.1 | – |" in next(line for line in of_categories.splitlines() if "nut_100%" in line)
    assert Path("mini/categories-low-rates-old.md") not in found


def test_the_column_of_spro_is_there_only_if_it_was_measured(tmp_path: Path) -> None:
    found = texts(with_low_rates(keys=7))
    assert "AU-sPRO@0.05" in found[TABLE]
    assert r"AUPIMO 5\%" in found[TABLE.with_suffix(".tex")]
    report = build_report([Entry(with_low_rates(), tuple, "run")], [])
    titles = [table.title for section in page_of(report, tmp_path).sections for table in section.tables]
    assert "mini: pixels at low false-positive rates" in titles
