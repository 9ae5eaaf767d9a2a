"""Which categories share a model: all, some of them, or none."""

from __future__ import annotations

from collections.abc import Sequence

from mddbench.data.dataset import Dataset
from mddbench.engine.foreign import ALL_CATEGORIES
from mddbench.errors import InputError
from mddbench.experiments.schema import Experiment

Models = dict[str, tuple[str, ...]]
"""Name of a model -> its categories. The one model for all categories is called ALL_CATEGORIES."""


def models_of(experiment: Experiment, dataset: Dataset) -> Models:
    """Say which models an experiment trains.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.

    Returns:
        The models. All have the same number of categories.

    Raises:
        InputError: If the dataset's categories cannot be divided so.
    """
    categories, size = dataset.categories, experiment.categories_per_model
    if size is None:
        return divided(categories, experiment.setting, None)
    sizes = [number for number in range(1, len(categories) + 1) if len(categories) % number == 0]
    if experiment.setting == "separate":
        raise InputError(f"{experiment.name}: categories_per_model: {size} goes with setting: unified; found separate")
    if size not in sizes:
        raise InputError(
            f"{experiment.name}: categories_per_model: {size} does not divide the {len(categories)} categories of "
            f"{dataset.name}; expected one of {', '.join(map(str, sizes))}"
        )
    return divided(categories, experiment.setting, size)


def divided(categories: Sequence[str], setting: str, size: int | None) -> Models:
    """Divide categories among models, in their order.

    >>> divided(["a", "b", "c", "d"], "unified", 2)
    {'group-1': ('a', 'b'), 'group-2': ('c', 'd')}

    Args:
        categories: Names of the categories, sorted.
        setting: 'unified' or 'separate'.
        size: Number of categories of a model; None if the setting says it.

    Returns:
        The models.
    """
    if size is None:
        names: dict[str, tuple[str, ...]] = {category: (category,) for category in categories}
        return names if setting == "separate" else {ALL_CATEGORIES: tuple(categories)}
    starts = range(0, len(categories), size)
    return {f"group-{place}": tuple(categories[start : start + size]) for place, start in enumerate(starts, 1)}


def per_model(models: Models) -> int:
    """Return the number of categories of each model."""
    return len(next(iter(models.values())))


def model_of(models: Models) -> dict[str, str]:
    """Return the name of the model of each category."""
    return {category: name for name, members in models.items() for category in members}
