"""Which threshold `predict` and `export-model` use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel, find_cell
from mddbench.inference.verdicts import choose_threshold
from support import mddbench


@pytest.fixture(scope="module")
def model(finished_cells: Path) -> FinishedModel:
    """A model with thresholds from twenty held-out images: enough for 5 %, and for neither 1 % nor one category."""
    return FinishedModel.load(find_cell("folder/padim", finished_cells / "calibrated"), torch.device("cpu"))


def test_the_stored_threshold_is_used(finished_cells: Path, model: FinishedModel) -> None:
    assert model.record.thresholds is not None
    stored = model.record.thresholds.image["5"].one
    assert stored is not None
    chosen = choose_threshold(model)
    assert chosen.value == stored
    assert chosen.origin.startswith("5 % false alarms for all categories, set on 50 % of the training images")
    assert choose_threshold(model, category="nut") == chosen  # ten images are too few for a threshold of its own
    test = finished_cells / "photos" / "nut" / "test"
    ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "calibrated")
    assert f"threshold: {stored:g} (5 % false alarms for all categories" in ran.stderr
    lines = ran.stdout.splitlines()[1:]
    assert [line.split(",")[4] for line in lines] == [
        "NG" if float(line.split(",")[2]) > stored else "OK" for line in lines
    ]


def test_what_the_user_says_goes_first(model: FinishedModel) -> None:
    assert choose_threshold(model, given=1.5).value == 1.5
    with pytest.raises(InputError, match="expected a finite number"):
        choose_threshold(model, given=float("nan"))
    with pytest.raises(InputError, match="give one of them"):
        choose_threshold(model, given=1.5, false_alarms=5)
    with pytest.raises(InputError, match=r"false alarms 1 %: no threshold at 1 % for all categories \(20 images\)"):
        choose_threshold(model, false_alarms=1)
    with pytest.raises(InputError, match="false alarms 2 %: no threshold was set for it; there are 5 %, 1 %"):
        choose_threshold(model, false_alarms=2)


def test_the_threshold_of_a_category_goes_before_that_of_all(model: FinishedModel) -> None:
    assert model.record.thresholds is not None
    changed = model.record.thresholds.model_copy(deep=True)
    changed.image["5"].each["nut"] = 7.0
    other = FinishedModel(model.folder, model.record.model_copy(update={"thresholds": changed}), model.detector, {})
    assert choose_threshold(other, category="nut").value == 7.0
    assert choose_threshold(other, category="bolt") == choose_threshold(model)
    assert choose_threshold(other) == choose_threshold(model)


def test_without_a_threshold_there_is_no_verdict(finished_cells: Path) -> None:
    plain = FinishedModel.load(find_cell("folder/padim", finished_cells / "out"), torch.device("cpu"))
    assert choose_threshold(plain).value is None
    with pytest.raises(InputError, match="no threshold was set; train with"):
        choose_threshold(plain, false_alarms=5)
    file = finished_cells / "photos" / "nut" / "test" / "good" / "000.png"
    ran = mddbench("predict", "folder/padim", file, "--out", finished_cells / "out")
    assert "threshold: none: give one, or train with --set calibration=0.2" in ran.stderr
