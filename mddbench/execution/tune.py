"""The search for the settings of methods: the same number of trials for each, judged on development data.

A trial is an ordinary cell in an output folder of its own. So a search can be interrupted and goes on where it ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mddbench.detector import load_method, method_settings
from mddbench.engine.step import UNUSED_BY_SINGLE_PASS, for_method
from mddbench.errors import InputError
from mddbench.execution.cells import Cell
from mddbench.execution.overrides import used_overrides
from mddbench.execution.plan import Datasets
from mddbench.execution.runner import Outcome
from mddbench.experiments.ablation import is_ablation
from mddbench.experiments.catalogue import load_experiment, load_suite
from mddbench.experiments.schema import Experiment
from mddbench.experiments.search import Point, at_point, draw_points, load_space, point_of
from mddbench.metrics.names import COLUMNS, MEAN
from mddbench.runs.records import RECORD, Record, read_record
from mddbench.runs.search import METRICS, JudgedOn, SearchResult, Trial


@dataclass(frozen=True)
class Search:
    """The planned search for one method.

    Attributes:
        experiment: The experiment as it is.
        points: The points, the experiment's own first.
        cells: For each point, its cells, one for each seed.
    """

    experiment: Experiment
    points: tuple[Point, ...]
    cells: tuple[tuple[Cell, ...], ...]

    def all_cells(self) -> list[Cell]:
        """Return the cells of all points in one list."""
        return [cell for cells in self.cells for cell in cells]


def plan_searches(
    names: Sequence[str], suite: str, trials: int, seeds: tuple[int, ...] | None, overrides: Mapping[str, Any]
) -> list[Search]:
    """Plan the searches for some experiments.

    Args:
        names: Names or files of experiments. [] stands for those of the suite.
        suite: Name of the suite that is used if there are no names.
        trials: Number of points for each method.
        seeds: Seeds that replace the seeds of the experiments; None to keep them.
        overrides: Dotted setting -> value, from the command line.

    Returns:
        One search for each experiment.

    Raises:
        InputError: If an experiment is an ablation, two are of one method, or a setting is given that a space varies.
    """
    searches: list[Search] = []
    names = names or load_suite(suite).experiments
    overrides_of = used_overrides(names, overrides)
    for name in names:
        if is_ablation(name):
            raise InputError(f"tune: {name} is an ablation; expected experiments, as in folder/rd4ad")
        searches.append(_planned(name, trials, seeds, overrides_of[name]))
        method = searches[-1].experiment.method
        if [search.experiment.method for search in searches].count(method) > 1:
            raise InputError(f"tune: {name} is a second experiment of {method}; search one at a time")
    return searches


def _planned(name: str, trials: int, seeds: tuple[int, ...] | None, overrides: Mapping[str, Any]) -> Search:
    recipe = load_experiment(name, overrides)
    method = load_method(recipe.method)
    space = load_space(recipe.method)
    source = f"the search space of {recipe.method}"
    for setting in space.vary:
        if setting in overrides:
            raise InputError(f"--set {setting}: {source} varies it; leave it out")
        if method.single_pass and setting.partition(".")[0] in UNUSED_BY_SINGLE_PASS:
            raise InputError(f"{source}: '{setting}' has no effect on a method that sees each image once")
    own = method_settings(method, recipe.settings, name).model_dump(mode="json")
    points = draw_points(space, point_of(recipe, own, list(space.vary), source), trials)
    experiments = [recipe, *(at_point(name, point, overrides) for point in points[1:])]
    experiments = [for_method(experiment, method) for experiment in experiments]
    cells = tuple(tuple(Cell(experiment, seed) for seed in seeds or recipe.seeds) for experiment in experiments)
    return Search(experiments[0], tuple(points), cells)


def result_of(search: Search, outcomes: Sequence[Outcome], datasets: Datasets, held_out: bool) -> SearchResult | None:
    """Collect the result of a search.

    Args:
        search: The search.
        outcomes: How its cells ended, in the order of `all_cells`.
        datasets: The opened datasets.
        held_out: True if the trials were judged on held-out training images with drawn defects.

    Returns:
        The result; None if the recipe itself failed.

    Raises:
        InputError: If no metric is defined on the data, which then cannot tell trials apart.
    """
    following = iter(outcomes)
    trials: list[Trial] = []
    failed: dict[str, str] = {}
    epochs: int | str | None = None
    for point, cells in zip(search.points, search.cells, strict=True):
        ends = [next(following) for _ in cells]
        messages = [end.message for end in ends if end.status == "failed"]
        if messages:
            failed[json.dumps(point)] = messages[0]
            continue
        records = [read_record(end.folder / RECORD) for end in ends if end.folder is not None]
        trials.append(_trial(point, records))
        epochs = records[0].card.epochs
    if json.dumps(search.points[0]) in failed:
        return None
    dataset = datasets[search.experiment.dataset, search.experiment.image_size]
    defined = [key for key in METRICS if trials[0].metrics[key] is not None]
    if not defined:
        raise InputError(
            f"tune: {search.experiment.name}: no metric is defined on {dataset.name}; it needs defects and masks"
        )
    return SearchResult(
        metric=defined[0],
        method=search.experiment.method,
        label=load_method(search.experiment.method).label,
        experiment=search.experiment.name,
        judged_on=JudgedOn(
            dataset=dataset.name,
            fingerprint=dataset.fingerprint,
            categories=tuple(dataset.categories),
            test_images=len(dataset.test),
            held_out=held_out,
        ),
        epochs=epochs,
        seeds=tuple(cell.seed for cell in search.cells[0]),
        trials=tuple(trials),
        failed=failed,
    )


def _trial(point: Point, records: Sequence[Record]) -> Trial:
    metrics: dict[str, float | None] = {}
    for key in COLUMNS:
        values = [record.metrics[MEAN].get(key) for record in records]
        defined = [value for value in values if value is not None]
        metrics[key] = fmean(defined) if len(defined) == len(values) else None
    seconds = [record.cost.get("train_seconds") for record in records]
    measured = [value for value in seconds if value is not None]
    return Trial(
        settings=point,
        identities=tuple(record.identity for record in records),
        metrics=metrics,
        train_seconds=fmean(measured) if len(measured) == len(seconds) else None,
    )
