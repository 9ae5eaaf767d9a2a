"""The search for the settings of methods: the same number of trials for each, judged on development data.

A trial is an ordinary cell in an output folder of its own. So a search can be interrupted and goes on where it ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from mddbench.detector import load_method, method_settings
from mddbench.engine.step import for_method, unused_overrides
from mddbench.errors import InputError
from mddbench.execution.arranged import arranged
from mddbench.execution.cells import Cell, Prepared
from mddbench.execution.models import build_detector
from mddbench.execution.options import RunOptions
from mddbench.execution.overrides import used_overrides
from mddbench.execution.plan import Datasets
from mddbench.execution.runner import Outcome
from mddbench.experiments.ablation import is_ablation
from mddbench.experiments.catalogue import load_experiment, load_suite
from mddbench.experiments.schema import Experiment
from mddbench.experiments.search import Point, at_point, draw_points, load_space, point_of, short_name
from mddbench.metrics.names import COLUMNS, MEAN
from mddbench.runs.card import SEEN_ONCE
from mddbench.runs.records import RECORD, Record, read_record
from mddbench.runs.search import METRICS, JudgedOn, SearchResult, Trial
from mddbench.settings import all_values


@dataclass(frozen=True)
class Search:
    """The planned search for one method.

    Attributes:
        experiment: The experiment as it is.
        points: The points, the experiment's own first.
        cells: For each point, its cells, one for each seed.
        known: Points as JSON -> their trials, from an earlier search with the same recipe. They are not run again.
        label: Label of the method in that earlier search.
    """

    experiment: Experiment
    points: tuple[Point, ...]
    cells: tuple[tuple[Cell, ...], ...]
    known: Mapping[str, Trial] = field(default_factory=dict)
    label: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file of its result, which is that of the experiment without its dataset."""
        return f"{short_name(self.experiment.name)}.json"

    def cells_to_run(self) -> list[Cell]:
        """Return the cells of all points whose trials are not known."""
        pairs = zip(self.points, self.cells, strict=True)
        return [cell for point, cells in pairs if json.dumps(point) not in self.known for cell in cells]


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
        InputError: If an experiment is an ablation, the results of two have one name, or a setting is given that a
            space varies.
    """
    searches: list[Search] = []
    names = names or load_suite(suite).experiments
    overrides_of = used_overrides(names, overrides)
    for name in names:
        if is_ablation(name):
            raise InputError(f"tune: {name} is an ablation; expected experiments, as in folder/rd4ad")
        searches.append(_planned(name, trials, seeds, overrides_of[name]))
        if [search.file_name for search in searches].count(searches[-1].file_name) > 1:
            raise InputError(
                f"tune: {name} is a second one whose result is {searches[-1].file_name}; search one at a time"
            )
    return searches


def _planned(name: str, trials: int, seeds: tuple[int, ...] | None, overrides: Mapping[str, Any]) -> Search:
    recipe = load_experiment(name, overrides)
    method = load_method(recipe.method)
    space = load_space(short_name(recipe.name), recipe.method)
    source = f"the search space of {recipe.method}"
    for setting in space.vary:
        if setting in overrides:
            raise InputError(f"--set {setting}: {source} varies it; leave it out")
        if unused_overrides([setting], method):
            raise InputError(f"{source}: '{setting}' has no effect on this method, which does not use it")
    own = all_values(method_settings(method, recipe.settings, name))
    points = draw_points(space, point_of(recipe, own, list(space.vary), source), trials)
    experiments = [recipe, *(at_point(name, point, overrides) for point in points[1:])]
    experiments = [for_method(experiment, method) for experiment in experiments]
    cells = tuple(tuple(Cell(experiment, seed) for seed in seeds or recipe.seeds) for experiment in experiments)
    return Search(experiments[0], tuple(points), cells)


def after_earlier(search: Search, earlier: SearchResult, options: RunOptions, datasets: Datasets) -> Search:
    """Return a search without the trials that an earlier one made. They need not have been made on this machine.

    The identities of the recipe's cells hold the data, the version of the method, and all settings that no trial varies.
    So if they are equal, the trials of the earlier search belong to this one, too.

    Args:
        search: The search.
        earlier: The result of the earlier search.
        options: Options of the run.
        datasets: The opened datasets.

    Returns:
        The search; unchanged if the recipes differ.
    """
    dataset = datasets[search.experiment.dataset, search.experiment.image_size]
    recipe = []
    for cell in search.cells[0]:
        own = arranged(dataset, cell.experiment, cell.seed)
        recipe.append(Prepared.of(cell, build_detector(cell.experiment, own, options, cell.seed), own))
    if earlier.recipe.identities != tuple(prepared.identity for prepared in recipe):
        return search
    known = {json.dumps(trial.settings): trial for trial in earlier.trials}
    return replace(search, known=known, label=earlier.label)


def result_of(search: Search, outcomes: Sequence[Outcome], datasets: Datasets, held_out: bool) -> SearchResult | None:
    """Collect the result of a search.

    Args:
        search: The search.
        outcomes: How its cells ended, in the order of `cells_to_run`.
        datasets: The opened datasets.
        held_out: True if the trials were judged on held-out training images with drawn defects.

    Returns:
        The result; None if the recipe itself failed.

    Raises:
        InputError: If no metric is defined on the data, which then cannot tell trials apart.
    """
    following, method = iter(outcomes), load_method(search.experiment.method)
    trials: list[Trial] = []
    failed: dict[str, str] = {}
    label = search.label
    for point, cells in zip(search.points, search.cells, strict=True):
        if (known := search.known.get(json.dumps(point))) is not None:
            trials.append(known)
            continue
        ends = [next(following) for _ in cells]
        messages = [end.message for end in ends if end.status == "failed"]
        if messages:
            failed[json.dumps(point)] = messages[0]
            continue
        records = [read_record(end.folder / RECORD) for end in ends if end.folder is not None]
        trials.append(_trial(point, records))
        label = label or records[0].label  # of the recipe, the first trial
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
        label=label,
        experiment=search.experiment.name,
        judged_on=JudgedOn(
            dataset=dataset.name,
            fingerprint=dataset.fingerprint,
            categories=tuple(dataset.categories),
            test_images=len(dataset.test),
            held_out=held_out,
        ),
        epochs=SEEN_ONCE if method.single_pass else search.experiment.epochs,
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
    processor = records[0].environment.get("processor")
    return Trial(
        settings=point,
        identities=tuple(record.identity for record in records),
        metrics=metrics,
        processor=str(processor) if processor else None,
        train_seconds=fmean(measured) if len(measured) == len(seconds) else None,
    )
