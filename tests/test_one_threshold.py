"""Tables and figures from stored image scores: one threshold for all categories."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_golden import compare

from mddbench.metrics.images import ImageScores
from mddbench.metrics.names import MEAN, SEVEN
from mddbench.metrics.pooled import pooled_values
from mddbench.metrics.suite import mean_over_categories
from mddbench.report.build import Report, build_report
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.scored import ScoredRun
from mddbench.report.tables.one_threshold import NAME
from mddbench.report.write import page_of, write_report
from mddbench.runs.card import UPPER_BOUND
from mddbench.runs.evidence import Evidence, save_evidence
from mddbench.runs.records import Record, write_record
from support import mddbench, record

MAIN, TABLE = Path("mini/main.md"), Path(f"mini/{NAME}.md")
COUNTS = {"bolt": (12, 20), "nut_100%": (60, 30)}
"""Category -> its normal and its defective images."""


def scores_of(seed: int, apart: float = 0.0, counts: dict[str, tuple[int, int]] = COUNTS) -> tuple[Evidence, ...]:
    """Scores with ties; the scale of each category lies `apart` from that of the one before."""
    found = []
    for place, (category, (normal, defective)) in enumerate(counts.items()):
        number = np.arange(normal + defective)
        labels = number >= normal
        noise = (number * (7 + seed) % 17) / 17  # a fixed pattern, the same on every machine
        total = len(number)
        found.append(
            Evidence(
                category=category,
                names=tuple(f"{n}.png" for n in number),
                defects=tuple("scratch" if defect else "good" for defect in labels),
                items=("",) * total,
                labels=labels,
                scores=(np.round(8 * (noise + 0.5 * labels)) / 8 + apart * place).astype(np.float32),
                precision_recall=np.full((2, 5), np.nan, dtype=np.float32),
                region_overlap=np.full((2, 5), np.nan, dtype=np.float32),
            )
        )
    return tuple(found)


def record_of(evidence: tuple[Evidence, ...], seed: int = 0, **changes: Any) -> Record:
    """A record whose image-level metrics are those of the scores."""
    values: dict[str, dict[str, float]] = {}
    for part in evidence:
        images = ImageScores()
        images.add(part.scores, part.labels)
        values[part.category] = {**dict.fromkeys(SEVEN, 0.5), **images.values()}
    rows = {MEAN: mean_over_categories(values), **values}
    metrics = {
        name: {key: None if np.isnan(value) else value for key, value in row.items()} for name, row in rows.items()
    }
    return record(seed, metrics=metrics, **changes)


def entry(seed: int, apart: float = 0.0, kept: bool = True, **changes: Any) -> Entry:
    evidence = scores_of(seed, apart)
    load: Callable[[], tuple[Evidence, ...]] = (lambda: evidence) if kept else tuple
    return Entry(record_of(evidence, seed, **changes), tuple, f"run-{seed}", load)


def other(label: str, letter: str) -> dict[str, Any]:
    return {"label": label, "protocol": letter * 12}


def several(kept: bool = True) -> Report:
    entries = [entry(seed, 0.25, kept) for seed in (0, 1)] + [entry(2, 0.0, kept, **other("Second", "b"))]
    card = {"setting": "one model for 2 categories", "epochs": 3, "test_labels": UPPER_BOUND}
    return build_report([*entries, entry(3, 0.0, kept, card=card, **other("Told", "c"))], [], allow_mixed=True)


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def notes(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line and not line.startswith(("|", "#"))]


@pytest.fixture(scope="module")
def report() -> Report:
    return several()


@pytest.mark.parametrize("name", [NAME, f"{NAME}-rd4ad"])
@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv"])
def test_tables(report: Report, name: str, suffix: str) -> None:
    compare(f"{name}{suffix}", report.texts[Path("mini") / f"{name}{suffix}"])


def test_a_row_is_the_mean_over_seeds_with_their_deviation(report: Report) -> None:
    values = [
        pooled_values([(part.scores, part.labels) for part in scores_of(seed, 0.25)])["auroc_across"] for seed in (0, 1)
    ]
    row = lines(report.texts[TABLE.with_suffix(".csv")])[0]
    assert (row["row"], row["n"]) == ("RD4AD", "2")
    assert float(row["auroc_across"]) == pytest.approx(np.mean(values))
    assert float(row["auroc_across_std"]) == pytest.approx(np.std(values, ddof=1))
    main = lines(report.texts[MAIN.with_suffix(".csv")])[0]
    assert row["i_auroc"] == main["i_auroc"], "beside it stands what the main table says"
    assert float(row["i_f1max"]) - float(row["f1_one"]) == pytest.approx(float(row["f1_gap"]))


def test_means_of_rates_leave_out_categories_with_few_normal_images(report: Report) -> None:
    by_category = {row["row"]: row for row in lines(report.texts[Path(f"mini/{NAME}-rd4ad.csv")])}
    assert float(by_category["bolt"]["step"]) == pytest.approx(1 / 12)
    for key in ("fpr95", "pg2", "pb2"):
        assert by_category["mean"][key] == by_category["nut_100%"][key]
    assert "means over 1 of 2 categories, those with at least 50 normal test images" in report.texts[TABLE]
    few = scores_of(0, counts={"bolt": (12, 20), "nut_100%": (49, 30)})
    without = build_report([Entry(record_of(few), tuple, "", lambda: few)], []).texts
    assert "no means, none of 2 categories with at least 50 normal test images" in without[TABLE]
    assert lines(without[TABLE.with_suffix(".csv")])[0]["fpr95"] == ""


def test_the_lowest_rate_of_false_alarms_is_the_best_and_no_gap_is(report: Report) -> None:
    heads, *rows = [line.split(" | ") for line in report.texts[TABLE].splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "Told" not in row[0]]
    place = heads.index("FPR@95TPR")
    values = [float(row[place].strip("*|").split(" ")[0].strip("*")) for row in rows]
    assert values[0] != values[1]
    assert rows[int(np.argmin(values))][place].startswith("**")
    assert not any("**" in row[heads.index("Gap")] for row in rows)
    assert not any("**" in line for line in report.texts[TABLE].splitlines() if "Told" in line), "labels were given"


def test_without_stored_scores_there_is_no_table_and_a_note_says_so(tmp_path: Path) -> None:
    report = several(kept=False)
    assert not any(NAME in file.name for file in report.texts)
    section = page_of(report, tmp_path).sections[0]
    assert not any("threshold" in table.title for table in section.tables)
    assert "the runs stored no image scores" in section.remark


def test_a_page_shows_the_tables_with_their_runs(report: Report, tmp_path: Path) -> None:
    section = page_of(report, tmp_path).sections[0]
    assert section.remark == ""
    table = next(table for table in section.tables if table.title == "mini: one threshold for all categories")
    assert [run.run_id for run in table.rows[0].runs] == ["run-0", "run-1"]
    assert any(table.title == "mini, RD4AD: each category at one threshold" for table in section.tables)


def test_rows_without_scores_are_left_out_and_named() -> None:
    entries = [entry(0), entry(1, kept=False), entry(0, kept=False, **other("Bare", "b"))]
    text = build_report(entries, []).texts[TABLE]
    assert "Bare has no row: 1 of 1 runs stored no image scores." in notes(text)
    assert "RD4AD: 1 of 2 runs stored no image scores." in notes(text)
    assert not any(line.startswith("| Bare") for line in text.splitlines())
    assert "| RD4AD | 1 |" in text


@pytest.mark.parametrize("what", ["scores", "categories"])
def test_scores_that_are_not_the_records_are_not_used(what: str) -> None:
    own = scores_of(0)
    strange = tuple(replace(part, scores=-part.scores) for part in own) if what == "scores" else own[:1]
    assert ScoredRun(record_of(own), own).fits
    assert not ScoredRun(record_of(own), strange).fits
    report = build_report([entry(1, **other("Own", "b")), Entry(record_of(own), tuple, "", lambda: strange)], [])
    assert "RD4AD has no row: the image scores of 1 of 1 runs do not fit their record." in notes(report.texts[TABLE])


def test_all_other_tables_keep_their_bytes(report: Report) -> None:
    bare = several(kept=False).texts
    assert {file: text for file, text in report.texts.items() if NAME not in file.name} == bare


def test_a_metric_that_is_not_defined_is_a_dash() -> None:
    """One category has no normal test image, and there is no pair across a single category."""
    whole = scores_of(0, counts={"bolt": (0, 20), "nut_100%": (60, 30)})
    found = build_report([Entry(record_of(whole), tuple, "", lambda: whole)], []).texts
    rows = {row["row"]: row for row in lines(found[Path(f"mini/{NAME}-rd4ad.csv")])}
    assert [rows["bolt"][key] for key in ("step", "f1_one", "fpr95")] == ["", "", ""]
    assert lines(found[TABLE.with_suffix(".csv")])[0]["auroc_across"] != ""
    alone = whole[1:]
    (row,) = lines(
        build_report([Entry(record_of(alone), tuple, "", lambda: alone)], []).texts[TABLE.with_suffix(".csv")]
    )
    assert row["auroc_across"] == ""
    assert row["auroc_within"] == row["auroc_pooled"] == row["i_auroc"]


def test_scores_are_loaded_only_when_a_table_is_asked_for() -> None:
    def never() -> tuple[Evidence, ...]:
        raise AssertionError("loaded")

    report = build_report([Entry(record(), tuple, "", never)], [])
    with pytest.raises(AssertionError, match="loaded"):
        _ = report.texts


def test_the_command_renders_what_lies_beside_a_record(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / "out" / "cells" / f"cell{seed}"
        folder.mkdir(parents=True)
        write_record(record_of(scores_of(seed), seed), folder / "record.json")
        save_evidence(scores_of(seed), folder / "scores.npz")
    options = ("--records", tmp_path / "out", "--to", tmp_path / "report", "--tables")
    done = mddbench("report", *options)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report" / TABLE).read_text(encoding="utf-8")
    assert "| RD4AD | 2 |" in text
    assert mddbench("report", *options, "--check").returncode == 0
    (tmp_path / "out" / "cells" / "cell1" / "scores.npz").unlink()
    changed = mddbench("report", *options, "--check")
    assert changed.returncode == 1
    assert "| RD4AD | 1 |" in changed.stdout


@pytest.mark.renders
def test_a_figure_shows_the_matrix_of_each_method(tmp_path: Path) -> None:
    entries = [entry(0), entry(0, kept=False, **other("Bare", "b"))]
    _, pictures = write_report(build_report(entries, []), tmp_path)
    assert [file.name for file in pictures if file.name.startswith("across-")] == ["across-rd4ad.png"]
    assert (tmp_path / "mini" / "across-rd4ad.pdf").is_file()
