"""Some categories in each model: between one model for all and a model for each."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mddbench.cli.entries import entries_from_folder
from mddbench.data.dataset import open_dataset
from mddbench.errors import InputError
from mddbench.execution.grouping import divided, model_of, models_of, per_model
from mddbench.experiments.ablation import Ablation, load_ablation
from mddbench.experiments.catalogue import load_experiment
from mddbench.progress import SilentReporter
from mddbench.report.build import build_report
from mddbench.report.figures import sharing
from mddbench.report.tables.differences import MINUS
from mddbench.runs.card import Setting
from mddbench.runs.records import Record, read_record
from support import experiment, mddbench, write_tree

FOUR = ("bolt", "cap", "nut", "pin")
SMALL = [word for each in ("image_size=64", "batch_size=4", "settings.channels=8") for word in ("--set", each)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of PaDiM on four categories: alone, in pairs (by 1, 2 and 4 of them), separate and in one model."""
    folder = tmp_path_factory.mktemp("grouped")
    tree = write_tree(folder / "tree", FOUR, train=10)
    common = ("--data-root", tree, "--out", folder / "out", "--tracking", "none", "--no-report", "-q")
    for words in ("", "setting=separate", "categories_per_model=1", "categories_per_model=2", "categories_per_model=4"):
        ran = mddbench("run", "folder/padim", *common, *SMALL, *(("--set", words) if words else ()))
        assert ran.returncode == 0, ran.stderr
    return folder


def found(cells: Path) -> dict[str, tuple[Path, Record]]:
    records = [(file.parent, read_record(file)) for file in (cells / "out" / "cells").glob("*/record.json")]
    return {str(record.card.setting): (folder, record) for folder, record in records}


def test_categories_are_divided_in_order() -> None:
    assert divided(FOUR, "unified", None) == {"": FOUR}
    assert divided(FOUR, "separate", None) == {name: (name,) for name in FOUR}
    pairs = divided(FOUR, "unified", 2)
    assert pairs == {"group-1": ("bolt", "cap"), "group-2": ("nut", "pin")}
    assert model_of(pairs) == {"bolt": "group-1", "cap": "group-1", "nut": "group-2", "pin": "group-2"}
    assert per_model(pairs) == 2


def test_without_the_setting_nothing_is_written() -> None:
    assert "categories_per_model" not in load_experiment("mini/rd4ad").model_dump()
    assert "per_model" not in Setting(models="unified", categories=4).model_dump()
    assert str(Setting(models="unified", categories=4)) == "one model for 4 categories"
    assert Setting(models="unified", categories=4).standard
    grouped = Setting(models="unified", categories=4, per_model=2)
    assert str(grouped) == "a model for each 2 of 4 categories"
    assert not grouped.standard


def test_what_cannot_be_divided_is_refused_with_what_can(cells: Path, tmp_path: Path) -> None:
    dataset = open_dataset("folder", cells / "tree", tmp_path, 32, SilentReporter())
    with pytest.raises(InputError, match=r"3 does not divide the 4 categories of folder; expected one of 1, 2, 4"):
        models_of(experiment(categories_per_model=3), dataset)
    with pytest.raises(InputError, match=r"goes with setting: unified; found separate"):
        models_of(experiment(categories_per_model=2, setting="separate"), dataset)
    ran = mddbench(
        "run",
        "folder/padim",
        *SMALL,
        "--data-root",
        cells / "tree",
        "--out",
        tmp_path,
        "--set",
        "categories_per_model=3",
    )
    assert ran.returncode == 2
    assert "expected one of 1, 2, 4" in ran.stderr


def test_the_ends_are_separate_models_and_one_model(cells: Path) -> None:
    records = {name: record for name, (_, record) in found(cells).items()}
    assert len(records) == 5
    one, separate = records["one model for 4 categories"], records["a separate model for each of 4 categories"]
    assert records["a model for each 1 of 4 categories"].metrics == separate.metrics
    assert records["a model for each 4 of 4 categories"].metrics == one.metrics
    pairs = records["a model for each 2 of 4 categories"]
    assert pairs.metrics not in (one.metrics, separate.metrics)
    assert pairs.categories == list(FOUR)
    assert pairs.card.iterations == 10  # two models of 20 images in batches of 4, once
    assert len({record.identity for record in records.values()}) == 5


def test_a_pair_is_the_model_of_a_tree_of_these_two(cells: Path, tmp_path: Path) -> None:
    for name in ("nut", "pin"):
        shutil.copytree(cells / "tree" / name, tmp_path / "two" / name)
    ran = mddbench(
        *("run", "folder/padim", *SMALL, "--data-root", tmp_path / "two", "--out", tmp_path / "out"),
        *("--tracking", "none", "--no-report", "-q"),
    )
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "out").glob("cells/*/record.json")
    alone, pairs = read_record(file), found(cells)["a model for each 2 of 4 categories"][1]
    for name in ("nut", "pin"):
        assert alone.metrics[name] == pairs.metrics[name]


def test_a_finished_cell_scores_with_the_model_of_a_category(cells: Path, tmp_path: Path) -> None:
    folder, _ = found(cells)["a model for each 2 of 4 categories"]
    images = cells / "tree" / "pin" / "test" / "spot"
    ran = mddbench("predict", folder, images, "--to", tmp_path / "scores")
    assert ran.returncode == 2
    assert "several models, so give --category" in ran.stderr
    ran = mddbench("predict", folder, images, "--category", "pin", "--to", tmp_path / "scores")
    assert ran.returncode == 0, ran.stderr


def test_changed_images_go_to_the_model_of_their_category(cells: Path) -> None:
    more = ("--set", "categories_per_model=2", "--changes", "jpeg", "--levels", "1", "--tracking", "none", "-q")
    ran = mddbench("shift", "folder/padim", *SMALL, "--data-root", cells / "tree", "--out", cells / "out", *more)
    assert ran.returncode == 0, ran.stderr  # the images as they are give the metrics of the record


def test_the_ablation_is_shown_category_by_category(cells: Path) -> None:
    variants = {str(number): {"categories_per_model": number} for number in (1, 2, 4)}
    ablation = Ablation("ablation/shared", "Shared", "folder/padim", None, variants, "categories_per_model")
    texts = build_report(entries_from_folder(cells / "out"), [ablation]).texts
    (whole,) = (text for file, text in texts.items() if file.name == "ablation-shared.md")
    assert whole.splitlines()[0].endswith(": PaDiM on tree, 4 categories")
    (table,) = (text for file, text in texts.items() if file.name == "ablation-shared-by-category.csv")
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(table))}
    assert list(rows) == [*FOUR, "mean"]
    records = found(cells)
    for number in (1, 2, 4):
        record = records[f"a model for each {number} of 4 categories"][1]
        assert float(rows["pin"][f"{number} p_auroc"]) == pytest.approx(record.value("pin", "p_auroc"))


def test_the_ablation_has_one_axis() -> None:
    assert load_ablation("ablation/categories_per_model").axis == "categories_per_model"


def test_a_figure_shows_what_sharing_costs_each_category(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = {str(number): {"categories_per_model": number} for number in (4, 1, 2)}
    ablation = Ablation("ablation/shared", "Shared", "folder/padim", None, variants, "categories_per_model")
    pictures = build_report(entries_from_folder(cells / "out"), [ablation]).pictures
    (file,) = (file for file in pictures if file.name == "ablation-shared-sharing.png")
    drawn: list[tuple[Any, str]] = []
    monkeypatch.setattr(sharing, "save", lambda figure, _, title: drawn.append((figure, title)))
    pictures[file](file)
    (figure, title), records = drawn[0], found(cells)
    assert title == f"PaDiM on tree: 4 in a model {MINUS} a category alone, 1 seed; right of 0, sharing helps"
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [*FOUR, "mean"]
    shared, alone = (records[f"a model for each {number} of 4 categories"][1] for number in (4, 1))
    expected = [100 * (shared.value(name, "mad") - alone.value(name, "mad")) for name in (*FOUR, "mean")]
    np.testing.assert_allclose(axis.lines[-1].get_xdata(), expected, atol=1e-9)


def test_variants_that_share_alike_have_no_such_figure(cells: Path) -> None:
    variants = {"one": {"categories_per_model": 4}, "unified": {}}
    ablation = Ablation("ablation/same", "Same", "folder/padim", None, variants, None)
    pictures = build_report(entries_from_folder(cells / "out"), [ablation]).pictures
    assert not [file for file in pictures if file.name.endswith("-sharing.png")]
