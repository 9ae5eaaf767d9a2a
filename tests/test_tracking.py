"""What MLflow shows of a run: who made it, from what, its row of the table, its means first, the table of its categories."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page_browser import browser  # noqa: F401 - a fixture
from test_server import a_server

from mddbench.cli.running import Logging
from mddbench.errors import InputError, TrackingError
from mddbench.metrics.names import SEVEN
from mddbench.runs.facts import category_table, describe, facts_of, results_row
from mddbench.runs.records import Record
from mddbench.runs.store import MlflowStore
from mddbench.runs.tracking import MlflowTracker
from support import record

Make = Callable[[str], Path]
COMMIT = "c" * 40


def odd() -> Record:
    """A record whose categories have names that MLflow takes in no key, with a further metric and a commit."""
    one = record(card={"setting": "one model for 3 categories", "epochs": 3, "encoder": "resnet18"})
    values = one.metrics["bolt"]
    changes = {
        "metrics": {"mean": one.metrics["mean"], "schüssel": values, "🔩 (big)": {**values, "aupro": None}},
        "further": {"mean": {"aupimo": 0.25}, "schüssel": {"aupimo": 0.25}},
        "environment": {"torch": "2", "commit": COMMIT},
    }
    return Record(**{**one.model_dump(), **changes})


@pytest.fixture
def store(fresh_store: Make) -> MlflowStore:
    out = fresh_store("out")
    return MlflowStore(f"sqlite:///{out}/mlflow.db", out / "mlruns")


def logged(store: MlflowStore, one: Record) -> Any:
    MlflowTracker(store, "named", "run 2026-11-30 12.00.00").start(facts_of(one), None).finish(one, [])
    (run,) = store.finished(one.identity)
    return run


def text(store: MlflowStore, run: Any, name: str, folder: Path) -> str:
    return Path(store.client.download_artifacts(run.info.run_id, name, str(folder))).read_text(encoding="utf-8")


def test_a_run_says_who_made_it_and_from_what(store: MlflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.runs.tracking.getuser", lambda: "ada")
    tags = logged(store, odd()).data.tags
    assert tags["mlflow.user"] == "ada"
    assert tags["mlflow.source.name"] == "mddbench run"
    assert tags["mlflow.source.git.commit"] == COMMIT
    about, _, row = tags["mlflow.note.content"].partition("\n\n")
    assert about == "**RD4AD** on mini: one model for 3 categories, epochs 3, encoder resnet18, seed 0"
    assert row == results_row(odd())
    own = [name for name in tags if name.startswith("mddbench.")]
    assert len(own) <= 6, "the rest is in artifacts"


def test_an_account_without_a_name_costs_nothing(store: MlflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("mddbench.runs.tracking.getuser", nobody)
    assert "mlflow.user" not in logged(store, record()).data.tags


def test_metrics_are_means_and_categories_are_a_table(store: MlflowStore, tmp_path: Path) -> None:
    run = logged(store, odd())
    assert {key.partition("/")[0] for key in run.data.metrics} == {"mean", "resources", "train"}
    assert list(run.data.metrics)[: len(SEVEN)] == [f"mean/{key}" for key in SEVEN], "first of all"
    assert run.data.metrics["mean/aupimo"] == 0.25
    table = json.loads(text(store, run, "categories.json", tmp_path))
    assert table == category_table(odd())
    assert [row[0] for row in table["data"]] == ["schüssel", "🔩 (big)"], "their own names"
    assert table["columns"] == [
        "category",
        *(["I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AUPRO", "AUPIMO"]),
    ]
    assert table["data"][1][-2:] == [None, None]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "categories.json", "type": "table"}]
    card = json.loads(text(store, run, "card.json", tmp_path))
    assert card["card"]["epochs"] == 3
    assert card["environment"]["commit"] == COMMIT


def test_no_run_is_empty_and_runs_of_a_command_share_a_tag(store: MlflowStore) -> None:
    tracker = MlflowTracker(store, "named", "run 1")
    for seed in range(2):
        tracker.start(facts_of(record(seed)), None).finish(record(seed), [])
    runs = store.search("")
    assert len(runs) == 2
    assert all(run.data.metrics for run in runs)
    assert {run.data.tags["mddbench.command"] for run in runs} == {"run 1"}
    assert len({run.data.tags["mddbench.protocol"] for run in runs}) == 1
    experiment = store.client.get_experiment_by_name("mddbench/named/mini")
    assert "mddbench.protocol" in experiment.tags["mlflow.note.content"]


def test_rows_of_undefined_metrics() -> None:
    one = odd()
    one = one.model_copy(update={"metrics": {**one.metrics, "mean": {**one.metrics["mean"], "aupro": None}}})
    head, _, row = results_row(one.model_copy(update={"label": "a|b"})).splitlines()
    assert head == "| Method | Seed | I-AUROC | I-AP | I-F1max | P-AUROC | P-AP | P-F1max | AUPRO | mAD |"
    assert row == "| a b | 0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | – | 50.0 |"
    assert describe("X", "y", 1, type(one.card)()) == "**X** on y: seed 1"


def test_the_machine_is_measured_if_asked(store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil", reason="psutil is not installed")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    tracker = MlflowTracker(store, "named", "run 1", system_metrics=True)
    run = tracker.start(facts_of(record()), tmp_path)
    deadline = time.monotonic() + 60
    while not (found := measured(store, run.run_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    run.finish(record(), [])
    assert "system/cpu_utilization_percentage" in found
    assert run.monitor is None
    assert not measured(store, tracker.start(facts_of(record(1)), None).run_id), "it ran elsewhere"


def measured(store: MlflowStore, run_id: str) -> list[str]:
    return [key for key in store.client.get_run(run_id).data.metrics if key.startswith("system/")]


def test_a_machine_that_cannot_be_measured(store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise TrackingError("the machine cannot be measured (OSError: no driver)")

    monkeypatch.setattr("mddbench.runs.tracking.Monitor", broken)
    said: list[str] = []
    run = MlflowTracker(store, "named", "run 1", said.append, system_metrics=True).start(facts_of(record()), tmp_path)
    run.finish(record(), [])
    assert said == ["rd4ad/mini/seed0: the machine cannot be measured (OSError: no driver); it is logged without that"]
    monkeypatch.setattr("mddbench.runs.system_metrics.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"psutil is not installed; pip install 'mddbench\[system\]'"):
        Logging("", "quick", system_metrics=True)


@pytest.fixture
def pages(tmp_path: Path, migrated: Path) -> Iterator[tuple[str, str, str]]:
    """The address of a server, and the ids of its experiment and its only run."""
    with a_server(tmp_path / "server", migrated) as (uri, _):
        run = logged(MlflowStore(uri, None), odd())
        yield uri, run.info.experiment_id, run.info.run_id


def test_the_first_look_shows_something(pages: tuple[str, str, str], browser: Any) -> None:  # noqa: F811
    """In a real browser: the list has the cell with its source, and the page of the run begins with its row."""
    uri, experiment, run_id = pages
    shown = text_of(browser, f"{uri}/#/experiments/{experiment}/runs", "rd4ad/mini/seed0")
    assert "Group the runs by the tag mddbench.protocol" in shown
    shown = text_of(browser, f"{uri}/#/experiments/{experiment}/runs/{run_id}", "AUPRO")
    assert shown.index("I-AUROC") < shown.index("mean/i_auroc") < shown.index("train/loss")
    assert "mddbench run" in shown
    assert "No description" not in shown


def text_of(browser: Any, address: str, expected: str) -> str:  # noqa: F811
    """The text of a page when it shows what is expected."""
    browser.get("about:blank")
    browser.get(address)
    deadline = time.monotonic() + 60
    while True:
        shown = str(browser.execute_script("return document.body.innerText"))
        if expected in shown:
            return shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.3)
