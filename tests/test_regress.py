"""The regression gate: what it catches, what it lets pass, what it refuses to judge."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mddbench.errors import InputError
from mddbench.metrics.names import SEVEN
from mddbench.runs.records import Record, read_record, write_record
from mddbench.verdicts.regress import FLOOR, KEYS, SIGMAS, Comparison, Move, compare, lines
from support import ROOT, mddbench, record

NOISE = (-0.002, 0.0, 0.002)
"""Of three seeds; their standard deviation is 0.002."""


def row(
    shift: float = 0.0, metric: str = "p_auroc", seeds: tuple[int, ...] = (0, 1, 2), **changes: object
) -> list[Record]:
    """The seeds of a row, one of whose metrics is moved in the mean and in one category."""
    records = []
    for seed in seeds:
        one = record(seed, 0.8 + NOISE[seed], **changes)
        metrics = {place: dict(values) for place, values in one.metrics.items()}
        for place, much in (("mean", shift), ("bolt", 2 * shift)):
            metrics[place][metric] = one.value(place, metric) + much
        records.append(one.model_copy(update={"metrics": metrics}))
    return records


def only(compared: tuple[list[Comparison], list[str]]) -> Comparison:
    ((one,), lacking) = compared
    assert lacking == []
    return one


def test_a_planted_regression_is_caught_and_named() -> None:
    found = only(compare(row(-0.02), row()))
    assert found.failed
    assert [move.metric for move in found.moves if move.verdict == "regression"] == ["p_auroc"]
    (line,) = lines(found)
    assert line == ("mini/rd4ad (3 seeds): P-AUROC 80.0 -> 78.0 (-2.00, tolerance 0.49): regression, most in bolt -4.0")


@pytest.mark.parametrize("shift", [-0.004, -0.001, 0.004])
def test_a_change_within_the_spread_passes(shift: float) -> None:
    found = only(compare(row(shift), row()))
    assert not found.failed
    assert "within tolerance" in lines(found)[0]


def test_an_improvement_is_told_and_passes() -> None:
    found = only(compare(row(0.02), row()))
    assert not found.failed
    assert lines(found)[0].endswith("improvement, most in bolt +4.0")


def test_the_tolerance_is_of_the_shared_seeds() -> None:
    """One seed tells less than three: the same move passes."""
    alone = only(compare(row(-0.006, seeds=(0,)), row()))
    assert alone.seeds == (0,)
    assert alone.moves[3].tolerance == pytest.approx(SIGMAS * 0.002 * math.sqrt(2))
    assert not alone.failed
    assert only(compare(row(-0.006), row())).failed


def test_the_spread_is_pooled_over_the_rows_of_a_method() -> None:
    """A row whose seeds happen to agree does not make the gate close for noise; nor does another method's noise open it."""

    def still(**changes: object) -> list[Record]:
        return [one.model_copy(update={"metrics": row()[1].metrics}) for one in row(**changes)]

    ader = still(experiment="mini/rd4ad_ader", protocol="b" * 12)
    rows = [*row(), *ader, *still(method="uniad", experiment="mini/uniad", protocol="d" * 12)]
    compared, _ = compare(rows, rows)
    pooled = SIGMAS * 0.002 / math.sqrt(2) * math.sqrt(2 / 3)
    assert [each.moves[0].tolerance for each in compared] == pytest.approx([pooled, pooled, FLOOR])


def test_without_a_second_seed_the_floor_counts() -> None:
    found = only(compare(row(-0.0011, seeds=(1,)), row(seeds=(1,))))
    assert found.moves[3].tolerance == FLOOR
    assert found.failed


def test_a_metric_that_is_not_defined_any_more_is_a_regression() -> None:
    lost = [
        one.model_copy(update={"metrics": {**one.metrics, "mean": {**one.metrics["mean"], "aupro": None}}})
        for one in row()
    ]
    found = only(compare(lost, row()))
    assert found.failed
    assert lines(found) == ["mini/rd4ad (3 seeds): AUPRO 80.0 before, not defined now: regression"]
    assert not only(compare(row(), lost)).failed
    assert not only(compare(lost, lost)).failed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"card": {"setting": "one model for 2 categories", "epochs": 4}}, "epochs 3 before, 4 now"),
        ({"fingerprint": "e" * 64}, "other images: the dataset's fingerprint is another"),
    ],
)
def test_another_protocol_is_not_compared_and_does_not_pass(changes: dict[str, object], said: str) -> None:
    found = only(compare(row(0.0, **changes), row()))
    assert found.failed
    assert said in lines(found)[0]


def test_other_seeds_are_not_compared_and_do_not_pass() -> None:
    found = only(compare(row(seeds=(0,)), row(seeds=(1, 2))))
    assert found.failed
    assert "no seed is in both ([0] and [1, 2])" in lines(found)[0]


def test_another_identity_is_the_same_row_and_another_setting_is_not() -> None:
    assert len(compare(row(protocol="b" * 12), row())[0]) == 1
    changed: dict[str, object] = {"settings": {"overrides": {"epochs": 3}}}
    compared, lacking = compare(row(**changed), row())
    assert compared == []
    assert lacking == ["mini/rd4ad"]


@settings(max_examples=60, deadline=None)
@given(
    before=st.floats(0, 1),
    after=st.floats(0, 1),
    tolerance=st.floats(FLOOR, 0.2),
    more=st.floats(0, 0.5),
)
def test_verdicts_are_monotonous(before: float, after: float, tolerance: float, more: float) -> None:
    move = Move("aupro", before, after, tolerance)
    rank = {"regression": 0, "within": 1, "improvement": 2}
    assert rank[Move("aupro", before, after + more, tolerance).verdict] >= rank[move.verdict]
    wider = Move("aupro", before, after, tolerance + more)
    assert wider.verdict in (move.verdict, "within")
    mirrored = Move("aupro", after, before, tolerance)
    assert rank[mirrored.verdict] == 2 - rank[move.verdict]


def test_the_committed_records_are_no_regression_of_themselves() -> None:
    ran = mddbench("regress", ROOT / "results", ROOT / "results")
    assert ran.returncode == 0, ran.stderr
    assert "mini/rd4ad (3 seeds): unchanged" in ran.stdout


def test_the_command_names_what_moved_and_how_to_accept_it(tmp_path: Path) -> None:
    reference = Path(shutil.copytree(ROOT / "results", tmp_path / "reference"))
    moved = tmp_path / "moved" / "mini"
    for one in row_from(reference, "rd4ad", -0.02):
        write_record(one, moved / f"rd4ad-seed{one.seed}.json")
    ran = mddbench("regress", tmp_path / "moved", reference)
    assert ran.returncode == 1
    assert "P-AUROC 86.2 -> 84.2 (-2.00" in ran.stdout
    assert "If that is wanted" in ran.stderr
    ran = mddbench("regress", tmp_path / "moved", reference, "--json")
    assert ran.returncode == 1
    (told,) = json.loads(ran.stdout)["rows"]
    assert {move["metric"]: move["verdict"] for move in told["moves"]} == {
        **dict.fromkeys(KEYS, "within"),
        "p_auroc": "regression",
    }
    ran = mddbench("regress", tmp_path / "nothing", reference)
    assert ran.returncode == 2


def row_from(folder: Path, method: str, shift: float) -> list[Record]:
    """A committed row with one metric's mean moved."""
    records = [read_record(file) for file in sorted((folder / "mini").glob(f"{method}-seed?.json"))]
    return [
        one.model_copy(
            update={
                "metrics": {
                    **one.metrics,
                    "mean": {**one.metrics["mean"], "p_auroc": one.value("mean", "p_auroc") + shift},
                }
            }
        )
        for one in records
    ]


def test_the_seven_their_mean_and_that_of_items_are_compared() -> None:
    assert (*SEVEN, "mad", "s_auroc") == KEYS


def with_items(records: list[Record], value: float) -> list[Record]:
    return [
        one.model_copy(update={"metrics": {place: {**each, "s_auroc": value} for place, each in one.metrics.items()}})
        for one in records
    ]


def test_a_loss_in_the_sample_level_metric_is_caught() -> None:
    found = only(compare(with_items(row(), 0.5), with_items(row(), 0.9)))
    assert [move.metric for move in found.moves if move.verdict == "regression"] == ["s_auroc"]


def without_bolt(gone: bool) -> list[Record]:
    records = []
    for one in row():
        metrics = dict(one.metrics)
        bolt = metrics.pop("bolt")
        if not gone:
            metrics["bolt"] = dict.fromkeys(bolt)
        records.append(one.model_copy(update={"metrics": metrics}))
    return records


def test_a_category_that_is_lost_does_not_pass() -> None:
    found = only(compare(without_bolt(gone=True), row()))
    assert found.failed
    assert "other categories: bolt in one of them only" in lines(found)[0]
    found = only(compare(without_bolt(gone=False), row()))
    assert found.failed
    assert "I-AUROC is not defined any more for bolt" in lines(found)[0]


def test_two_protocols_of_one_name_are_not_taken_for_seeds() -> None:
    reference = [*row(), *row(-0.1, protocol="b" * 12)]
    found, _ = compare(row(-0.15, protocol="c" * 12), reference)
    assert [each.failed for each in found] == [True, True]
    assert "several protocols go by this name" in lines(found[0])[0]
    found, lacking = compare(row(), reference)  # one of the two is the candidate's own
    assert [each.failed for each in found] == [False]
    assert lacking == ["mini/rd4ad"]


def test_one_cell_twice_is_refused() -> None:
    with pytest.raises(InputError, match="the candidate has mini/rd4ad, seed 0, twice with different metrics"):
        compare([*row(), *row(-0.2)], row())


@pytest.mark.parametrize("protocol", ["a" * 12, "c" * 12])
def test_two_trees_under_one_name_each_find_their_own(protocol: str) -> None:
    elsewhere = row(-0.3, fingerprint="e" * 64, protocol="b" * 12)
    found, lacking = compare(row(protocol=protocol), [*row(), *elsewhere])
    assert [each.failed for each in found] == [False]
    assert lacking == ["mini/rd4ad"]


def test_other_images_of_one_seed_are_seen() -> None:
    mixed = [*row(seeds=(0,)), *row(seeds=(1, 2), fingerprint="e" * 64)]
    assert only(compare(mixed, row())).failed
