"""The pages say what the code does."""

from __future__ import annotations

import re
import runpy

import pytest
from PIL import Image

from mddbench.plugins import DATASETS, modules
from mddbench.report.rows.reported import load_reported
from support import ROOT


def test_the_table_of_conventions_follows_from_the_code() -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "draw.py"))
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    shown = page.partition(draw["BEGIN"])[2].partition(draw["END"])[0].strip().splitlines()
    fresh = draw["as_markdown"](draw["table"]()).splitlines()
    assert len(shown) == len(fresh)
    number = re.compile(r"\d+\.\d+")
    for old, new in zip(shown, fresh, strict=True):
        assert number.sub("#", old) == number.sub("#", new), "run: python docs/draw.py"
        assert list(map(float, number.findall(old))) == pytest.approx(list(map(float, number.findall(new))), abs=0.02)


def test_the_page_of_settings_follows_from_the_code() -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "draw.py"))
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == draw["settings_page"](), "run: python docs/draw.py"
    for line in page.splitlines():
        assert not line.endswith("|  |"), f"a setting without a meaning: {line}"


def test_the_table_of_datasets_follows_from_the_code() -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "draw.py"))
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    shown = page.partition(draw["OF_DATASETS"])[2].partition(draw["END"])[0].strip()
    assert shown == draw["dataset_table"](), "run: python docs/draw.py"
    for name in modules(DATASETS):
        assert f"| `{name}`" in page.partition(draw["END"])[2] or f", `{name}` |" in page, f"nothing is said of {name}"


def test_the_page_says_how_many_published_rows_there_are() -> None:
    rows = load_reported()
    page = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    assert f"holds {len(rows)} published rows ({len({row.method for row in rows})} methods'" in page


def test_pictures_that_pages_show_are_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}, which is not there"


def test_the_picture_of_a_page_shows_the_committed_records() -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "draw_page.py"))
    with Image.open(draw["PICTURE"]) as picture:
        stored = picture.info.get(draw["SHOWS"])
    assert stored == draw["shown"](draw["report_of"]([ROOT / "results"])), "run: python docs/draw_page.py OUT"
