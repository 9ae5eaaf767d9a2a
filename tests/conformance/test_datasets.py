"""What every dataset must do, and every experiment, suite and table file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mddbench.ablation import is_ablation, load_ablation
from mddbench.config import experiment_names, load_experiment, load_suite, suite_names
from mddbench.data.dataset import load_source, read_dataset
from mddbench.detector import load_method, method_settings
from mddbench.errors import InputError
from mddbench.plugins import DATASETS, modules
from mddbench.report.spec import load_table, table_names

NAMES = list(modules(DATASETS))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_root_is_one_line(name: str, tmp_path: Path) -> None:
    source = load_source(name)
    assert source.description
    faults = source.read(tmp_path / "nothing").faults
    assert len(faults) == 1
    assert "\n" not in faults[0]
    assert str(tmp_path / "nothing") in faults[0]


@pytest.mark.parametrize("name", [name for name in NAMES if load_source(name).build is None])
def test_a_dataset_that_is_not_embedded_asks_for_its_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data-root"):
        read_dataset(name, None, tmp_path)


@pytest.mark.parametrize("name", [name for name in NAMES if load_source(name).build is not None])
def test_an_embedded_dataset_is_sound_and_as_expected(name: str, tmp_path: Path) -> None:
    source = load_source(name)
    tree = read_dataset(name, None, tmp_path).sound(name)
    assert source.expected is not None
    assert set(tree.categories) == set(source.expected)
    train, good, defective = (sum(column) for column in zip(*source.expected.values(), strict=True))
    assert len(tree.select("train")) == train
    assert len(tree.select("test")) == good + defective
    assert not any(sample.anomalous for sample in tree.select("train"))


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
