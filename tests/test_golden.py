"""The renderers' whole output for fixed records, beside what it was.

MDDBENCH_UPDATE_GOLDEN=1 writes it anew, to be read as a diff.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_examples import table

from mddbench.metrics.names import MAD, SEVEN
from mddbench.report.build import Report, build_report
from mddbench.report.page.page import Block, Section, render_page
from mddbench.report.rows.entries import Entry
from mddbench.report.write import page_of
from mddbench.runs.card import UPPER_BOUND
from mddbench.runs.records import Record
from support import ROOT, record

GOLDEN = ROOT / "tests" / "golden"
CARD = {
    "setting": "one model for 3 categories",
    "epochs": 100,
    "encoder": "resnet",
    "optimizer": {"name": "adam", "lr": 0.005},
    "selection": "last epoch",
    "metrics": "exact-1",
}
COST = {"parameters_total": 4.2e6, "multiply_adds": 1.5e9, "train_seconds": 61.0, "inference_batch": 32.0}


def measured(label: str, protocol: str, scores: tuple[float, ...], **changes: Any) -> list[Record]:
    """A record for each of the scores; its metrics differ from each other, and one is not defined."""
    found = []
    for seed, score in enumerate(scores):
        values: dict[str, float | None] = {key: score + place / 100 for place, key in enumerate(SEVEN)}
        metrics = {"mean": {**values, MAD.key: score + 0.03}, "[01]": dict(values), "02": dict(values)}
        metrics["nut_100%"] = {**values, "aupro": None}
        content = {"dataset": "btad", "card": CARD, "cost": COST, "metrics": metrics, "label": label, **changes}
        found.append(record(seed, score, protocol=protocol * 12, **content))
    return found


@pytest.fixture(scope="module")
def report() -> Report:
    records = [
        *measured("RD4AD", "a", (0.80, 0.82)),
        *measured("A|B_<i>", "b", (0.84, 0.85), cost={**COST, "train_seconds": 100.0}),
        *measured("Third", "c", (0.70,), cost={}),
        *measured("Told", "d", (0.90,), card={**CARD, "test_labels": UPPER_BOUND, "epochs": 7}),
    ]
    return build_report([Entry(one, tuple, f"run-{one.identity}", tuple, "runs/1.json") for one in records], [])


def compare(name: str, text: str) -> None:
    file = GOLDEN / name
    if os.environ.get("MDDBENCH_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), (
        f"{file.name} is rendered differently; MDDBENCH_UPDATE_GOLDEN=1 accepts it"
    )


@pytest.mark.parametrize("name", ["main", "cost", "published", "categories-rd4ad"])
@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv"])
def test_tables(report: Report, name: str, suffix: str) -> None:
    compare(f"{name}{suffix}", report.texts[Path("btad") / f"{name}{suffix}"])


def test_the_page(tmp_path: Path) -> None:
    """A small report and a table with a published row; without style, script and their hashes."""
    records = [record(0, 0.5), record(1, 0.6), record(0, 0.7, protocol="b" * 12, label="A|B_<i>")]
    small = page_of(build_report([Entry(each, tuple, f"run-{each.identity}") for each in records], []), tmp_path)
    example = Section("example", "Example", blocks=(Block("example-all", "All", table(columns=2)),))
    page = render_page(replace(small, sections=(*small.sections, example)))
    bare = re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>|<meta http-equiv[^>]*>", "", page)
    compare("page.html", "\n".join(line.rstrip() for line in bare.splitlines() if line.strip()) + "\n")


def test_published_rows_are_marked_and_ranked_only_if_asked(report: Report) -> None:
    text = report.texts[Path("btad/main.md")]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    published = [line for line in rows if "‡" in line]
    assert len(published) > 5
    assert rows.index(published[0]) == len(rows) - len(published), "published rows stand below all measured ones"
    assert not any("**" in line or "<u>" in line for line in published)
    assert "**84.5 ± 0.7**" in text
    entries = list(report.entries.values())
    ranked = build_report(entries, [], rank_published=True).texts[Path("btad/main.md")]
    assert "**84.5 ± 0.7**" not in ranked
    assert any("**" in line for line in ranked.splitlines() if "‡" in line)


def test_only_what_is_comparable_stands_beside_published_rows() -> None:
    for setting in ("one model for 3 categories, held out", "a separate model for each of 3 categories"):
        found = build_report(
            [Entry(one, tuple) for one in measured("A", "a", (0.8,), card={**CARD, "setting": setting})], []
        )
        assert "‡" not in found.texts[Path("btad/main.md")]
        assert Path("btad/published.md") not in found.texts
    elsewhere = build_report([Entry(record(), tuple)], [])
    assert Path("mini/published.md") not in elsewhere.texts
