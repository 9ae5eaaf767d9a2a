"""The search for a method's settings: which settings it varies, and which points of them are tried.

A search space is a small YAML file `experiments/search/METHOD.yaml`. All methods get the same number of trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from mddbench.errors import InputError
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment
from mddbench.plugins import experiment_folders
from mddbench.seeding import derived_seed
from mddbench.settings import Strict, packaged, read_yaml, shown_path, validated

FOLDER = "search"
"""Folder of the search spaces, in the folder of the experiments."""
MOST_POINTS = 100_000
Values = Annotated[list[Any], Field(min_length=2, max_length=20)]
Point = dict[str, Any]
"""Dotted setting -> value, for each setting of a space."""


class SearchSpace(Strict):
    """The settings of a method that a search varies."""

    vary: Annotated[dict[str, Values], Field(min_length=1, max_length=4)] = Field(
        description="Dotted setting -> its values. The values of the recipe need not be among them."
    )


def short_name(experiment: str) -> str:
    """Return the name of an experiment without its dataset.

    >>> short_name("folder/rd4ad")
    'rd4ad'
    """
    return experiment.rpartition("/")[2]


def load_space(name: str, method: str) -> SearchSpace:
    """Load the search space of an experiment, or else that of its method, from a plug-in folder or the package.

    Args:
        name: Name of the experiment without its dataset.
        method: Name of the method.

    Returns:
        The space.

    Raises:
        InputError: If there is none, if anything in its file is wrong, or if it has too many points.
    """
    roots = [packaged("experiments"), *experiment_folders()]
    names = dict.fromkeys((name, method))
    files = [file for each in names for root in roots if (file := Path(root) / FOLDER / f"{each}.yaml").is_file()]
    if not files:
        raise InputError(
            f"{method}: no search space; write experiments/{FOLDER}/{method}.yaml with `vary: {{SETTING: [VALUES]}}`"
        )
    source = shown_path(files[0])
    space = validated(SearchSpace, read_yaml(files[0]), source)
    if (points := int(np.prod([len(values) for values in space.vary.values()]))) > MOST_POINTS:
        raise InputError(f"{source}: {points} points; expected {MOST_POINTS} at most")
    return space


def draw_points(space: SearchSpace, recipe: Point, trials: int) -> list[Point]:
    """Draw the points that a search tries.

    The recipe is the first point. The others are drawn from the grid of all values, each at most once.
    The draw depends on the space alone, so a longer search goes on where a shorter one ended.

    Args:
        space: The search space.
        recipe: The values of the experiment as it is.
        trials: Number of points, from 1.

    Returns:
        The points; fewer than `trials` if the grid has no more.
    """
    names = list(space.vary)
    grid = [dict(zip(names, values, strict=True)) for values in product(*space.vary.values())]
    order = np.random.default_rng(derived_seed(0, "search")).permutation(len(grid))
    others = [grid[index] for index in order if _text(grid[index]) != _text(recipe)]
    return [recipe, *others[: trials - 1]]


def point_of(experiment: Experiment, own: Mapping[str, Any], names: list[str], source: str) -> Point:
    """Read the values of some settings from an experiment.

    Args:
        experiment: The experiment.
        own: The method's own settings with their defaults, as JSON values.
        names: Dotted settings.
        source: Name of the search space, for error messages.

    Returns:
        Dotted setting -> value.

    Raises:
        InputError: If there is no such setting.
    """
    content = {**experiment.model_dump(mode="json"), "settings": dict(own)}
    values = {}
    for name in names:
        value: Any = content
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise InputError(f"{source}: '{name}' is no setting of {experiment.name}; see `mddbench list settings`")
            value = value[part]
        values[name] = value
    return values


def at_point(name: str, point: Point, overrides: Mapping[str, Any]) -> Experiment:
    """Load an experiment at a point of a search.

    Args:
        name: Name or file of the experiment.
        point: Dotted setting -> value.
        overrides: Further settings, from the command line.

    Returns:
        The experiment.
    """
    return load_experiment(name, {**overrides, **point})


def _text(point: Point) -> str:
    return json.dumps(point, sort_keys=True)
