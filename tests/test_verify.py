"""Measured against published: verdicts, what may be compared, and the file of published numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mddbench.detector import load_method, method_settings
from mddbench.errors import InputError
from mddbench.execution.protocol import resolved_settings
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment
from mddbench.metrics.names import MAD, SEVEN
from mddbench.report.rows.reported import FIELDS, find, load_reported
from mddbench.runs.records import Record, write_record
from mddbench.verdicts.verify import Judgement, verify
from support import mddbench, record

PUBLISHED = {
    "i_auroc": 93.6,
    "i_ap": 97.2,
    "i_f1max": 95.6,
    "p_auroc": 95.8,
    "p_ap": 48.2,
    "p_f1max": 53.6,
    "aupro": 91.2,
}
"""RD4AD on MVTec-AD after 100 epochs. Source: ADer's README."""


CATEGORIES = sorted(set(find("mvtec", "RD4AD", "ADer", "100", "unified")) - {"mean"})


@pytest.fixture
def experiment() -> Experiment:
    return load_experiment("mvtec/rd4ad_ader")


def measured(experiment: Experiment, seed: int, shift: float = 0.0, **changes: object) -> Record:
    """A record under the experiment's protocol, `shift` points off the published numbers in all metrics."""
    values: dict[str, float | None] = {key: (PUBLISHED[key] + shift) / 100 for key in SEVEN}
    settings = resolved_settings(
        experiment, method_settings(load_method(experiment.method), experiment.settings, "test")
    )
    content = {
        "experiment": experiment.name,
        "dataset": experiment.dataset,
        "settings": {**settings, "overrides": {}},
        "card": {"setting": "one model for 15 categories"},
        "metrics": {"mean": {**values, MAD.key: 0.8}, **{name: dict(values) for name in CATEGORIES}},
    }
    return record(seed, **{**content, **changes})


def verdicts(experiment: Experiment, records: list[Record]) -> set[str]:
    judgements, _ = verify([experiment], records, categories=False)
    assert [each.metric for each in judgements] == list(SEVEN)
    return {each.verdict for each in judgements}


def test_what_is_published_is_found(experiment: Experiment) -> None:
    rows = find("mvtec", "RD4AD", "ADer", "100", "unified")
    assert {key: round(100 * value, 6) for key, value in rows["mean"].values.items()} == PUBLISHED
    assert len(rows) == 16
    assert verdicts(experiment, [measured(experiment, 0)]) == {"reproduced"}


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((0.9,), "reproduced"),
        ((-1.0,), "reproduced"),
        ((1.2,), "off"),
        ((0.0, 2.4), "within the spread"),
        ((-4.0, -4.2), "off"),
        ((), "not run"),
    ],
)
def test_verdicts(shifts: tuple[float, ...], verdict: str, experiment: Experiment) -> None:
    assert verdicts(experiment, [measured(experiment, n, shift) for n, shift in enumerate(shifts)]) == {verdict}


@given(
    measured_at=st.floats(0, 1),
    published=st.floats(0, 1),
    deviation=st.floats(0, 0.1),
    tolerance=st.floats(0, 0.1),
    nearer=st.floats(0, 1),
)
def test_what_is_nearer_is_never_judged_worse(
    measured_at: float, published: float, deviation: float, tolerance: float, nearer: float
) -> None:
    def verdict(value: float) -> int:
        judged = Judgement("x", "mean", "aupro", value, deviation, 3, published, tolerance, 2.0)
        return ["off", "within the spread", "reproduced"].index(judged.verdict)

    assert verdict(published + nearer * (measured_at - published)) >= verdict(measured_at)
    assert verdict(published) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"card": {"setting": "one model for 15 categories, fabricated images"}}, "fabricated images"),
        ({"card": {"setting": "one model for 15 categories, held out"}}, "held out"),
        ({"card": {"setting": "a separate model for each of 15 categories"}}, "a separate model"),
    ],
)
def test_runs_of_another_kind_are_left_out(changes: dict[str, object], reason: str, experiment: Experiment) -> None:
    judgements, left_out = verify([experiment], [measured(experiment, 0, **changes)], categories=False)
    assert {each.verdict for each in judgements} == {"not run"}
    assert reason in left_out[0]


def test_runs_with_other_settings_are_left_out(experiment: Experiment) -> None:
    one, other = measured(experiment, 0), measured(experiment, 1)
    other = other.model_copy(update={"settings": {**other.settings, "epochs": 300, "overrides": {"epochs": 300}}})
    judgements, left_out = verify([experiment], [one, other], categories=False)
    assert {each.seeds for each in judgements} == {1}
    assert left_out == ["mvtec/rd4ad_ader: left out what is under another protocol (other epochs, --set epochs)"]


def test_a_single_pass_has_no_budget_that_could_differ(experiment: Experiment) -> None:
    card = {"setting": "one model for 15 categories", "epochs": "one pass"}
    once = measured(experiment.model_copy(update={"epochs": 1}), 0, card=card)
    assert verdicts(experiment, [once]) == {"reproduced"}
    assert verdicts(experiment, [measured(experiment.model_copy(update={"epochs": 1}), 0)]) == {"not run"}


def test_an_experiment_without_published_numbers() -> None:
    mini = load_experiment("mini/rd4ad")
    assert verdicts(mini, [measured(mini, 0, card={"setting": "one model for 8 categories"})]) == {"no published value"}


def test_published_numbers_are_no_part_of_an_identity(experiment: Experiment) -> None:
    settings = method_settings(load_method(experiment.method), experiment.settings, "test")
    bare = experiment.model_copy(update={"reported": None})
    assert resolved_settings(experiment, settings) == resolved_settings(bare, settings)


def test_the_file_has_a_source_for_each_row_and_doubtful_ones_are_not_found() -> None:
    rows = load_reported()
    assert len(rows) > 2000
    assert all(row.source for row in rows)
    doubtful = [row for row in rows if row.doubt]
    assert {row.method for row in doubtful} == {"UniAD", "RD4AD", "DeSTSeg", "DRAEM", "INP-Former"}
    assert all(row.doubt for row in rows if row.method == "DRAEM" and row.source.startswith("ADer"))
    found = find("mvtec", "UniAD", "MambaAD paper", "", "unified")
    assert "metal_nut" not in found
    assert "bottle" in found


def test_words_that_fit_two_sources_are_an_error() -> None:
    with pytest.raises(InputError, match="two rows of 'mean' begin with source ''"):
        find("mvtec", "UniAD", "", "", "unified")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mvtec,X,mean,unified,100,101,,,,,,,here,", "line 2: i_auroc: expected a percentage, found '101'"),
        ("mvtec,X,mean,unified,100,nan,,,,,,,here,", "expected a percentage, found 'nan'"),
        ("mvtec,X,mean,unified,100,50,,,,,,,,", "expected a source"),
        ("mvtec,X,mean,both,100,50,,,,,,,here,", "expected a source, a value and a setting"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "reported.csv"
    file.write_text(",".join(FIELDS) + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        load_reported(file)


def test_the_command(experiment: Experiment, tmp_path: Path) -> None:
    for seed, shift in enumerate((0.1, -0.2, 0.3)):
        write_record(measured(experiment, seed, shift), tmp_path / "good" / f"{seed}.json")
    ran = mddbench("verify", "--records", tmp_path / "good")
    assert ran.returncode == 0, ran.stderr
    assert "mvtec/rd4ad_ader I-AUROC: reproduced: 93.7 ± 0.3 (3 seeds), published 93.6" in ran.stdout
    assert "visa/uniad_ader: not run" in ran.stdout
    write_record(measured(experiment, 3, -9.0), tmp_path / "bad" / "3.json")
    ran = mddbench("verify", "mvtec/rd4ad_ader", "--records", tmp_path / "bad", "--json")
    assert ran.returncode == 1
    assert {each["verdict"] for each in json.loads(ran.stdout)["judgements"]} == {"off"}
    assert "7 of 7 metrics are off" in ran.stderr
    ran = mddbench("verify", "mvtec/rd4ad_ader", "--records", tmp_path / "good", "--categories")
    assert ran.returncode == 1  # each category has the mean's numbers here
    assert re.search(r"mvtec/rd4ad_ader (bottle|cable) \S+: off by [+-]", ran.stdout)
    assert "mvtec/rd4ad_ader carpet AUPRO: off" in ran.stdout


def rescored(records: list[Record], shift: float) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """All metrics `shift` points off the published ones, by the convention of ADer."""
    values = {key: (PUBLISHED[key] + shift) / 100 for key in SEVEN}
    return {one.identity: {"ader": {"mean": values}} for one in records}


def test_a_source_is_compared_by_its_own_convention(experiment: Experiment) -> None:
    records = [measured(experiment, seed, -3.0) for seed in (0, 1)]
    judgements, _ = verify([experiment], records, False, rescored(records, 0.1))
    assert {(each.verdict, each.convention) for each in judgements} == {("reproduced", "ader")}
    assert "as ader counts" in str(judgements[0])
    judgements, _ = verify([experiment], records, False, rescored(records[:1], 0.1))
    assert {(each.verdict, each.convention) for each in judgements} == {("off", "exact")}


def test_what_is_off_is_explained(experiment: Experiment) -> None:
    judgements, _ = verify([experiment], [measured(experiment, 0, -3.1)], False)
    first = str(judgements[0]).splitlines()
    assert first[0].startswith("mvtec/rd4ad_ader I-AUROC: off by -3.1")
    assert "mddbench run mvtec/rd4ad_ader --keep-maps" in first[1]
    assert "published elsewhere after 300 epochs: 90.5 (ADer" in first[2]
    assert first[-1].strip() == f"known: {experiment.reported.known[0]}"  # type: ignore[union-attr]
    assert judgements[0].as_dict()["hints"] == list(judgements[0].hints)
    agreeing, _ = verify([experiment], [measured(experiment, 0)], False)
    assert not any(each.hints for each in agreeing)


def test_protocols_are_judged_apart(experiment: Experiment) -> None:
    """A good and a broken version of a method are not two seeds of one."""
    records = [measured(experiment, 0), measured(experiment, 0, -40.0, protocol="b" * 12)]
    judgements, told = verify([experiment], records, False)
    assert [each.verdict for each in judgements if each.metric == "p_ap"] == ["reproduced", "off"]
    assert all(each.seeds == 1 for each in judgements)
    assert "protocol bbbbbbbb" in str(judgements[-1])
    assert "2 protocols" in told[0]


def test_a_part_of_a_dataset_is_left_out(experiment: Experiment) -> None:
    part = measured(experiment, 0)
    metrics = {place: part.metrics[place] for place in ("mean", "bottle", "cable")}
    judgements, told = verify([experiment], [part.model_copy(update={"metrics": metrics})], False)
    assert {each.verdict for each in judgements} == {"not run"}
    assert "2 of 15 categories" in told[0]


def test_what_is_not_defined_was_run_nevertheless(experiment: Experiment) -> None:
    whole = measured(experiment, 0)
    metrics = {**whole.metrics, "mean": {**whole.metrics["mean"], "p_ap": None}}
    judgements, _ = verify([experiment], [whole.model_copy(update={"metrics": metrics})], False)
    assert {each.metric: each.verdict for each in judgements}["p_ap"] == "not defined"
