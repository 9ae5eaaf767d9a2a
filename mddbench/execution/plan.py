"""What is to be run: the cells that names stand for, checked as far as can be before the first one starts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mddbench.batch import Batch
from mddbench.data.check import read_source
from mddbench.data.dataset import Dataset, load_source, open_dataset, root_of
from mddbench.data.own import mark_own
from mddbench.data.textures import open_textures
from mddbench.detector import NO_LOSS, ONLY_COLLECTS, Detector, load_method, method_settings
from mddbench.engine.device import autocast
from mddbench.engine.evaluate import BATCH_SIZE
from mddbench.engine.foreign import OPTION, WHOLE, learned
from mddbench.engine.memory import Remembered, bytes_of_batch, bytes_of_model, demand_memory
from mddbench.engine.optimizer import make_optimizer
from mddbench.engine.train import FEATURE_ROOM, for_method
from mddbench.errors import InputError
from mddbench.execution.cells import Cell
from mddbench.execution.holdout import hold_out
from mddbench.execution.protocol import resolved_settings
from mddbench.experiments.ablation import expand, is_ablation, load_ablation
from mddbench.experiments.catalogue import load_experiment, load_suite
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import load_encoder
from mddbench.progress import Reporter
from mddbench.seeding import derived_seed, seed_everything
from mddbench.settings import Strict


@dataclass(frozen=True)
class RunOptions:
    """Where things are and where they go. data_root: the dataset's folder, or a folder that holds it under its name.

    resamples: bootstrap samples for confidence intervals, 0 for none; held_out: train and judge on training images only;
    textures: folder of pictures for methods that draw defects with them; test_curve: look at the test split every so many
    epochs, 0 for never; keep_maps: keep the anomaly maps of the test split in the cell's folder; feature_room: GiB that the
    teacher's features of training images may take, 0 to compute them in every epoch; sharing: how many cells run on the device
    at once; compiling: compile the steps of long trainings; from_checkpoint: take what others trained and train nothing.
    """

    out: Path
    cache: Path
    device: torch.device
    data_root: Path | None = None
    weights_dir: Path | None = None
    force: bool = False
    resamples: int = 0
    held_out: bool = False
    textures: Path | None = None
    test_curve: int = 0
    keep_maps: bool = False
    feature_room: float = FEATURE_ROOM
    sharing: int = 1
    compiling: bool = False
    from_checkpoint: Path | None = None


def plan(names: list[str], suite: str, seeds: tuple[int, ...] | None, overrides: dict[str, object]) -> list[Cell]:
    """The cells of some experiments and ablations, or else of a suite's; seeds: instead of those that they name.

    Each once, however often it is asked for: the variant of an ablation that changes nothing is the experiment itself.
    """
    found: dict[str, Cell] = {}
    for name in names or load_suite(suite).experiments:
        if is_ablation(name):
            base, experiments = expand(load_ablation(name), overrides)
        else:
            base = load_experiment(name, overrides)
            experiments = [base]
        base, *experiments = (for_method(each, load_method(each.method)) for each in (base, *experiments))
        for experiment in experiments:
            same = _content(experiment) == _content(base)
            for seed in seeds or experiment.seeds:
                key, cell = f"{seed} {_content(experiment)}", Cell(base if same else experiment, seed)
                if key not in found or is_ablation(found[key].experiment.name):  # an own name goes before a variant's
                    found[key] = cell
    return list(found.values())


Datasets = dict[tuple[str, int], Dataset]
"""Opened datasets by name and image size."""


def check_cells(cells: list[Cell], options: RunOptions, reporter: Reporter) -> Datasets:
    """Find what would stop a cell before the first one starts: settings, then data (which is decoded), then weights.

    Returns the opened datasets. Raises InputError for the first thing found.
    """
    experiments = distinct_experiments(cells)
    if options.from_checkpoint is not None and (len(cells) > 1 or options.test_curve):
        raise InputError(
            f"{OPTION}: what a file holds has no seeds and no epochs; name one experiment with one seed (--seeds 0), and no "
            f"--test-curve; found {len(cells)} cells"
        )
    for experiment in experiments:
        if options.test_curve and experiment.setting == "separate":
            raise InputError(
                f"{experiment.name}: --test-curve is of one model for all categories; leave out setting=separate"
            )
        method, settings = _method(experiment)
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
        _try(experiment, datasets[experiment.dataset, experiment.image_size], options)
    return datasets


def open_datasets(experiments: list[Experiment], options: RunOptions, reporter: Reporter) -> Datasets:
    """The datasets of some experiments, decoded if they are not yet. Raises InputError for one that is not sound."""
    textured = _textured(experiments)
    datasets: Datasets = {}
    mark_own(options.out)  # first: both may lie among the images
    mark_own(options.cache)
    for name, size in sorted({(experiment.dataset, experiment.image_size) for experiment in experiments}):
        opened = open_dataset(name, root_of(name, options.data_root), options.cache, size, reporter)
        if options.textures is not None and size in textured:
            opened = replace(opened, textures=open_textures(options.textures, size, options.cache, reporter))
        datasets[name, size] = hold_out(opened) if options.held_out else opened
    return datasets


def _textured(experiments: list[Experiment]) -> set[int]:
    """The image sizes at which experiments draw with pictures from a folder."""
    found = [(each.image_size, *_method(each)) for each in experiments]
    return {size for size, method, settings in found if method.wants_textures(settings)}


def training_key(cell: Cell) -> str:
    """Equal for cells of one plan that share a trained model."""
    method, settings = _method(cell.experiment)
    resolved = resolved_settings(cell.experiment, settings)
    resolved |= {"settings": method.training_settings(settings), "metrics": None}
    return json.dumps([cell.experiment.setting, cell.seed, resolved], sort_keys=True)


def distinct_experiments(cells: list[Cell]) -> list[Experiment]:
    """The experiments of some cells, each once, in their order."""
    found: list[Experiment] = []
    for cell in cells:
        if cell.experiment not in found:
            found.append(cell.experiment)
    return found


def image_counts(dataset: str, options: RunOptions, size: int) -> tuple[int, int] | None:
    """(training images, test images) of a dataset: counted if it is there and sound, else as published, if they are."""
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
    """All that an experiment's numbers depend on but its seeds, as text."""
    _, settings = _method(experiment)
    return json.dumps([experiment.setting, resolved_settings(experiment, settings)], sort_keys=True)


def _method(experiment: Experiment) -> tuple[type[Detector], Strict]:
    """The method of an experiment and its settings."""
    method = load_method(experiment.method)
    return method, method_settings(method, experiment.settings, experiment.name)


def build_detector(experiment: Experiment, dataset: Dataset, options: RunOptions, seed: int) -> Detector:
    """The untrained detector of an experiment, with the weights of its teacher.

    Seeded after the teacher is there, whose construction draws numbers that nobody needs. Raises InputError if its weights
    alone are more than the device's memory.
    """
    method, settings = _method(experiment)
    chosen = experiment.encoder
    encoder = load_encoder(chosen.name, chosen.levels, options.weights_dir, chosen.sha256, chosen.padding_for)
    separate = experiment.setting == "separate"
    categories = 1 if separate else len(dataset.categories)
    needed = bytes_of_model(lambda: method(encoder, settings, categories), experiment.optimizer.name)
    demand_memory(needed, options.device, experiment.name, "the model, with what training keeps of its weights,")
    seed_everything(derived_seed(seed, "initial weights"))
    detector = method(encoder, settings, categories).to(options.device).to(memory_format=torch.channels_last)
    if options.from_checkpoint is not None:  # all of its files, so that the last is as sound as the first
        for _ in learned(detector, options.from_checkpoint, dataset.categories if separate else (WHOLE,)):
            pass
    return detector


def fewest_images(experiment: Experiment, dataset: Dataset) -> int:
    """How many images the model is trained on; of separate models, the one with the fewest."""
    parts = [dataset.train.of(category) for category in dataset.categories]
    return min(map(len, parts)) if experiment.setting == "separate" else len(dataset.train)


def _try(experiment: Experiment, dataset: Dataset, options: RunOptions) -> None:
    """Build the detector and push one batch through it, as small as training may meet. Raises InputError if that fails, or if
    what it takes says that a whole batch cannot fit into memory.
    """
    total, size, side = fewest_images(experiment, dataset), experiment.batch_size, experiment.image_size
    smallest = min(total, size) if experiment.drop_last or total < size else total % size or size
    whole = min(size, len(dataset.train))
    what = f"a batch of {whole} images of {side}x{side} pixels"
    try:
        detector = build_detector(experiment, dataset, options, experiment.seeds[0])
        demand_memory(bytes_of_batch(detector.encoder, whole, side), options.device, experiment.name, what)
        judged = f"evaluating {min(BATCH_SIZE, len(dataset.test))} images of {side}x{side} pixels at once"
        needed = bytes_of_batch(detector.encoder, min(BATCH_SIZE, len(dataset.test)), side)
        demand_memory(needed, options.device, experiment.name, judged)
        images = torch.zeros(min(smallest, 2), 3, side, side, device=options.device)
        categories = torch.zeros(len(images), dtype=torch.int64, device=options.device)
        with autocast(options.device, experiment.precision):
            with Remembered(detector) as remembered:
                if options.from_checkpoint is None:
                    _one_step(detector, Batch(images, categories, images), experiment)
            if not detector.single_pass:  # which has nothing to judge by before it has seen its images
                detector.told_category = 0 if detector.wants_test_labels else None
                detector.image_scores(detector.eval().anomaly_maps(images[:1]))
    except (RuntimeError, ValueError, AssertionError, MemoryError) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(f"{experiment.name}: the method cannot be trained with these settings ({reason})") from None
    demand_memory(remembered.bytes * whole // len(images), options.device, experiment.name, what)


def _one_step(detector: Detector, batch: Batch, experiment: Experiment) -> None:
    """A step as training would take it. Raises InputError if its losses are not what the method says of itself."""
    make_optimizer(detector, experiment.optimizer)
    terms = detector.train().training_step(batch)
    if bool(terms) == detector.single_pass:
        raise InputError(f"{experiment.method}: {ONLY_COLLECTS if terms else NO_LOSS}")
