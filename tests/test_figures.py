"""Figures: what they show follows from records and evidence, in grey too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mddbench.evidence import Evidence
from mddbench.panels import Panel
from mddbench.report.canvas import SERIES
from mddbench.report.evidence_plots import KINDS, Shown, draw_category_curves, draw_curves, draw_scores, has_curves
from mddbench.report.figures import draw_dots, draw_prices, draw_training, pareto
from mddbench.report.groups import Group
from mddbench.report.qualitative import draw_qualitative
from support import record

POINTS = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(1, 9).map(float)), max_size=8)


@given(POINTS)
def test_nothing_on_the_pareto_line_is_beaten_and_all_else_is(points: list[tuple[float, float]]) -> None:
    best = pareto(points)
    for price, quality in points:
        beaten = any(p <= price and q >= quality and (p, q) != (price, quality) for p, q in points)
        assert ((price, quality) in best) == (not beaten)
    assert best == sorted(best)


def evidence(category: str, masks: bool = True) -> Evidence:
    generator, count = np.random.default_rng(0), 12
    curve = np.stack([np.linspace(0, 1, 11), np.linspace(1, 0.2, 11)]).astype(np.float32)
    return Evidence(
        category=category,
        names=("a.png",) * count,
        defects=("good",) * 6 + ("scratch",) * 6,
        items=("",) * count,
        labels=np.arange(count) >= 6,
        scores=generator.random(count, dtype=np.float32),
        precision_recall=curve if masks else np.full_like(curve, np.nan),
        region_overlap=curve if masks else np.full_like(curve, np.nan),
    )


def groups() -> tuple[Group, ...]:
    terms = {"one": 0.7, "other": 0.01}
    history = [{"epoch": n, "loss": 1 / n, "terms": terms, "lr": 0.1, "seconds": 1.0, "images": 4} for n in (1, 2, 3)]
    cost = {"inference_ms_per_image": 2.0, "train_seconds": 9.0, "parameters_total": 4e6}
    one = tuple(record(seed, 0.5 + 0.1 * seed, history=history, cost=cost) for seed in (0, 1))
    dear = {key: 20 * value for key, value in cost.items()}
    other = (
        record(0, 0.7, protocol="b" * 12, label="B", cost=dear),
        record(1, 0.8, protocol="b" * 12, label="B", cost=dear),
    )
    return Group("A", one), Group("B", other)


def panels(shift: float) -> tuple[Panel, ...]:
    mask = np.zeros((32, 32), dtype=bool)
    mask[4:9, 4:9] = True
    maps = (np.arange(1024).reshape(32, 32) / 1024 + shift).astype(np.float16)
    image = np.full((32, 32, 3), 120, dtype=np.uint8)
    return tuple(Panel("nut", role, "scratch", "1.png", 0.5, image, mask, maps) for role in ("best", "typical"))


DRAWN: dict[str, Callable[[Path], Any]] = {
    "training": lambda file: draw_training(groups(), "mini", file),
    "dots": lambda file: draw_dots(groups(), "mini", file),
    "prices": lambda file: draw_prices(groups(), "mini", file),
    "scores": lambda file: draw_scores(record(), "A_1 $", [evidence("bolt"), evidence("nut_100%")], file),
    "curves": lambda file: draw_curves([Shown("A", ((evidence("bolt"), evidence("nut", False)),))], "mini", file),
    "each": lambda file: draw_category_curves(
        [Shown("A", ((evidence("bolt"), evidence("nut", False)),))], "mini", 1, file
    ),
    "qualitative": lambda file: draw_qualitative([("A", panels(0.0)), ("B", panels(3.0))], "mini", file),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_picture_and_a_vector_file_and_always_the_same(name: str, tmp_path: Path) -> None:
    for place in ("one", "two"):
        DRAWN[name](tmp_path / place / "figure.png")
    for suffix in (".png", ".pdf"):
        one, two = ((tmp_path / place / "figure.png").with_suffix(suffix).read_bytes() for place in ("one", "two"))
        assert one == two
    with Image.open(tmp_path / "one" / "figure.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert (tmp_path / "one" / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_no_figure_without_what_it_needs(tmp_path: Path) -> None:
    assert not has_curves([Shown("A", ((evidence("bolt", False),),))])
    other = tuple(Panel(**{**vars(panel), "name": "2.png"}) for panel in panels(0.0))
    draw_qualitative([("A", panels(0.0)), ("B", other)], "mini", tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists(), "methods that show different images are not set side by side"


def test_series_stay_apart_in_grey() -> None:
    assert len({str(line) for _, line, _ in SERIES}) == len({marker for _, _, marker in SERIES}) == len(SERIES)
    shades = [
        np.dot([int(colour[place : place + 2], 16) for place in (1, 3, 5)], [0.299, 0.587, 0.114])
        for colour, *_ in SERIES[:3]
    ]
    assert all(abs(one - other) > 20 for place, one in enumerate(shades) for other in shades[:place])


def test_every_kind_of_curve_is_a_field_of_the_evidence() -> None:
    assert all(hasattr(evidence("bolt"), field) for field, *_ in KINDS)
