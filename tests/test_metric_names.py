"""What MLflow calls the metrics of categories whose names it does not take as they are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from mddbench.runs.facts import facts_of, metric_names
from mddbench.runs.store import MlflowStore
from mddbench.runs.tracking import MlflowTracker
from support import record

READABLE = {
    "schüssel": "schüssel",
    unicodedata.normalize("NFD", "schüssel"): "schüssel",
    "螺丝": "螺丝",
    "гайка": "гайка",
    "nut (big)": "nut _big_",
    "100%": "100_",
    "bolt-1.5 mm": "bolt-1.5 mm",
    "..hidden": "_hidden",
}


@pytest.mark.parametrize("category", READABLE)
def test_names_stay_readable(category: str) -> None:
    assert metric_names([category]) == {category: READABLE[category]}


def test_names_without_a_letter_are_a_position_and_a_hash() -> None:
    found = metric_names(["mean", "🔩", "🔧", "(-)"])
    assert [re.fullmatch(r"category-(\d)-[0-9a-f]{8}", found[name])[1] for name in ("🔩", "🔧", "(-)")] == [
        "1",
        "2",
        "3",
    ]
    assert metric_names(["mean", "🔩"])["🔩"] == found["🔩"]


NAMES = st.lists(st.text("aüa\u0308螺🔩()[]-2._ /", min_size=1, max_size=5), min_size=1, max_size=8, unique=True)


@given(NAMES)
def test_names_are_distinct_and_taken_by_mlflow(categories: list[str]) -> None:
    names = metric_names(categories)
    assert len(set(names.values())) == len(categories)
    for name in names.values():
        _validate_metric_name(f"{name}/p_ap")


def test_a_name_that_is_taken_as_it_is_keeps_it() -> None:
    names = metric_names(["nut (big)", "nut [big]", "nut _big_-2", "nut _big_"])
    assert names["nut _big_"] == "nut _big_"
    assert names["nut _big_-2"] == "nut _big_-2"
    assert len(set(names.values())) == 4


def test_a_run_tells_what_its_metrics_are_called(fresh_store: Callable[[str], Path]) -> None:
    out = fresh_store("out")
    store = MlflowStore(f"sqlite:///{out}/mlflow.db", out / "mlruns")
    one = record()
    one = one.model_copy(
        update={"metrics": {**one.metrics, "schüssel": one.metrics["bolt"], "🔩": one.metrics["bolt"]}}
    )
    tracker = MlflowTracker(store, "named", "test")
    tracker.start(facts_of(one), None).finish(one, [])
    (run,) = store.finished(one.identity)
    assert "schüssel/p_ap" in run.data.metrics
    told = {key: value for key, value in run.data.tags.items() if key.startswith("mddbench.metric_name.")}
    names = metric_names(list(one.metrics))
    assert told == {f"mddbench.metric_name.{names[place]}": place for place in ("nut_100%", "🔩")}
    assert all(f"{name}/p_ap" in run.data.metrics for name in names.values())
