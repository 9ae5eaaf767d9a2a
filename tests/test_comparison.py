"""Tables that compare: which rows may share one, paired differences, the selection gap, costs."""

from __future__ import annotations

import hashlib
import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mddbench.errors import InputError
from mddbench.metrics.names import SEVEN
from mddbench.report.build import build_report
from mddbench.report.figures.ablations import draw_test_curves
from mddbench.report.figures.budgets import draw_budgets, several_budgets
from mddbench.report.figures.encoders import draw_encoders, several_encoders
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, refusals, sheets
from mddbench.report.tables.differences import (
    differences_csv,
    differences_table,
    interval,
    paired_differences,
    statement,
)
from mddbench.report.tables.latex import latex
from mddbench.report.tables.markdown import markdown
from mddbench.report.tables.results import Results, protocol
from mddbench.report.tables.selection import selection_gap, selection_table, with_curves
from mddbench.report.tables.spec import load_table
from mddbench.report.write import write_report
from mddbench.runs.card import CARD_FIELDS, SEEN_ONCE, Role, Setting
from mddbench.runs.records import CurvePoint, Record, parse_record
from support import record

CARD = {"setting": "one model for 3 categories", "epochs": 3, "image_size": 64, "batch_size": 4, "encoder": "e"}

TASK_FIELDS = [name for name, field in CARD_FIELDS.items() if field.role is Role.TASK]


def scored(method: str, seed: int, scores: dict[str, float], **changes: Any) -> Record:
    """A record whose seven metrics are equal in each category."""
    metrics: dict[str, dict[str, float | None]] = {name: dict.fromkeys(SEVEN, value) for name, value in scores.items()}
    mean = sum(scores.values()) / len(scores)
    metrics["mean"] = {**dict.fromkeys(SEVEN, mean), "mad": mean}
    protocol = hashlib.sha256(method.encode()).hexdigest()[:12]
    content = {"method": method, "label": method.upper(), "metrics": metrics, "card": CARD, "protocol": protocol}
    return record(seed, **{**content, **changes})


def rows(*scores: dict[str, float], method: str) -> list[Record]:
    return [scored(method, seed, one) for seed, one in enumerate(scores)]


BETTER = rows({"a": 0.8, "b": 0.7, "c": 0.9}, {"a": 0.7, "b": 0.8, "c": 0.9}, method="one")
WORSE = rows(
    {"a": 0.5, "b": 0.6, "c": 0.9}, {"a": 0.6, "b": 0.5, "c": 0.8}, {"a": 0.1, "b": 0.1, "c": 0.1}, method="two"
)


def groups(*each: list[Record]) -> list[Group]:
    return [Group(found[0].label, tuple(found)) for found in each]


def test_differences_pair_seeds_and_categories() -> None:
    (pair,) = paired_differences(groups(WORSE, BETTER))
    assert (pair.better, pair.worse, pair.seeds) == ("ONE", "TWO", (0, 1))
    expected = np.mean([0.3, 0.1, 0.0, 0.1, 0.3, 0.1])
    for key in ("i_auroc", "mad"):
        assert pair.differences[key].mean == pytest.approx(expected)
        assert pair.differences[key].low <= expected <= pair.differences[key].high
        assert pair.differences[key].categories == 3


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(3)
    table = generator.normal(0.1, 0.1, (4, 9))
    means = []
    for _ in range(4000):
        seeds, categories = generator.integers(4, size=4), generator.integers(9, size=9)
        means.append(np.mean([[table[seed, category] for category in categories] for seed in seeds]))
    low, high = interval(table)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.006)
    assert interval(table) == (low, high)


def test_a_category_that_is_not_defined_leaves_its_metric_and_no_other() -> None:
    broken = [one.model_copy(deep=True) for one in BETTER]
    broken[1].metrics["b"]["aupro"] = None
    (pair,) = paired_differences(groups(broken, WORSE))
    assert pair.differences["aupro"].categories == 2
    assert pair.differences["mad"].categories == 2
    assert pair.differences["i_ap"].categories == 3
    assert pair.differences["aupro"].mean == pytest.approx(np.mean([0.3, 0.0, 0.1, 0.1]))
    nothing = [one.model_copy(deep=True) for one in BETTER]
    for one in nothing:
        for name in "abc":
            one.metrics[name]["p_ap"] = None
    (pair,) = paired_differences(groups(nothing, WORSE))
    assert math.isnan(pair.differences["p_ap"].mean)
    assert "P-AP" not in markdown(differences_table("d", [pair])), "a column that is empty everywhere goes"


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (1, "With 1 seed no significance can be claimed:"),
        (
            3,
            "With 3 seeds no significance can be claimed: a sign test over 3 paired seeds cannot give p below 0.25; 6",
        ),
        (5, "below 0.062; 6 seeds are the fewest that can."),
        (
            6,
            "An interval without 0 suggests a difference on these categories; no correction was made for 8 metrics and 1 pair",
        ),
        (6, "2 categories say little about others."),
    ],
)
def test_it_says_plainly_what_may_be_claimed(seeds: int, said: str) -> None:
    one = rows(*[{"a": 0.8, "b": 0.7}] * seeds, method="one")
    other = rows(*[{"a": 0.6, "b": 0.6}] * seeds, method="two")
    assert said in " ".join(statement(paired_differences(groups(one, other))))


def test_rows_without_a_common_seed_are_not_compared() -> None:
    assert paired_differences(groups([scored("one", 0, {"a": 0.5})], [scored("two", 1, {"a": 0.5})])) == []


def test_three_methods_are_three_pairs_best_first() -> None:
    third = rows({"a": 0.9, "b": 0.9, "c": 0.9}, method="three")
    found = paired_differences(groups(WORSE, third, BETTER))
    assert [(pair.better, pair.worse) for pair in found] == [("THREE", "ONE"), ("THREE", "TWO"), ("ONE", "TWO")]
    frame = pd.read_csv(StringIO(differences_csv(found)))
    assert len(frame) == 3 * 8
    assert frame[(frame.one == "ONE") & (frame.metric == "mad")]["mean"].tolist() == pytest.approx([0.15])


@pytest.mark.parametrize("field", TASK_FIELDS)
def test_cards_that_differ_in_what_must_agree_do_not_share_a_table(field: str) -> None:
    other = [one.model_copy(update={"card": one.card.model_copy(update={field: "other"})}) for one in WORSE[:1]]
    found = sheets([*BETTER, *other])
    assert [[group.label for group in sheet.groups] for sheet in found] == [["ONE"], ["TWO"]]
    assert found[0].folder == "mini"
    assert found[1].folder.startswith("mini-")
    assert f"{CARD_FIELDS[field].label} other" in found[1].dataset
    (line,) = refusals(found)
    assert found[1].folder in line
    (mixed,) = sheets([*BETTER, *other], allow_mixed=True)
    assert [(group.label, bool(group.differs)) for group in mixed.groups] == [("ONE", False), ("TWO", True)]
    assert refusals([mixed]) == []


def test_a_single_pass_stands_beside_every_budget() -> None:
    def with_epochs(members: list[Record], epochs: int | str) -> list[Record]:
        return [each.model_copy(update={"card": each.card.model_copy(update={"epochs": epochs})}) for each in members]

    third = rows({"a": 0.5, "b": 0.5, "c": 0.5}, method="three")
    long, once = with_epochs(WORSE[:2], 900), with_epochs(third, SEEN_ONCE)
    labels = [[group.label for group in sheet.groups] for sheet in sheets([*once, *BETTER, *long])]
    assert labels == [["ONE", "THREE"], ["THREE", "TWO"]]
    (sheet,) = sheets([*once, *BETTER], allow_mixed=True)
    assert not any(group.differs for group in sheet.groups)
    assert [(pair.better, pair.worse) for pair in paired_differences(sheet.groups)] == [("ONE", "THREE")]
    elsewhere = [each.model_copy(update={"card": each.card.model_copy(update={"image_size": 999})}) for each in once]
    assert [[group.label for group in sheet.groups] for sheet in sheets([*elsewhere, *BETTER])] == [["ONE"], ["THREE"]]


def test_methods_with_several_budgets_are_found_and_drawn(tmp_path: Path) -> None:
    def trained(members: list[Record], epochs: int, budget: int | str) -> list[Record]:
        log = members[0].history[0]
        changes = {
            "settings": {"epochs": epochs, "optimizer": "adam"},
            "history": [log.model_copy(update={"epoch": number}) for number in range(1, epochs + 1)],
            "protocol": f"{epochs:08x}aaaa",
            "cost": {"train_seconds": 10.0 * epochs},
        }
        return [
            each.model_copy(update={**changes, "card": each.card.model_copy(update={"epochs": budget})})
            for each in members
        ]

    third = rows({"a": 0.5, "b": 0.5, "c": 0.5}, method="three")
    short, long, once = trained(BETTER, 5, 5), trained(BETTER, 25, 25), trained(third, 1, SEEN_ONCE)
    other = trained(WORSE, 5, 5)
    budgets = several_budgets([Group(each[0].label, tuple(each)) for each in (long, once, other, short)])
    assert {label: [len(group.first.history) for group in found] for label, found in budgets.items()} == {
        "ONE": [5, 25],
        "THREE": [1],
    }
    assert several_budgets([Group(each[0].label, tuple(each)) for each in (long, once, other)]) == {}
    report = build_report([Entry(each, tuple) for each in (*long, *short)], [])
    assert [file for file in report.pictures if file.stem == "budgets"] == [Path("mini/budgets.png")]
    draw_budgets(budgets, "mini", tmp_path / "budgets.png")
    assert (tmp_path / "budgets.png").exists()


@pytest.mark.parametrize("field", ["batch_size", "encoder", "image_score"])
def test_a_methods_own_recipe_may_differ_and_is_told(field: str) -> None:
    other = [one.model_copy(update={"card": one.card.model_copy(update={field: "other"})}) for one in WORSE[:1]]
    (sheet,) = sheets([*BETTER, *other])
    assert any(f"{field.replace('_', ' ')} other" in note for note in protocol(sheet.groups))


def test_what_one_card_does_not_tell_is_not_said_of_all() -> None:
    telling = [one.model_copy(update={"card": one.card.model_copy(update={"smoothing": "none"})}) for one in WORSE]
    (sheet,) = sheets([*BETTER, *telling])
    notes = protocol(sheet.groups)
    assert [note.split(":")[0] for note in notes if "smoothing none" in note] == ["TWO"]


def test_a_row_under_another_protocol_is_in_no_difference() -> None:
    other = [one.model_copy(update={"card": one.card.model_copy(update={"epochs": 900})}) for one in WORSE]
    third = rows({"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.1}, method="three")
    (sheet,) = sheets([*BETTER, *third, *other], allow_mixed=True)
    assert [(pair.better, pair.worse) for pair in paired_differences(sheet.groups)] == [("ONE", "THREE")]


def test_one_model_for_all_goes_before_many_of_another_setting() -> None:
    separate = BETTER[0].card.model_copy(update={"setting": Setting(models="separate", categories=3)})
    found = sheets([BETTER[0], *(one.model_copy(update={"card": separate}) for one in WORSE)])
    assert [sheet.folder == "mini" for sheet in found] == [True, False]
    assert [sheet.groups[0].label for sheet in found] == ["ONE", "TWO"]


def test_a_row_under_another_protocol_is_marked_and_never_best() -> None:
    other = [
        one.model_copy(update={"card": one.card.model_copy(update={"epochs": 900})})
        for one in rows({"a": 1.0, "b": 1.0}, method="two")
    ]
    third = rows({"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.1}, method="three")
    (sheet,) = sheets([*BETTER, *third, *other], allow_mixed=True)
    spec = load_table("main")
    table = Results(spec, "t", sheet.groups).table()
    text = markdown(table)
    assert "| TWO † | 1 | 100.0 |" in text
    assert "**100.0**" not in text
    assert "**80.0 ± 0.0**" in text
    assert "† TWO: another protocol (epochs 900)." in text
    assert r"TWO $\dagger$ & 1" in latex(table)


def test_the_main_table_has_costs() -> None:
    cost = {"parameters_total": 2.5e6, "multiply_adds": 3.21e9, "train_images_per_second": 50.0}
    cost |= {"inference_ms_per_image": 1.234, "peak_host_mib": 1024.4, "inference_batch": 32.0}
    place = {"processor": "P", "threads": 2, "device": "cpu"}
    records = [one.model_copy(update={"cost": cost, "environment": place}) for one in BETTER]
    report = build_report([Entry(one, tuple) for one in records], [])
    text = report.texts[Path("mini/main.md")]
    assert "| Params [M] | MACs [G] | Train [img/s] | Infer [ms/img] | Host peak [MiB] |" in text
    assert "| 2.5 | 3.21 | 50 | 1.23 | 1024 |" in text
    assert "measured on P, 2 threads" in text
    assert "batches of 32" in text
    other = records[0].model_copy(update={"environment": {**place, "processor": "Q"}, "seed": 7})
    text = build_report([Entry(one, tuple) for one in (*records, other)], []).texts[Path("mini/main.md")]
    assert "several machines, so not to be compared" in text
    assert Path("mini/cost.md") in report.texts


def curve(*values: float) -> list[CurvePoint]:
    return [
        CurvePoint(epoch=number, metrics={**dict.fromkeys(SEVEN, value), "mad": value})
        for number, value in enumerate(values, 1)
    ]


@pytest.mark.renders
def test_the_selection_gap_is_best_minus_last(tmp_path: Path) -> None:
    looked = [
        one.model_copy(update={"test_curve": curve(*values)})
        for one, values in zip(BETTER, ((0.2, 0.9, 0.8), (0.2, 0.6, 0.6)), strict=True)
    ]
    assert selection_gap(looked[0], "mad", "mad") == pytest.approx(0.1)
    assert selection_gap(looked[1], "p_ap", "p_ap") == pytest.approx(0.0)
    other = looked[0].model_copy(deep=True)
    for point, value in zip(other.test_curve, (0.9, 0.1, 0.2), strict=True):
        point.metrics["p_auroc"] = value
    assert selection_gap(other, "mad") == pytest.approx(0.2 - 0.8)  # the first epoch, by its pixel AUROC
    assert selection_gap(other, "p_auroc") == pytest.approx(0.7)
    found = with_curves(groups(looked, WORSE))
    assert [group.label for group in found] == ["ONE"]
    text = markdown(selection_table("mini", found))
    assert "| ONE | each metric's best epoch | 2 | +5.0 ± 7.1 |" in text
    assert "3 looks at the test set" in text
    report = build_report([Entry(one, tuple) for one in (*looked, *WORSE)], [])
    _, pictures = write_report(report, tmp_path)
    for name in ("selection.png", "differences.png"):
        assert tmp_path / "mini" / name in pictures
        with Image.open(tmp_path / "mini" / name) as picture:
            assert picture.width > 500
    assert "+15.0 [" in (tmp_path / "mini/differences.md").read_text()


@pytest.mark.renders
def test_a_metric_that_is_not_defined_has_no_gap(tmp_path: Path) -> None:
    points = [point.model_copy(update={"metrics": {**point.metrics, "aupro": None}}) for point in curve(0.1, 0.2)]
    looked = [BETTER[0].model_copy(update={"test_curve": points})]
    assert math.isnan(selection_gap(looked[0], "aupro", "aupro"))
    assert "AUPRO" not in markdown(selection_table("mini", groups(looked)))
    draw_test_curves("mini", groups(looked), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_curve_from_outside_is_checked() -> None:
    raw = BETTER[0].model_copy(update={"test_curve": curve(0.5)}).model_dump()
    raw["test_curve"][0]["metrics"].pop("aupro")
    with pytest.raises(InputError, match="test_curve at epoch 1 should give"):
        parse_record(json.dumps(raw), "x.json")


def test_methods_on_several_encoders_are_found_and_drawn(tmp_path: Path) -> None:
    def on(members: list[Record], encoder: str, time: float, size: int) -> list[Record]:
        card = {"encoder": encoder, "encoder_levels": (1, 2), "image_size": size}
        changes = {"protocol": f"{int(time):08x}bbbb", "cost": {"inference_ms_per_image": time}}
        return [each.model_copy(update={**changes, "card": each.card.model_copy(update=card)}) for each in members]

    small, large = on(BETTER, "small_net", 3.0, 128), on(BETTER, "vit_large", 30.0, 126)
    other = on(WORSE, "small_net", 5.0, 128)
    groups = [Group(each[0].label, tuple(each)) for each in (small, large, other)]
    assert several_encoders(groups) == ["small_net", "vit_large"]
    assert several_encoders([groups[0], groups[2]]) == []
    report = build_report([Entry(each, tuple) for each in (*small, *large)], [])
    assert [file for file in report.pictures if file.stem == "encoders"] == [Path("mini/encoders.png")]
    draw_encoders(groups, "mini", tmp_path / "encoders.png")
    assert (tmp_path / "encoders.png").exists()
