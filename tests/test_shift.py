"""`mddbench shift`: finished cells on changed test images, and the tables and figures of what it finds."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mddbench.data.changes import CHANGES, LEVELS
from mddbench.engine import shift as engine
from mddbench.errors import InputError
from mddbench.execution import shift as execution
from mddbench.metrics.names import MAD, MEAN, SEVEN
from mddbench.report.build import build_report
from mddbench.report.rows.entries import Entry
from mddbench.report.write import page_of, write_report
from mddbench.runs.records import Record, read_record
from mddbench.runs.shift import SHIFT, Shifts, load_shifts, write_shifts
from support import mddbench, mddbench_process, record

SMALL = [word for each in ("image_size=64", "batch_size=4", "settings.channels=8") for word in ("--set", each)]
CALIBRATED = ("--set", "calibration=0.5", "--tracking", "none")
TWO = ("--changes", "brightness,rotation", "--levels", "1,3")


@pytest.fixture
def cells(finished_cells: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_cells, tmp_path / "finished"))


def shifted(cells: Path, out: str, *options: object) -> Any:
    found = cells / out
    return mddbench("shift", "folder/padim", *SMALL, "--data-root", cells / "photos", "--out", found, "-q", *options)


def the_cell(cells: Path, out: str, seed: int = 0) -> Path:
    (folder,) = (cells / out / "cells").glob(f"*-seed{seed}-*")
    return folder


def test_the_file_holds_each_change_and_the_record_stays(cells: Path) -> None:
    folder = the_cell(cells, "calibrated")
    before = (folder / "record.json").read_bytes()
    ran = shifted(cells, "calibrated", *CALIBRATED, *TWO)
    assert ran.returncode == 0, ran.stderr
    assert "padim/folder/seed0" in ran.stdout
    ((shifts,), found) = load_shifts(folder / SHIFT), read_record(folder / "record.json")
    assert (folder / "record.json").read_bytes() == before
    assert shifts.belongs_to(found)
    assert shifts.points == (("brightness", 1), ("brightness", 3), ("rotation", 1), ("rotation", 3))
    for category in (MEAN, *found.categories):
        for key in ("i_auroc", "p_ap", "aupro", "fpr_05_one", "tpr_05_each", "fpr_error_05_one"):
            assert shifts.value(None, key, category) == pytest.approx(found.value(category, key), nan_ok=True)
    values = {shifts.value(point, "p_ap") for point in (None, *shifts.points)}
    assert len(values) > 1, "a change changes something"


def test_a_second_call_measures_only_what_is_new(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def counting(*arguments: Any) -> Any:
        asked.append(arguments[2])
        return engine.score_changed(*arguments)

    monkeypatch.setattr(execution, "score_changed", counting)
    assert shifted(cells, "calibrated", *CALIBRATED, "--changes", "jpeg", "--levels", "2").returncode == 0
    assert asked == [None, ("jpeg", 2)]
    assert shifted(cells, "calibrated", *CALIBRATED, "--changes", "gamma,jpeg", "--levels", "2").returncode == 0
    assert asked == [None, ("jpeg", 2), ("gamma", 2)]
    assert shifted(cells, "calibrated", *CALIBRATED, "--changes", "jpeg", "--levels", "2").returncode == 0
    assert len(asked) == 3


def test_an_interrupted_call_goes_on_and_ends_with_the_same_bytes(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(cells, tmp_path / "other"))
    assert shifted(other, "calibrated", *CALIBRATED, *TWO).returncode == 0
    calls: list[Any] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return engine.score_changed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "score_changed", interrupted)
        assert shifted(cells, "calibrated", *CALIBRATED, *TWO).returncode == 130
    (half,) = load_shifts(the_cell(cells, "calibrated") / SHIFT)
    assert half.points == (("brightness", 1),)
    assert shifted(cells, "calibrated", *CALIBRATED, *TWO).returncode == 0
    whole, undisturbed = (the_cell(place, "calibrated") / SHIFT for place in (cells, other))
    assert whole.read_bytes() == undisturbed.read_bytes()


def test_separate_models_are_each_asked_about_their_category(cells: Path) -> None:
    ran = shifted(cells, "separate", "--set", "setting=separate", "--tracking", "none", *TWO)
    assert ran.returncode == 0, ran.stderr
    folder = the_cell(cells, "separate")
    ((shifts,), found) = load_shifts(folder / SHIFT), read_record(folder / "record.json")
    assert {name: shifts.value(None, "p_ap", name) for name in found.categories} == pytest.approx({
        name: found.value(name, "p_ap") for name in found.categories
    })


def test_without_a_threshold_one_line_says_what_to_do(cells: Path) -> None:
    out = cells / "out"
    arguments = ("shift", "folder/padim", *SMALL, "--data-root", cells / "photos", "--out", out, "--tracking", "none")
    ran = mddbench(*arguments, "--changes", "jpeg", "--levels", "1")
    assert ran.returncode == 0, ran.stderr
    assert "no threshold was set without test labels" in ran.stderr
    assert "--set calibration=0.2" in ran.stderr
    (shifts,) = load_shifts(the_cell(cells, "out") / SHIFT)
    assert math.isnan(shifts.value(None, "fpr_05_one"))
    assert not math.isnan(shifts.value(("jpeg", 1), MAD.key))


def test_cells_that_are_not_finished_are_named(cells: Path) -> None:
    ran = shifted(cells, "out", "--tracking", "none", "--seeds", "0,7", "--changes", "jpeg", "--levels", "1")
    assert ran.returncode == 1
    assert "padim/folder/seed7 is not finished" in ran.stderr
    assert (the_cell(cells, "out") / SHIFT).exists()
    ran = shifted(cells, "out", "--tracking", "none", "--seeds", "7")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "none of the 1 named cells is finished there (padim/folder/seed7 for one); run them first" in ran.stderr
    assert shifted(cells, "nowhere", "--tracking", "none").returncode == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--changes", "fog"), "'fog' is unknown; expected some of brightness, contrast"),
        (("--levels", "4"), "--levels 4: expected some of 1, 2, 3"),
        (("--levels", ""), "expected some of 1, 2, 3"),
        (("--all",), "name experiments"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, ...], words: str, cells: Path) -> None:
    ran = shifted(cells, "calibrated", *CALIBRATED, *options)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("broken", ["{", '{"version": 1}', "other model"])
def test_a_file_that_does_not_fit_is_measured_anew(broken: str, cells: Path) -> None:
    folder = the_cell(cells, "calibrated")
    few = ("--changes", "jpeg", "--levels", "1")
    assert shifted(cells, "calibrated", *CALIBRATED, *few).returncode == 0
    good = (folder / SHIFT).read_text()
    content = json.loads(good)
    content["model_sha256"] = "0" * 64
    (folder / SHIFT).write_text(json.dumps(content) if broken == "other model" else broken)
    assert shifted(cells, "calibrated", *CALIBRATED, *few).returncode == 0
    assert (folder / SHIFT).read_text() == good


def test_a_model_that_is_not_the_records_is_refused(cells: Path) -> None:
    folder = the_cell(cells, "calibrated")
    file = folder / "record.json"
    content = json.loads(file.read_text())
    content["metrics"][MEAN]["p_ap"] += 0.01
    file.write_text(json.dumps(content))
    ran = shifted(cells, "calibrated", *CALIBRATED, "--changes", "jpeg")
    assert ran.returncode == 1
    assert "on unchanged images P-AP is" in ran.stderr
    assert not (folder / SHIFT).exists()


def test_the_store_and_another_store_get_the_file(cells: Path, tmp_path: Path) -> None:
    few = (
        "--changes",
        "jpeg",
        "--levels",
        "1",
        "--seeds",
        "0,1",
        "--data-root",
        cells / "photos",
        "--out",
        cells / "out",
    )
    ran = mddbench_process("shift", "folder/padim", *SMALL, *few)  # MLflow remembers where the copied runs lay
    assert ran.returncode == 0, ran.stderr
    other = tmp_path / "merged"
    assert mddbench("import", cells / "out", "--out", other).returncode == 0
    for out in (cells / "out", other):
        ran = mddbench("report", "--out", out, "--tables", "--to", tmp_path / f"report-{out.name}")
        assert ran.returncode == 0, ran.stderr
        (file,) = (tmp_path / f"report-{out.name}").glob("*/robustness.csv")
        (row,) = csv.DictReader(io.StringIO(file.read_text()))
        assert (row["row"], row["n"]) == ("PaDiM", "2")
        assert float(row["mad_changed"]) > 0


# Tables and figures


def values_of(found: Record, quality: float, alarm: float | None) -> dict[str, dict[str, float | None]]:
    row: dict[str, float | None] = dict.fromkeys(SEVEN, quality)
    row |= {"fpr_05_one": alarm, "fpr_05_each": alarm, "tpr_05_one": 0.9} if alarm is not None else {}
    return {MEAN: {**row, MAD.key: quality}, **{category: dict(row) for category in found.categories}}


def shifts_of(found: Record, lost: float = 0.05, alarms: bool = True, **changes: Any) -> Shifts:
    """Each level loses `lost` more and has 10 % more false alarms; JPEG has twice as many."""

    def values(change: str, level: int) -> dict[str, dict[str, float | None]]:
        alarm = 0.05 + 0.1 * level * (2 if change == "jpeg" else 1)
        return values_of(found, 0.5 - lost * level, alarm if alarms else None)

    content: dict[str, Any] = {
        "changes_version": 1,
        "model_sha256": found.model_sha256,
        "fingerprint": found.fingerprint,
        "metrics": "exact-1",
        "clean": values_of(found, 0.5, 0.05 if alarms else None),
        "changed": {change: {str(level): values(change, level) for level in LEVELS} for change in CHANGES},
    }
    return Shifts(**{**content, **changes})


def entry(seed: int, make: Callable[[Record], Shifts | None], **changes: Any) -> Entry:
    found = record(seed, **changes)
    shifts = make(found)
    return Entry(found, tuple, f"run-{seed}", shifts=lambda: (shifts,) if shifts is not None else ())


def second(seed: int, make: Callable[[Record], Shifts | None]) -> Entry:
    return entry(seed, make, label="Second", protocol="b" * 12)


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def texts_of(*entries: Entry) -> dict[str, str]:
    return {file.name: text for file, text in build_report([*entries], []).texts.items()}


def test_a_row_has_means_over_changes_and_seeds() -> None:
    texts = texts_of(
        entry(0, shifts_of), entry(1, lambda found: shifts_of(found, 0.1)), second(2, lambda f: shifts_of(f, 0))
    )
    first, other = lines(texts["robustness.csv"])
    assert (first["row"], first["n"], other["row"], other["n"]) == ("RD4AD", "2", "Second", "1")
    assert float(first["mad"]) == 0.5
    assert float(first["mad_changed"]) == pytest.approx((0.4 + 0.3) / 2)
    assert float(first["drop"]) == pytest.approx((0.2 + 0.4) / 2)
    assert float(other["drop"]) == 0
    assert float(first["fpr"]) == 0.05
    assert float(first["fpr_changed"]) == pytest.approx(0.05 + 0.2 * (10 + 2) / 11)
    assert float(first["fpr_worst"]) == pytest.approx(0.45)
    by_change = {row["row"]: row for row in lines(texts["robustness-rd4ad.csv"])}
    assert len(by_change) == 1 + len(CHANGES) * len(LEVELS)
    assert float(by_change["none"]["drop"]) == 0
    assert float(by_change["JPEG, 10 quality"]["fpr_05_one"]) == pytest.approx(0.65)
    assert float(by_change["Brightness, 0.5 stops"]["mad"]) == pytest.approx(0.35)
    assert "**" in texts["robustness.md"]


def test_means_are_over_the_changes_that_all_rows_have() -> None:
    def few(found: Record) -> Shifts:
        whole = shifts_of(found)
        return whole.model_copy(update={"changed": {"jpeg": {"1": whole.changed["jpeg"]["1"]}}})

    texts = texts_of(entry(0, shifts_of), second(2, few))
    assert "Changes that all rows have: JPEG (levels 1)." in texts["robustness.md"]
    first, other = lines(texts["robustness.csv"])
    assert first["mad_changed"] == other["mad_changed"]
    assert len(lines(texts["robustness-rd4ad.csv"])) == 1 + len(CHANGES) * len(LEVELS)
    assert len(lines(texts["robustness-second.csv"])) == 2


def test_rows_that_share_no_change_have_no_table_but_a_remark(tmp_path: Path) -> None:
    def only(change: str) -> Callable[[Record], Shifts]:
        def made(found: Record) -> Shifts:
            whole = shifts_of(found)
            return whole.model_copy(update={"changed": {change: whole.changed[change]}})

        return made

    report = build_report([entry(0, only("jpeg")), second(2, only("gamma"))], [])
    assert "robustness.md" not in {file.name for file in report.texts}
    (section,) = page_of(report, tmp_path).sections
    assert "the rows share no change and level" in section.remark


def test_without_thresholds_there_are_no_false_alarms() -> None:
    texts = texts_of(entry(0, lambda found: shifts_of(found, alarms=False)))
    assert "FPR" not in texts["robustness.md"].splitlines()[2]
    assert "no threshold was set without test labels" in texts["robustness.md"]


def test_results_that_do_not_fit_have_no_table() -> None:
    for make in (
        lambda _: None,
        lambda found: shifts_of(found, model_sha256="1" * 64),
        lambda found: shifts_of(found, fingerprint="1" * 64),
        lambda found: shifts_of(found, clean={MEAN: shifts_of(found).clean[MEAN]}),
    ):
        assert "robustness.md" not in texts_of(entry(0, make))
    texts = texts_of(entry(0, shifts_of), entry(1, lambda _: None))
    assert "RD4AD: 1 of 2 runs have no results on changed images." in texts["robustness.md"]
    texts = texts_of(entry(0, shifts_of), second(2, lambda found: shifts_of(found, changes_version=2)))
    assert [row["row"] for row in lines(texts["robustness.csv"])] == ["Second"]
    assert "changes of another version" in texts["robustness.md"]


def test_the_page_shows_the_table_after_the_one_threshold_and_folds_the_details(tmp_path: Path) -> None:
    report = build_report([entry(0, shifts_of), second(2, shifts_of)], [])
    _, pictures = write_report(report, tmp_path)
    names = {file.name for file in pictures}
    assert {"robustness.png", "robustness-levels.png", "robustness-alarms.png"} <= names
    (section,) = page_of(report, tmp_path).sections
    blocks = {block.anchor.removeprefix("section-0-"): block for block in section.blocks}
    assert blocks["robustness"].figure is not None
    assert not blocks["robustness"].folded
    assert all(block.folded for name, block in blocks.items() if name.startswith("robustness-"))
    shown = [name for name, block in blocks.items() if not block.folded]
    assert shown.index("main") < shown.index("robustness") < shown.index("cost")


def test_figures_without_results_are_not_drawn(tmp_path: Path) -> None:
    _, pictures = write_report(build_report([entry(0, lambda _: None)], []), tmp_path)
    assert not [file for file in pictures if "robustness" in file.name]
    _, pictures = write_report(build_report([entry(0, lambda f: shifts_of(f, alarms=False))], []), tmp_path / "b")
    assert sorted(file.stem for file in pictures if "robustness" in file.name) == ["robustness", "robustness-levels"]


@pytest.mark.renders
def test_figures_show_what_was_measured(tmp_path: Path) -> None:
    write_report(build_report([entry(0, shifts_of), second(2, shifts_of)], []), tmp_path)
    wide, narrow = ((tmp_path / "mini" / f"robustness{end}.svg").read_text() for end in ("", ".narrow"))
    for words in ("Colour temperature", "Second", "false alarms [%]", "mAD lost [points]"):
        assert words in wide
        assert words in narrow
    assert "45.0" in wide, "the rate of JPEG"
    levels = (tmp_path / "mini" / "robustness-alarms.svg").read_text()
    assert "[stops]" in levels


def test_a_file_from_anywhere_is_checked(tmp_path: Path) -> None:
    file = tmp_path / SHIFT
    good = shifts_of(record(0))
    write_shifts(good, file)
    assert load_shifts(file) == (good,)
    content = json.loads(file.read_text())
    for path, value in (
        (("changed", "jpeg", "1", MEAN, "mad"), 7.0),
        (("changed", "JPEG <b>"), {}),
        (("changed", "jpeg", "0"), {}),
        (("clean", "bolt"), {}),
        (("version",), 2),
    ):
        broken = json.loads(json.dumps(content))
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        file.write_text(json.dumps(broken))
        with pytest.raises(InputError) as fault:
            load_shifts(file)
        assert str(file) in str(fault.value)
        assert "\n" not in str(fault.value)
