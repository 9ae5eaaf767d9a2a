"""Figures: what they show follows from records and evidence, in grey too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from mddbench.experiments.ablation import load_ablation
from mddbench.report.figures import ablations, across, curves, heat_maps, training_and_cost
from mddbench.report.figures.ablations import draw_ablation
from mddbench.report.figures.across import MOST_NUMBERS, draw_across
from mddbench.report.figures.canvas import canvas, legend, logarithmic, save
from mddbench.report.figures.curves import KINDS, draw_category_curves, draw_curves, draw_scores, has_curves
from mddbench.report.figures.heat_maps import draw_gallery, draw_qualitative
from mddbench.report.figures.style import COLOURS, PHONE, TEXT, WIDTH, folded, marks, narrow_page, series
from mddbench.report.figures.tiles import colour_limits
from mddbench.report.figures.training_and_cost import draw_dots, draw_prices, draw_training, pareto
from mddbench.report.rows.groups import Group
from mddbench.report.rows.studies import Study
from mddbench.runs.card import UPPER_BOUND
from mddbench.runs.evidence import Evidence
from mddbench.runs.panels import Panel
from mddbench.runs.thresholds import Scoped, Thresholds
from support import record

pytestmark = pytest.mark.renders

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
    "curves": lambda file: draw_curves([("A", ((evidence("bolt"), evidence("nut", False)),))], "mini", file),
    "each": lambda file: draw_category_curves([("A", ((evidence("bolt"), evidence("nut", False)),))], "mini", 1, file),
    "across": lambda file: draw_across("A_1 $", "mini", [[evidence("bolt"), evidence("nut_100%")]], file),
    "qualitative": lambda file: draw_qualitative([("A", panels(0.0)), ("B", panels(3.0))], "mini", file),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_picture_and_a_vector_file_and_always_the_same(name: str, tmp_path: Path) -> None:
    for place in ("one", "two"):
        DRAWN[name](tmp_path / place / "figure.png")
    for suffix in (".png", ".pdf", ".svg"):
        one, two = ((tmp_path / place / "figure.png").with_suffix(suffix).read_bytes() for place in ("one", "two"))
        assert one == two
    with Image.open(tmp_path / "one" / "figure.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert (tmp_path / "one" / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_no_figure_without_what_it_needs(tmp_path: Path) -> None:
    assert not has_curves([("A", ((evidence("bolt", False),),))])
    other = tuple(Panel(**{**vars(panel), "name": "2.png"}) for panel in panels(0.0))
    draw_qualitative([("A", panels(0.0)), ("B", other)], "mini", tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists(), "methods that show different images are not set side by side"


def test_series_stay_apart_in_grey() -> None:
    assert len({str(series(number)["linestyle"]) for number in range(6)}) == 6
    assert len({marks(number)["marker"] for number in range(6)}) == 6
    shades = [
        np.dot([int(colour[place : place + 2], 16) for place in (1, 3, 5)], [0.299, 0.587, 0.114]) for colour in COLOURS
    ]
    assert all(abs(one - other) >= 20 for place, one in enumerate(shades) for other in shades[:place])


def test_thirty_series_are_all_drawn_differently() -> None:
    lines = {(style["color"], str(style["linestyle"])) for style in map(series, range(30))}
    points = {(style["color"], style["marker"]) for style in map(marks, range(30))}
    assert len(lines) == len(points) == 30
    assert all(series(number)["color"] == marks(number)["color"] for number in range(30))


@pytest.fixture
def titles() -> list[str]:
    """The titles of the figures that would have been saved."""
    return []


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, titles: list[str]) -> list[Any]:
    """The figures that would have been saved."""
    kept: list[Any] = []

    def keep(figure: Any, file: Path, title: str = "", *_: bool, **__: bool) -> None:
        kept.append(figure)
        titles.append(title)

    for module in (ablations, across, curves, heat_maps, training_and_cost):
        monkeypatch.setattr(module, "save", keep)
    return kept


FILE = Path("figure.png")


def points_of(axis: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> x and y of what `errorbar` drew."""
    found = {box.get_label(): box.lines[0] for box in axis.containers}
    return {label: (line.get_xdata().tolist(), line.get_ydata().tolist()) for label, line in found.items()}


def named(figure: Any) -> list[str]:
    """What stands in a figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_dots_are_means_over_seeds_with_their_deviation_and_none_where_a_seed_has_no_value(drawn: list[Any]) -> None:
    draw_dots(groups(), "mini", FILE)
    axes = drawn[0].axes
    xs, ys = points_of(axes[1])["A"]  # I-AUROC of bolt, nut and the mean: 50 and 60
    assert xs == pytest.approx([55, 55, 55])
    assert ys == pytest.approx([-0.175, 0.825, 1.825])
    assert points_of(axes[1])["B"][0] == pytest.approx([75, 75, 75])
    whisker = axes[1].containers[0].lines[2][0].get_segments()[0]
    assert whisker[:, 0] == pytest.approx([55 - 50**0.5, 55 + 50**0.5])
    assert points_of(axes[2])["B"][1] == pytest.approx([0.175, 2.175]), "AUPRO of nut is not defined"
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["bolt", "nut 100%", "mean"]
    half = record(1, 0.6)
    half.metrics["bolt"]["i_auroc"] = None
    draw_dots([Group("A", (record(0, 0.5), half))], "mini", FILE)
    assert points_of(drawn[1].axes[1])["A"][1] == pytest.approx([1, 2]), "one seed of two has no value"


def test_prices_name_every_method_and_the_front_leaves_out_what_stands_apart(
    drawn: list[Any], titles: list[str]
) -> None:
    known, bound = (
        {"train_seconds": 9.0, "parameters_total": 4e6},
        record().card.model_copy(update={"test_labels": UPPER_BOUND}),
    )
    cost = {"inference_ms_per_image": 2.0, "train_seconds": 90.0, "parameters_total": 8e6}
    one = Group("one", (record(0, 0.5, cost=known), record(1, 0.7, cost=known)))
    two = Group("two", (record(0, 0.8, cost=cost),))
    other = Group("other", (record(0, 0.9, cost={**cost, "train_seconds": 10.0}),), differs="epochs 9")
    told = Group("told", (record(0, 0.95, cost={**cost, "train_seconds": 8.0}, card=bound),))
    draw_prices([one, two, other, told], "mini", FILE)
    figure = drawn[0]
    assert named(figure) == ["one", "two", "other †", "told"]
    assert set(points_of(figure.axes[0])) == {"two", "other †", "told"}, "one has no time of inference"
    points = points_of(figure.axes[1])
    assert {label: (x[0], pytest.approx(y[0])) for label, (x, y) in points.items()} == {
        "one": (9, 60),
        "two": (90, 80),
        "other †": (10, 90),
        "told": (8, 95),
    }
    line = next(line for line in figure.axes[1].get_lines() if line.get_drawstyle() == "steps-post")
    assert "grey: the Pareto front" in titles[0]
    names = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert {"one", "two", "other †", "told"} >= set(names[1]) > {"two"}, "a name stands beside each point that has room"
    assert line.get_xdata().tolist() == [9, 90]
    assert line.get_ydata().tolist() == pytest.approx([60, 80])
    assert [axis.get_xscale() for axis in figure.axes] == ["linear", "log", "linear"]
    assert figure.axes[2].get_lines()[0].get_xdata().tolist() == [4], "parameters in millions"


def test_curves_are_means_over_categories_then_seeds_with_the_range_shaded(drawn: list[Any]) -> None:
    def part(category: str, *ys: float) -> Evidence:
        curve = np.array([[0, 1], ys], dtype=np.float32)
        return Evidence(**{**vars(evidence(category)), "precision_recall": curve, "region_overlap": curve})

    runs = ((part("bolt", 0.2, 0.4), part("nut", 0.4, 0.8)), (part("bolt", 0.5, 1.0), part("nut", math.nan, math.nan)))
    draw_curves([("A", runs)], "mini", FILE)
    for axis in drawn[0].axes:
        (line,) = axis.get_lines()
        assert line.get_ydata().tolist() == pytest.approx([0.4, 0.8])  # of (0.3, 0.6) and (0.5, 1.0)
        shade = axis.collections[0].get_paths()[0].vertices
        assert sorted({round(y, 6) for x, y in shade if x == 1}) == [0.6, 1.0]
        assert sorted({round(y, 6) for x, y in shade if x == 0}) == [0.3, 0.5]
    draw_category_curves([("A", runs), ("B", runs[1:])], "mini", 0, FILE)
    bolt, nut = drawn[1].axes
    assert [line.get_ydata().tolist() for line in bolt.get_lines()] == [pytest.approx([0.2, 0.4]), [0.5, 1.0]]
    assert nut.get_lines()[0].get_ydata().tolist() == pytest.approx([0.4, 0.8])
    assert named(drawn[1]) == ["A", "B"]


def test_training_shows_means_over_seeds_and_the_range_of_the_loss(drawn: list[Any]) -> None:
    def logs(*losses: float) -> list[dict[str, Any]]:
        rest = {"lr": 0.1, "seconds": 1.0, "images": 4}
        return [{"epoch": n, "loss": x, "terms": {"p": x / 2, "q": x / 4}, **rest} for n, x in enumerate(losses, 1)]

    seeds = tuple(record(seed, history=logs(*losses)) for seed, losses in enumerate([(4, 2), (6, 3), (8, 1)]))
    draw_training([Group("A", seeds), Group("B", (record(),))], "mini", FILE)
    axis = drawn[0].axes[0]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}
    assert lines == {"loss": ([1, 2], [6, 2]), "p": ([1, 2], [3, 1]), "q": ([1, 2], [1.5, 0.5])}
    shade = axis.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in shade} == {(1, 4), (1, 8), (2, 1), (2, 3)}
    assert named(drawn[0]) == ["loss", "range over seeds", "p", "q"]
    assert all(each.get_legend() is None for each in drawn[0].axes), "no legend over the lines"


def strips(axis: Any) -> dict[str, list[tuple[list[float], float]]]:
    """Label -> for each category the scores and the height of their strip."""
    found: dict[str, list[tuple[list[float], float]]] = {}
    for line in axis.get_lines():
        xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        if len(xs) > 2:
            found.setdefault(line.get_label(), []).append((sorted(xs[::3].tolist()), float(ys[0])))
    return found


def thresholds_of(axis: Any) -> dict[str, float]:
    """Label -> place of each line across all categories."""
    return {line.get_label(): line.get_xdata()[0] for line in axis.get_lines() if list(line.get_ydata()) == [0, 1]}


def test_scores_are_strips_on_one_axis_with_the_thresholds(drawn: list[Any]) -> None:
    bolt = scored("bolt", [0.0, 0.1, 0.4], [0.3, 0.9])
    nut = scored("nut", [0.2], [0.8, 1.0])
    draw_scores(record(), "A", [bolt, nut], FILE)
    (axis,) = drawn[0].axes
    found = strips(axis)
    assert [xs for xs, _ in found["normal images"]] == [pytest.approx([0, 0.1, 0.4]), pytest.approx([0.2])]
    assert [xs for xs, _ in found["defective images"]] == [pytest.approx([0.3, 0.9]), pytest.approx([0.8, 1.0])]
    assert [top for _, top in found["normal images"]] == [-0.4, 0.6]
    assert [top for _, top in found["defective images"]] == [pytest.approx(0.02), pytest.approx(1.02)]
    assert thresholds_of(axis) == {"threshold of the best F1, from the test labels": pytest.approx(0.3)}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bolt\nI-AUROC 50.0", "nut\nI-AUROC –"]
    told = Thresholds(
        source="x",
        images={"bolt": 20},
        image={"5": Scoped(one=0.25, each={"bolt": None}), "1": Scoped(one=None, each={"bolt": None})},
        pixel={},
    )
    draw_scores(record(thresholds=told), "A", [bolt, nut], FILE)
    assert thresholds_of(drawn[1].axes[0])["threshold without test labels, 5 % false alarms wanted"] == 0.25


def scored(category: str, normal: list[float], defective: list[float]) -> Evidence:
    labels = np.arange(len(normal) + len(defective)) >= len(normal)
    return replace(evidence(category), labels=labels, scores=np.array([*normal, *defective], dtype=np.float32))


def test_the_matrix_shows_means_over_seeds_of_each_category_against_each_other(drawn: list[Any]) -> None:
    first = [scored("bolt", [1.0, 2.0], [3.0]), scored("nut", [3.0, 5.0], [])]
    second = [scored("bolt", [4.0, 2.0], [3.0]), scored("nut", [1.0, 2.0], [])]
    draw_across("A", "mini", [first, second, second[:1]], FILE)
    axis = drawn[0].axes[0]
    shown = axis.images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(shown, np.nan), [[75.0, 62.5], [np.nan, np.nan]])
    assert [text.get_text() for text in axis.texts] == ["75", "62"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bolt", "nut"]


def test_the_matrix_of_many_categories_has_no_numbers_and_that_of_one_is_not_drawn(drawn: list[Any]) -> None:
    draw_across("A", "mini", [[scored(str(n), [1.0], [2.0]) for n in range(MOST_NUMBERS + 1)]], FILE)
    assert not drawn[0].axes[0].texts
    draw_across("A", "mini", [[scored("bolt", [1.0], [2.0])]], FILE)
    draw_across("A", "mini", [[scored("bolt", [1.0], []), scored("nut", [2.0], [])]], FILE)
    assert len(drawn) == 1


def study(numbers: bool, *scores: tuple[float, ...]) -> Study:
    ablation = load_ablation("ablation/prototypes")
    labels = ("8", "32", "128") if numbers else ("one", "two", "three")
    rows = [
        Group(label, tuple(record(seed, score) for seed, score in enumerate(each)))
        for label, each in zip(labels, scores, strict=False)
    ]
    named = ablation if numbers else load_ablation("ablation/components")
    return Study(named, "own", "Own", "mini", rows)


def test_infinite_scores_are_left_out_and_told(drawn: list[Any], titles: list[str]) -> None:
    part = evidence("bolt")
    wild = replace(part, scores=np.where(np.arange(len(part.scores)) == 3, np.inf, part.scores).astype(np.float32))
    draw_scores(record(), "A", [wild], FILE)
    assert sum(len(xs) for kind in strips(drawn[-1].axes[0]).values() for xs, _ in kind) == len(part.scores) - 1
    assert "; 1 infinite scores are left out" in titles[-1]
    shown = panels(0.0)
    shown[0].map[0, 0] = np.inf
    assert np.isfinite(colour_limits(shown)).all()


def bands(axis: Any) -> list[Any]:
    return [patch for patch in axis.patches if patch.get_alpha() == 0.5]


def test_variants_are_dots_with_their_spread_on_an_axis_that_is_cut(drawn: list[Any], titles: list[str]) -> None:
    draw_ablation(study(False, (0.6, 0.7), (0.8, 0.8)), FILE)
    for axis in drawn[0].axes:
        (box,) = axis.containers
        assert box.lines[0].get_xdata().tolist() == pytest.approx([65, 80])
        assert box.lines[0].get_linestyle() == "None"
        assert box.lines[2][0].get_segments()[0][:, 0] == pytest.approx([65 - 50**0.5, 65 + 50**0.5])
        seeds = axis.get_lines()[0]
        assert seeds.get_xdata().tolist() == pytest.approx([60, 70, 80, 80])
        assert seeds.get_ydata().tolist() == [0, 0, 1, 1]
        assert 50 < axis.get_xlim()[0] < 60
        assert axis.get_xlim()[1] > 80
        assert not bands(axis)
    assert "axes do not start at 0" in titles[0]
    undefined = study(False, (0.6,), (0.7,))
    undefined.groups[1].first.metrics["mean"]["mad"] = None
    draw_ablation(undefined, FILE)
    assert drawn[1].axes[0].containers[0].lines[0].get_xdata().tolist() == pytest.approx([60])


@pytest.mark.parametrize("numbers", [True, False])
def test_variants_of_one_seed_have_no_line_and_the_spread_of_the_base(
    numbers: bool, drawn: list[Any], titles: list[str]
) -> None:
    one = study(numbers, (0.6,), (0.7,), (0.65,))
    draw_ablation(one, FILE)
    base = Group("usual", tuple(record(seed, score) for seed, score in enumerate((0.6, 0.7, 0.8))))
    draw_ablation(replace(one, base=base, base_label="usual"), FILE)
    for figure, expected in zip(drawn, ([], [(60, 80)]), strict=True):
        axis = figure.axes[1]
        assert axis.containers[0].lines[0].get_linestyle() == "None"
        boxes = [patch.get_extents().transformed(axis.transData.inverted()) for patch in bands(axis)]
        ends = [(box.y0, box.y1) if numbers else (box.x0, box.x1) for box in boxes]
        assert ends == [pytest.approx(each) for each in expected]
    assert "grey" not in titles[0]
    assert "; grey: mean and standard deviation of 3 seeds of 'usual'" in titles[1]


def test_an_ablation_over_numbers_is_a_curve_whose_axis_is_named_in_words(drawn: list[Any]) -> None:
    draw_ablation(study(True, (0.6, 0.7), (0.8, 0.8), (0.7, 0.9)), FILE)
    axis = drawn[0].axes[0]
    (label,) = points_of(axis)
    assert points_of(axis)[label] == ([8, 32, 128], pytest.approx([65, 80, 80]))
    assert axis.containers[0].lines[0].get_linestyle() == "-"
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["8", "32", "128"]
    assert drawn[0].get_supxlabel() == "prototypes per category"


@pytest.mark.parametrize("numbers", [True, False])
def test_an_ablation_without_masks_has_panels_of_its_image_metrics(numbers: bool, drawn: list[Any]) -> None:
    undefined = study(numbers, (0.6,), (0.7,))
    for group in undefined.groups:
        group.first.metrics["mean"].update(aupro=None, p_ap=None)
    draw_ablation(undefined, FILE)
    drawn[0].draw_without_rendering()
    assert [axis.get_lines()[0].get_xdata().size for axis in drawn[0].axes] == [2, 2, 0, 0]


def test_many_categories_wrap_and_no_figure_is_wider_than_a_page(drawn: list[Any]) -> None:
    def many(shift: float) -> tuple[Panel, ...]:
        return tuple(
            Panel(**{**vars(panel), "category": f"a_long_category_{n}"}) for n in range(20) for panel in panels(shift)
        )

    draw_qualitative([("A", many(0.0)), ("B", many(3.0))], "mini", FILE)
    blocks = drawn[0].axes
    assert [len(axis.get_xticks()) for axis in blocks[:3]] == [7, 7, 6]
    assert len(blocks) == 4, "three blocks and the colour bar"
    names = [[text.get_text().split("\n")[0] for text in axis.get_yticklabels()] for axis in blocks[:3]]
    assert names == [["image", "A", "B"]] * 3, "no row of masks"
    assert blocks[0].get_xticklabels()[0].get_text() == "a long\ncategory 0"
    draw_gallery(many(0.0), "A", FILE)
    many_groups = [Group(f"method {n}", groups()[n % 2].records) for n in range(9)]
    draw_training(many_groups, "mini", FILE)
    draw_dots(many_groups, "mini", FILE)
    draw_scores(record(), "A", [evidence("bolt")] * 7, FILE)
    assert all(figure.get_figwidth() <= WIDTH for figure in drawn)
    wide = len(drawn)
    with narrow_page():
        draw_qualitative([("A", many(0.0)), ("B", many(3.0))], "mini", FILE)
        draw_training(many_groups, "mini", FILE)
        draw_dots(many_groups, "mini", FILE)
        draw_prices(groups(), "mini", FILE)
        draw_ablation(study(True, (0.6, 0.7), (0.8, 0.8), (0.7, 0.9)), FILE)
    assert all(figure.get_figwidth() <= PHONE for figure in drawn[wide:])
    for figure in drawn:
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()}
        assert sizes == {TEXT}, "one size of letters"


def test_a_pdf_has_no_title_and_the_picture_is_higher_by_it(tmp_path: Path) -> None:
    figure, (axis,) = canvas((4.0, 2.0))
    axis.plot([0, 1], label="$a$ line")
    legend(figure, [axis])
    height = figure.get_figheight()
    save(figure, tmp_path / "figure.png", "Heading")
    text = tmp_path / "figure.pdf"
    box = re.search(rb"/MediaBox \[ ?([\d. ]+)\]", text.read_bytes())
    assert box is not None
    _, _, width, tall = map(float, box[1].split())
    assert (width, tall) == (pytest.approx(288), pytest.approx(72 * height))
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.height == pytest.approx(170 * (height + 1.3 * TEXT / 72), abs=1)
    assert "<title>Heading</title>" in (tmp_path / "figure.svg").read_text()
    assert figure.get_suptitle() == ""
    assert axis.get_position().y1 > 0.9, "laid out again"


def test_ticks_are_few_and_powers_of_ten_over_many_decades() -> None:
    _, axes = canvas((7.0, 2.0), (1, 4))
    axes[0].plot([0, 1000], [0, 1])
    assert len(axes[0].get_xticks()) <= 7
    for high, expected in ((30, {1, 3, 10, 30}), (5000, {1, 10, 100, 1000})):
        axes[1].clear()
        axes[1].plot([1, high], [1, 1])
        logarithmic(axes[1], "x")
        assert {tick for tick in axes[1].get_xticks() if 1 <= tick <= high} == expected


def test_long_names_are_broken_into_lines() -> None:
    assert folded("bottle cap", 2.0, 7) == "bottle cap"
    assert folded("method (a_b/c)", 0.6, 7) == "method\n(a_b/c)"
    assert all(len(line) <= 11 for line in folded("immunohistochemistry of tissue", 0.66, 7).splitlines())


def test_every_kind_of_curve_is_a_field_of_the_evidence() -> None:
    assert all(hasattr(evidence("bolt"), field) for field, *_ in KINDS)
