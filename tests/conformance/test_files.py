"""What every experiment, suite and table file must do."""

from __future__ import annotations

import pytest

from mddbench.data.dataset import load_source
from mddbench.detector import load_method, method_settings
from mddbench.experiments.ablation import is_ablation, load_ablation
from mddbench.experiments.catalogue import experiment_names, load_experiment, load_suite, suite_names
from mddbench.report.tables.spec import load_table, table_names


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_fits(name: str) -> None:
    experiment = load_experiment(name)
    assert name.split("/", maxsplit=1)[0] == experiment.dataset
    method_settings(load_method(experiment.method), experiment.settings, name)
    load_source(experiment.dataset)


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_fits(name: str) -> None:
    suite = load_suite(name)
    assert suite.experiments
    for experiment in suite.experiments:
        load_ablation(experiment) if is_ablation(experiment) else load_experiment(experiment)


@pytest.mark.parametrize("name", table_names())
def test_every_table_fits(name: str) -> None:
    spec = load_table(name)
    assert spec.columns or spec.costs
