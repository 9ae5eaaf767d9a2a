"""Ranks of many methods: the tests against brute force and SciPy, and what the report says."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from mddbench.metrics.names import MAD, SEVEN
from mddbench.report.build import build_report
from mddbench.report.figures import ranks as ranks_figure
from mddbench.report.figures.ranks import draw_ranks
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group
from mddbench.report.rows.ranks import RankedPair, Ranking, comparable, holm, ranking, signed_ranks
from mddbench.report.tables.ranks import conclusions
from mddbench.runs.card import UPPER_BOUND
from mddbench.runs.records import Record
from support import record

CATEGORIES = tuple(f"c{number}" for number in range(8))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_the_signed_rank_test_is_the_count_of_all_signs(values: list[int]) -> None:
    found, effect = signed_ranks(np.array(values, dtype=float))
    nonzero = np.array([value for value in values if value], dtype=float)
    if not len(nonzero):
        assert found == 1.0
        assert np.isnan(effect)
        return
    ranks = rankdata(np.abs(nonzero))
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(ranks))])
    positive = ranks[nonzero > 0].sum()
    extreme = min(positive, ranks.sum() - positive)
    assert found == pytest.approx(min(1.0, 2 * np.mean(sums <= extreme + 1e-9)), abs=1e-12)
    assert effect == pytest.approx((positive - (ranks.sum() - positive)) / ranks.sum(), abs=1e-12)


@pytest.mark.parametrize("count", [5, 8, 15, 30])
def test_without_ties_it_is_scipys_exact_test(count: int) -> None:
    for seed in range(20):
        differences = np.random.default_rng(seed).normal(0.3, 1.0, count)
        assert signed_ranks(differences)[0] == pytest.approx(wilcoxon(differences, method="exact").pvalue, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holms_correction_is_its_definition(values: list[float]) -> None:
    found, order = holm(values), np.argsort(values, kind="stable")
    expected = [
        max(min(1.0, (len(values) - earlier) * values[order[earlier]]) for earlier in range(place + 1))
        for place in range(len(values))
    ]
    assert [found[index] for index in order] == pytest.approx(expected)
    assert all(corrected >= value for corrected, value in zip(found, values, strict=True))


def records(label: str, level: float, seeds: int = 2, spread: float = 0.01, **changes: object) -> list[Record]:
    """Records whose metrics are `level`, a little more in each category, and moved by seeds about the same mean."""
    found = []
    for seed in range(seeds):
        moved = spread * (2 * seed - seeds + 1)
        metrics: dict[str, dict[str, float | None]] = {
            category: dict.fromkeys(SEVEN, level + place / 100 + moved) for place, category in enumerate(CATEGORIES)
        }
        means: dict[str, float | None] = dict.fromkeys((*SEVEN, MAD.key), level + moved)
        found.append(record(seed, metrics={"mean": means, **metrics}, label=label, **changes))
    return found


def groups(*levels: float, seeds: int = 2) -> list[Group]:
    return [
        Group(f"M{number}", tuple(records(f"M{number}", level, seeds, protocol=f"{number:012x}")))
        for number, level in enumerate(levels)
    ]


def test_a_clear_order_gives_whole_ranks_and_the_least_p() -> None:
    found = ranking(groups(0.3, 0.6, 0.5, 0.4), "aupro")
    assert found is not None
    assert found.mean_ranks == {"M1": 1.0, "M2": 2.0, "M3": 3.0, "M0": 4.0}
    assert found.categories == 8
    for pair in found.pairs:
        assert pair.p == pytest.approx(2 / 2**8)
        assert pair.corrected == pytest.approx(6 * 2 / 2**8)
        assert pair.effect == 1.0
    assert found.pairs[0].difference == pytest.approx(0.1)
    assert found.alike() == []
    assert conclusions(found)[1] == "6 of 6 pairs differ at 5 % after the correction."


def test_more_seeds_of_the_same_mean_prove_nothing_more() -> None:
    few, many = (ranking(groups(0.5, 0.51, 0.4, 0.3, seeds=seeds), "i_auroc") for seeds in (1, 5))
    assert few is not None
    assert many is not None
    assert [pair.p for pair in few.pairs] == [pair.p for pair in many.pairs]


def test_equal_methods_share_ranks_and_do_not_differ() -> None:
    found = ranking(groups(0.5, 0.5, 0.5, 0.2), "mad")
    assert found is not None
    assert list(found.mean_ranks.values()) == [2.0, 2.0, 2.0, 4.0]
    assert found.alike() == [("M0", "M1", "M2")]
    assert {pair.p for pair in found.pairs[:2]} == {1.0}


def test_sets_that_are_alike_may_overlap_and_hold_no_two_that_differ() -> None:
    pairs = tuple(
        RankedPair(one, other, 0.0, 0.0, p, p)
        for one, other, p in (
            ("A", "B", 0.5),
            ("A", "C", 0.01),
            ("A", "D", 0.01),
            ("B", "C", 0.2),
            ("B", "D", 0.3),
            ("C", "D", 0.9),
        )
    )
    found = Ranking("mad", 8, {"A": 1.0, "B": 2.0, "C": 3.0, "D": 4.0}, pairs)
    assert found.alike() == [("A", "B"), ("B", "C", "D")]


def test_a_category_without_a_value_does_not_count_and_one_is_not_enough() -> None:
    rows = groups(0.3, 0.6, 0.5, 0.4)
    changed = (
        rows[0]
        .records[1]
        .model_copy(
            update={"metrics": {**rows[0].records[1].metrics, "c3": {**dict.fromkeys(SEVEN, 0.5), "aupro": None}}}
        )
    )
    found = ranking([Group("M0", (rows[0].records[0], changed)), *rows[1:]], "aupro")
    assert found is not None
    assert found.categories == 7
    assert ranking([Group("A", (record(0),)), Group("B", (record(1),))], "aupro") is None


def test_few_categories_can_show_nothing_and_it_is_said() -> None:
    found = Ranking("mad", 5, {"A": 1.0, "B": 2.0}, (RankedPair("A", "B", 0.1, 1.0, 2 / 2**5, 2 / 2**5),))
    assert "Nothing can be claimed at 5 %: with 5 categories p is at least 0.062" in conclusions(found)[1]


@pytest.mark.renders
def test_ranks_stand_in_a_report_of_four_methods_and_in_no_smaller_one(tmp_path: Path) -> None:
    levels = {"One": 0.3, "Two|": 0.6, "Three": 0.5, "Four": 0.4}
    four = [
        each
        for place, (label, level) in enumerate(levels.items())
        for each in records(label, level, protocol=f"{place:012x}")
    ]
    bound = {"setting": "one model for 8 categories", "epochs": 3, "test_labels": UPPER_BOUND}
    told = records("Told", 0.9, protocol="f" * 12, card=bound)
    texts = build_report([Entry(each, tuple) for each in four], []).texts
    rows = [line for line in texts[Path("mini/ranks.md")].splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["Two\\", "Three", "Four", "One"]
    assert "**1.00**" in rows[1]
    assert "6 of 6 pairs differ at 5 %" in texts[Path("mini/ranks-pairs.md")]
    assert "Three / One" in texts[Path("mini/ranks-pairs.csv")]
    fewer = build_report([Entry(each, tuple) for each in (*four[:6], *told)], [])
    assert not [file for file in fewer.texts if file.stem.startswith("ranks")]
    picture = tmp_path / "ranks.png"
    found = ranking(comparable(groups(0.5, 0.5, 0.6, 0.2)), "mad")
    assert found is not None
    draw_ranks("mini", found, picture)
    assert picture.stat().st_size > 5000
    assert picture.with_suffix(".pdf").exists()


def test_no_name_reaches_the_line_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["The best one, with a long name", "Second", "Third", "Fourth", "Fifth", "The worst one, also long"]
    mean_ranks = {name: 1.0 + place for place, name in enumerate(names)}
    drawn: list[Any] = []
    monkeypatch.setattr(ranks_figure, "save", lambda figure, *_: drawn.append(figure))
    draw_ranks("mini", Ranking("mad", 5, mean_ranks, ()), Path("ranks.png"))
    figure = drawn[0]
    figure.canvas.draw()
    axis = figure.axes[0]
    texts = [text for text in axis.texts if text.get_text()]
    assert len(texts) == 6
    for text, (name, rank) in zip(texts, mean_ranks.items(), strict=True):
        assert text.get_text().startswith(name)
        line, _ = axis.transData.transform((rank, 0.0))
        box = text.get_window_extent()
        assert not box.x0 < line < box.x1
