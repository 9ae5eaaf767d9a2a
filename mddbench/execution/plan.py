"""Turns names of experiments into cells, and checks the cells as far as possible before the first one starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from mddbench.data.check import read_source
from mddbench.data.dataset import Dataset, load_source, open_dataset, root_of
from mddbench.data.own import mark_own
from mddbench.data.textures import open_textures
from mddbench.detector import Detector, load_method
from mddbench.engine.device import autocast
from mddbench.engine.foreign import OPTION
from mddbench.engine.step import for_method
from mddbench.errors import InputError
from mddbench.execution.arranged import arranged
from mddbench.execution.cells import Cell
from mddbench.execution.holdout import hold_out
from mddbench.execution.models import method_of, try_one_batch
from mddbench.execution.options import RunOptions
from mddbench.execution.overrides import used_overrides
from mddbench.execution.protocol import resolved_settings, training_settings
from mddbench.experiments.ablation import expand, is_ablation, load_ablation
from mddbench.experiments.catalogue import load_experiment, load_suite
from mddbench.experiments.schema import Experiment, Suite
from mddbench.progress import Reporter
from mddbench.sizes import ImageSize, height_and_width


def plan(names: list[str], suite: str, seeds: tuple[int, ...] | None, overrides: dict[str, object]) -> list[Cell]:
    """Find the cells of experiments and ablations.

    Each cell occurs once, even if several names contain it.
    The variant of an ablation that changes nothing is the same as its base experiment.

    Args:
        names: Names or YAML files of experiments and ablations. [] stands for those of the suite.
        suite: Name of the suite that is used if there are no names.
        seeds: Seeds that replace the seeds of the experiments; None to keep them.
        overrides: Dotted setting -> value, from the command line.

    Returns:
        The cells.
    """
    cells: dict[str, Cell] = {}
    chosen = Suite(description="", experiments=tuple(names)) if names else load_suite(suite)
    seeds = seeds or chosen.seeds
    overrides_of = used_overrides(chosen.experiments, overrides)
    for name in chosen.experiments:
        if is_ablation(name):
            base, experiments = expand(load_ablation(name), overrides)
        else:
            base = load_experiment(name, overrides_of[name])
            experiments = [base]
        base, *experiments = (
            for_method(experiment, load_method(experiment.method)) for experiment in (base, *experiments)
        )
        for experiment in experiments:
            unchanged = _content(experiment) == _content(base)
            for seed in seeds or experiment.seeds:
                key, cell = f"{seed} {_content(experiment)}", Cell(base if unchanged else experiment, seed)
                if key not in cells or is_ablation(cells[key].experiment.name):  # an experiment's own name wins
                    cells[key] = cell
    return list(cells.values())


Datasets = dict[tuple[str, ImageSize], Dataset]
"""Opened datasets by their name and image size in pixels."""


def check_cells(
    cells: list[Cell],
    options: RunOptions,
    reporter: Reporter,
    built: Callable[[Experiment, Detector, Dataset], object] = lambda *_: None,
) -> Datasets:
    """Check all cells before the first one starts: settings, then data, which is decoded, then weights.

    Args:
        cells: The cells.
        options: Options of the run.
        reporter: Shows the progress.
        built: Called with each experiment, its model and its dataset.

    Returns:
        The opened datasets.

    Raises:
        InputError: For the first problem.
    """
    experiments = distinct_experiments(cells)
    if options.from_checkpoint is not None and (len(cells) > 1 or options.test_curve):
        raise InputError(
            f"{OPTION}: what a file holds has no seeds and no epochs; name one experiment with one seed (--seeds 0), "
            f"and no --test-curve; found {len(cells)} cells"
        )
    for experiment in experiments:
        if options.test_curve and (experiment.setting == "separate" or experiment.categories_per_model is not None):
            several = "setting=separate" if experiment.setting == "separate" else "categories_per_model"
            raise InputError(f"{experiment.name}: --test-curve is of one model for all categories; leave out {several}")
        method, settings = method_of(experiment)
        method.demand_weights(options.weights_dir)
        autocast(options.device, experiment.precision)
        if method.wants_textures(settings) and options.textures is None:
            raise InputError(
                f"{experiment.name}: its defects are drawn with pictures; give their folder by --textures DIR"
            )
    if options.textures is not None and not _textured(experiments):
        raise InputError("--textures: no experiment draws with them; add --set settings.synthesis.textures=[folder]")
    datasets = open_datasets(experiments, options, reporter)
    for experiment in experiments:
        reporter.say(f"checking {experiment.name}")
        dataset = datasets[experiment.dataset, experiment.image_size]
        own = arranged(dataset, experiment, experiment.seeds[0])
        built(experiment, try_one_batch(experiment, own, options), dataset)
    return datasets


def open_datasets(experiments: list[Experiment], options: RunOptions, reporter: Reporter) -> Datasets:
    """Open the datasets of experiments. Their images are decoded if they are not, unless all must be prepared.

    An InputError is raised if a dataset has a fault.

    Args:
        experiments: The experiments.
        options: Options of the run.
        reporter: Shows the progress.

    Returns:
        The datasets.
    """
    textured = _textured(experiments)
    datasets: Datasets = {}
    mark_own(options.out)  # before images are searched, because both folders may lie among the images
    mark_own(options.cache)
    distinct = {(experiment.dataset, experiment.image_size) for experiment in experiments}
    for name, size in sorted(distinct, key=lambda each: (each[0], height_and_width(each[1]))):
        decode = not options.prepared
        opened = open_dataset(name, root_of(name, options.data_root), options.cache, size, reporter, decode)
        if options.textures is not None and size in textured:
            opened = replace(opened, textures=open_textures(options.textures, size, options.cache, reporter, decode))
        if options.name and opened.own_name:
            opened = replace(opened, own_name=options.name)
        opened = hold_out(opened) if options.held_out else opened
        datasets[name, size] = replace(opened, development=options.development)
    return datasets


def _textured(experiments: list[Experiment]) -> set[ImageSize]:
    """Return the image sizes of the experiments that draw defects with pictures from a folder."""
    methods = [(experiment.image_size, *method_of(experiment)) for experiment in experiments]
    return {size for size, method, settings in methods if method.wants_textures(settings)}


def training_key(cell: Cell) -> str:
    """Compute a text that is equal for the cells of a plan that share a trained model.

    Args:
        cell: A cell of the plan.

    Returns:
        The decisive settings and the seed as JSON.
    """
    method, settings = method_of(cell.experiment)
    resolved = training_settings(resolved_settings(cell.experiment, settings), method, settings)
    return json.dumps([cell.experiment.setting, cell.seed, resolved], sort_keys=True)


def distinct_experiments(cells: list[Cell]) -> list[Experiment]:
    """Find the experiments of cells.

    Args:
        cells: The cells.

    Returns:
        Each experiment once, in the order of the cells.
    """
    experiments: list[Experiment] = []
    for cell in cells:
        if cell.experiment not in experiments:
            experiments.append(cell.experiment)
    return experiments


def image_counts(dataset: str, options: RunOptions, size: ImageSize) -> tuple[int, int] | None:
    """Count the images of a dataset. If it does not exist here or has faults, the published numbers are used.

    Args:
        dataset: Name of the dataset.
        options: Options of the run.
        size: The size of the images.

    Returns:
        Number of training images and of test images; None if they are unknown.
    """
    source, root = load_source(dataset), root_of(dataset, options.data_root)
    published = source.published
    if source.build is None and root is not None:
        tree = read_source(source, root, size)
        if not tree.faults or published is None:
            tree.sound(dataset)
            return len(tree.select("train")), len(tree.select("test"))
    if published is None:
        return None
    train, good, defective = published.all
    return None if train is None or good is None or defective is None else (train, good + defective)


def _content(experiment: Experiment) -> str:
    """Return all settings that the results of an experiment depend on, without its seeds, as text."""
    _, settings = method_of(experiment)
    return json.dumps([experiment.setting, resolved_settings(experiment, settings)], sort_keys=True)
