"""`mddbench show`: what a name stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mddbench.experiments.catalogue import load_experiment
from support import mddbench


def test_an_experiment_is_shown_with_all_settings_and_runs_as_shown(tmp_path: Path) -> None:
    shown = mddbench("show", "mini/rd4ad", "--set", "epochs=3")
    assert shown.returncode == 0, shown.stderr
    content = yaml.safe_load(shown.stdout)
    assert content["epochs"] == 3
    assert content["settings"]["sigma"] == 4.0  # a default of the method
    assert content["precision"] == "float32"  # a default of every experiment
    assert json.loads(mddbench("show", "mini/rd4ad", "--set", "epochs=3", "--json").stdout) == content
    file = tmp_path / "again.yaml"
    file.write_text(shown.stdout)
    again = yaml.safe_load(mddbench("show", file).stdout)
    assert again == content
    expected = load_experiment("mini/rd4ad", {"epochs": 3})
    found = load_experiment(str(file))
    same = found.model_copy(update={"name": expected.name, "overrides": expected.overrides})
    assert same.model_dump(exclude={"settings"}) == expected.model_dump(exclude={"settings"})


def test_an_ablation_and_a_suite_are_shown() -> None:
    ablation = yaml.safe_load(mddbench("show", "ablation/components", "--set", "epochs=2").stdout)
    assert ablation["title"] == "Components"
    assert ablation["base"]["epochs"] == 2
    assert len(ablation["variants"]) == 5
    suite = yaml.safe_load(mddbench("show", "quick").stdout)
    assert "mini/rd4ad" in suite["experiments"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mini/rd4da"], "did you mean 'mini/rd4ad'?"),
        (["mini/rd4ad", "--set", "epoch=2"], "did you mean 'epochs'?"),
        (["mini/rd4ad", "--set", "settings.sigm=2"], "did you mean 'sigma'?"),
        (["quick", "--set", "epochs=2"], "'quick' is a suite"),
        (["ablation/nothing"], "unknown ablation"),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments: list[str], message: str) -> None:
    shown = mddbench("show", *arguments)
    assert shown.returncode == 2
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1
