"""What the experiments' files say, beside what the code that they follow does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mddbench.detector import load_method
from mddbench.engine.optimizer import rate_factor
from mddbench.experiments.catalogue import NO_DATASETS, experiment_names, load_experiment, load_protocol
from mddbench.settings import packaged, read_yaml

FILES = sorted(file for file in packaged("experiments").glob("*/*.yaml") if file.parent.name not in NO_DATASETS)
ALL_BATCHES = ("rd4ad", "uniad", "uniad_authors", "draem", "simplenet", "rdpp", "diad")
"""Of MVTec-AD and what is run like it: after their authors' code, which keeps an epoch's last, smaller batch."""
OWN_PROTOCOL = ("mini", "folder", "elpv")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_each_file_says_what_becomes_of_the_last_batch(file: Path) -> None:
    content = read_yaml(file)
    said = load_protocol(str(content["like"])) if "like" in content else content
    assert isinstance(said.get("drop_last"), bool)


@pytest.mark.parametrize("name", experiment_names())
def test_the_last_batch_is_kept_where_the_authors_keep_it(name: str) -> None:
    dataset, _, variant = name.partition("/")
    experiment = load_experiment(name)
    single_pass = load_method(experiment.method).single_pass  # over all images
    keeps = single_pass or (dataset not in OWN_PROTOCOL and variant in ALL_BATCHES)
    assert experiment.drop_last != keeps


def test_uniads_rate_falls_in_the_epoch_in_which_its_authors_falls() -> None:
    """Their scheduler, a step after 800, is told of an epoch when that is over: epochs 0 to 800 have the full rate. So it is at
    each number of batches: of one GPU, of eight, and of another dataset.
    """
    experiment = load_experiment("mvtec/uniad_authors")
    for batches in (1, 57, math.ceil(3629 / 8), 4559):
        steps = experiment.epochs * batches
        rates = [
            rate_factor(experiment.schedule, step / steps) for step in (801 * batches - 1, 801 * batches, steps - 1)
        ]
        assert rates == [1.0, 0.1, 0.1]


def test_what_of_the_evaluation_differs_is_told() -> None:
    reported = load_experiment("mvtec/uniad_authors").reported
    assert reported is not None
    for words in ("nearest neighbour", "AUROC below one half", "best mean pixel AUROC"):
        assert any(words in each for each in reported.known)
