"""The table by the light in which test images were taken, from stored image scores."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_one_threshold import record_of, scores_of

from mddbench.data.dataset import load_source
from mddbench.data.datasets.mvtec_ad2 import LIGHTS
from mddbench.data.fabricate import fabricate
from mddbench.report.build import Report, build_report
from mddbench.report.rows.entries import Entry
from mddbench.runs.evidence import Evidence, load_evidence, save_evidence
from mddbench.runs.thresholds import Scoped, Thresholds
from support import read

TABLE = Path("mvtec_ad2/conditions.csv")
THRESHOLD = 0.75


def lit(seed: int) -> tuple[Evidence, ...]:
    """Scores of images in all lights, and one image whose name does not tell its light."""
    found = []
    for part in scores_of(seed):
        names = [f"{number:03d}_{LIGHTS[number % len(LIGHTS)]}.png" for number in range(len(part.names))]
        lights = tuple("" if number == 0 else LIGHTS[number % len(LIGHTS)] for number in range(len(names)))
        found.append(replace(part, names=tuple(names), conditions=lights))
    return tuple(found)


def report_of(*seeds: int, thresholds: bool = True, dataset: str = "mvtec_ad2") -> Report:
    entries = []
    for seed in seeds:
        evidence = lit(seed)
        categories = [part.category for part in evidence]
        told = Thresholds(
            source="x",
            images=dict.fromkeys(categories, 20),
            image={"5": Scoped(one=THRESHOLD, each=dict.fromkeys(categories))},
            pixel={},
        )
        new = record_of(evidence, seed, dataset=dataset, **({"thresholds": told} if thresholds else {}))
        entries.append(Entry(new, tuple, "", lambda evidence=evidence: evidence))
    return build_report(entries, [])


def rows(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.texts[TABLE])))


@pytest.mark.parametrize("light", LIGHTS)
def test_each_light_is_judged_on_its_own_images(light: str) -> None:
    (row,) = rows(report_of(0, 1))
    aurocs, alarms = [], []
    for seed in (0, 1):
        of_category = []
        for part in lit(seed):
            chosen = np.array(part.conditions) == light
            of_category.append((
                roc_auc_score(part.labels[chosen], part.scores[chosen]),
                np.mean(part.scores[chosen & ~part.labels] > THRESHOLD),
            ))
        aurocs.append(np.mean([auroc for auroc, _ in of_category]))
        alarms.append(np.mean([rate for _, rate in of_category]))
    assert float(row[f"i_auroc_{light}"]) == pytest.approx(np.mean(aurocs))
    assert float(row[f"i_auroc_{light}_std"]) == pytest.approx(np.std(aurocs, ddof=1))
    assert float(row[f"fpr_{light}"]) == pytest.approx(np.mean(alarms))


def test_an_image_that_does_not_tell_stands_apart() -> None:
    (row,) = rows(report_of(0))
    assert row["i_auroc_not told"] == "", "one normal image has no AUROC"
    assert float(row["fpr_not told"]) in (0.0, 0.5, 1.0)


def test_without_thresholds_there_are_no_false_alarms() -> None:
    report = report_of(0, thresholds=False)
    (row,) = rows(report)
    assert not [key for key in row if key.startswith("fpr")]
    assert "FPR" not in report.texts[TABLE.with_suffix(".md")]


def test_only_scores_that_tell_have_the_table() -> None:
    evidence = scores_of(0)
    report = build_report([Entry(record_of(evidence), tuple, "", lambda: evidence)], [])
    assert not [file for file in report.texts if file.stem == "conditions"]


def test_stored_scores_keep_the_conditions(tmp_path: Path) -> None:
    save_evidence(lit(0), tmp_path / "told.npz")
    save_evidence(scores_of(0), tmp_path / "plain.npz")
    assert [part.conditions for part in load_evidence(tmp_path / "told.npz")] == [part.conditions for part in lit(0)]
    assert {name for part in load_evidence(tmp_path / "plain.npz") for name in part.conditions} == {""}
    with np.load(tmp_path / "plain.npz") as arrays:
        assert "conditions" not in arrays.files


@pytest.mark.parametrize(("name", "told"), [("mvtec_ad2", set(LIGHTS)), ("robustad", {"source", "lighting", "scale"})])
def test_a_dataset_tells_the_condition_of_each_test_image(name: str, told: set[str], tmp_path: Path) -> None:
    fabricate(name, load_source(name), tmp_path / "root", full=False)
    tree = read(name, tmp_path / "root")
    assert told <= {sample.condition for sample in tree.select("test")}
    assert {sample.condition for sample in tree.select("train")} == {""}
