"""Reports where only images are labelled: figures show what is defined, and no empty panels or masks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_examples import panel

from mddbench.experiments.ablation import load_ablation
from mddbench.metrics.names import IMAGE_LEVEL, LABELS, PIXEL_LEVEL
from mddbench.report.figures import ablations, budgets, heat_maps, training_and_cost
from mddbench.report.figures.tiles import HALO, LINE, colour_limits, outlined
from mddbench.report.rows.groups import Group, defined_metrics, quality_metric
from mddbench.report.rows.studies import Study
from mddbench.report.tables.differences import paired_differences
from mddbench.runs.panels import Panel
from mddbench.runs.records import Record
from support import record

FILE = Path("figure.png")
COST = {"inference_ms_per_image": 2.0, "train_seconds": 9.0, "parameters_total": 4e6}


def without_masks(score: float, **changes: Any) -> Record:
    """A record whose pixel metrics are not defined, and neither is mAD."""
    one = record(0, score, cost=COST, **changes)
    nothing = dict.fromkeys((*PIXEL_LEVEL, "mad"))
    metrics = {
        name: {**values, **{key: nothing[key] for key in values if key in nothing}}
        for name, values in one.metrics.items()
    }
    return one.model_copy(update={"metrics": metrics})


def groups() -> tuple[Group, Group]:
    worse, better = without_masks(0.5), without_masks(0.7, protocol="b" * 12, label="B")
    return Group("A", (worse,)), Group("B", (better,))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    figures: list[Any] = []
    for module in (ablations, budgets, heat_maps, training_and_cost):
        monkeypatch.setattr(module, "save", lambda figure, file, title, *_, **__: figures.append((figure, title)))
    return figures


def test_what_is_defined() -> None:
    assert defined_metrics(groups()) == IMAGE_LEVEL
    assert quality_metric(groups()) == "i_auroc"
    with_all = Group("C", (record(),))
    assert quality_metric((*groups(), with_all)) == "mad"
    assert quality_metric(()) == "mad"


def test_figures_of_categories_and_costs_show_image_level_metrics(drawn: list[Any]) -> None:
    training_and_cost.draw_dots(groups(), "cells", FILE)
    training_and_cost.draw_prices(groups(), "cells", FILE)
    (dots, _), (prices, _) = drawn
    assert [axis.get_xlabel() for axis in dots.axes] == [f"{LABELS[key]} [%]" for key in IMAGE_LEVEL]
    assert all(axis.containers for axis in dots.axes)
    assert prices.axes[0].get_ylabel() == "I-AUROC [%]"
    assert [line[0].get_ydata().tolist() for line in prices.axes[0].containers] == [[50.0], [70.0]]


def test_an_ablation_shows_image_level_metrics(drawn: list[Any]) -> None:
    study = Study(load_ablation("ablation/fusion"), "own", "Own", "cells", list(groups()))
    ablations.draw_ablation(study, FILE)
    assert [axis.get_title() for axis in drawn[0][0].axes] == [f"{LABELS[key]} [%]" for key in IMAGE_LEVEL]


def test_budgets_are_compared_by_the_image_auroc(drawn: list[Any]) -> None:
    budgets.draw_budgets({"A": list(groups())}, "cells", FILE)
    assert drawn[0][0].axes[0].get_ylabel() == "I-AUROC [%]"


def test_differences_begin_with_the_better_method_and_leave_out_what_is_not_defined(drawn: list[Any]) -> None:
    pairs = paired_differences(groups())
    assert [(pair.better, pair.worse) for pair in pairs] == [("B", "A")]
    assert math.isnan(pairs[0].differences["mad"].mean)
    ablations.draw_differences("cells", pairs, FILE)
    names = [text.get_text() for text in drawn[0][0].axes[0].get_yticklabels()]
    assert names == [LABELS[key] for key in IMAGE_LEVEL]


def unmarked(category: str, role: str) -> Panel:
    one = panel(category, role)
    return replace(one, mask=np.zeros_like(one.mask))


def test_heat_maps_have_no_outline_where_there_is_no_mask(drawn: list[Any]) -> None:
    plain = tuple(unmarked("cell", role) for role in ("best", "worst", "typical", "normal"))
    assert (outlined(plain[0].image, plain[0]) == plain[0].image).all()
    heat_maps.draw_gallery(plain, "A", FILE)
    heat_maps.draw_qualitative([("A", plain)], "cells", FILE)
    (gallery, _), (qualitative, title) = drawn
    assert gallery.axes[0].get_title() == "best found defect"
    assert [text.get_text().split("\n")[0] for text in qualitative.axes[0].get_yticklabels()] == ["image", "A"]
    assert title == "cells: a defect of each category; scores of low and high below names"


def test_a_defect_is_outlined_and_stays_in_sight(drawn: list[Any]) -> None:
    marked, plain = panel("bolt", "typical"), unmarked("cell", "typical")
    shown = outlined(marked.image, marked)
    assert (shown[marked.mask] == marked.image[marked.mask]).all()
    assert {tuple(colour) for colour in shown[(shown != marked.image).any(axis=2)]} == {LINE, HALO}
    heat_maps.draw_qualitative([("A", (marked, plain))], "both", FILE)
    figure, title = drawn[0]
    assert title == "both: the defect of median area of each category, outlined; scores of low and high below names"
    low, high = colour_limits((marked, plain))
    assert figure.axes[0].get_yticklabels()[1].get_text() == f"A\n{low:.4g} to {high:.4g}", "ends of the colours"
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["low", "high"]
