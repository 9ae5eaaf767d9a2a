"""Turns names of experiments into cells, and checks the cells as far as possible before the first one starts."""

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
from mddbench.detector import NO_CATEGORY, NO_LOSS, ONLY_COLLECTS, Detector, load_method, method_settings
from mddbench.engine.device import autocast
from mddbench.engine.evaluate import BATCH_SIZE
from mddbench.engine.foreign import ALL_CATEGORIES, OPTION, load_authors_models
from mddbench.engine.memory import SavedForBackward, bytes_of_batch, bytes_of_model, demand_memory
from mddbench.engine.optimizer import make_optimizer
from mddbench.engine.step import for_method
from mddbench.engine.train import FEATURE_ROOM
from mddbench.errors import InputError
from mddbench.execution.cells import Cell
from mddbench.execution.holdout import hold_out
from mddbench.execution.overrides import used_overrides
from mddbench.execution.protocol import protocol_card, resolved_settings, training_settings
from mddbench.experiments.ablation import expand, is_ablation, load_ablation
from mddbench.experiments.catalogue import load_experiment, load_suite
from mddbench.experiments.schema import Experiment, Suite
from mddbench.nn.encoder import load_encoder
from mddbench.progress import Reporter
from mddbench.seeding import derived_seed, seed_everything
from mddbench.settings import Strict

LAST = 0.999
"""Share of the training that is done when a step of the last phase is tried."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run: folders, the device, and what the run does besides training.

    Attributes:
        out: Output folder.
        cache: Folder of decoded images.
        device: Device of the models.
        data_root: Folder of the dataset, or a folder that contains it under its name; None for the default.
        weights_dir: Folder of encoder weights, or a weights file; None for a package or timm's hub.
        force: True to run finished cells again.
        resamples: Number of bootstrap samples for confidence intervals, 0 for none.
        held_out: True to train and evaluate on training images only.
        development: True if settings are chosen on the test images, which the protocol card then says.
        textures: Folder of pictures for methods that draw defects with them; None if there is none.
        test_curve: Number of epochs between two evaluations on the test split, 0 for none.
        keep_maps: True to keep the anomaly maps of the test split in the cell's folder.
        feature_room: GiB that cached features of the teacher may take, 0 to compute them in every epoch.
        sharing: Number of cells that run on the device at the same time.
        compiling: True to compile the training steps of long trainings.
        from_checkpoint: File or folder with weights of the method's authors, which replace a training; None to train.
    """

    out: Path
    cache: Path
    device: torch.device
    data_root: Path | None = None
    weights_dir: Path | None = None
    force: bool = False
    resamples: int = 0
    held_out: bool = False
    development: bool = False
    textures: Path | None = None
    test_curve: int = 0
    keep_maps: bool = False
    feature_room: float = FEATURE_ROOM
    sharing: int = 1
    compiling: bool = False
    from_checkpoint: Path | None = None


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


Datasets = dict[tuple[str, int], Dataset]
"""Opened datasets by their name and image size in pixels."""


def check_cells(cells: list[Cell], options: RunOptions, reporter: Reporter) -> Datasets:
    """Check all cells before the first one starts: settings, then data, which is decoded, then weights.

    Args:
        cells: The cells.
        options: Options of the run.
        reporter: Shows the progress.

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
        _try_one_batch(experiment, datasets[experiment.dataset, experiment.image_size], options)
    return datasets


def open_datasets(experiments: list[Experiment], options: RunOptions, reporter: Reporter) -> Datasets:
    """Open the datasets of experiments. Their images are decoded if they are not decoded yet.

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
    for name, size in sorted({(experiment.dataset, experiment.image_size) for experiment in experiments}):
        opened = open_dataset(name, root_of(name, options.data_root), options.cache, size, reporter)
        if options.textures is not None and size in textured:
            opened = replace(opened, textures=open_textures(options.textures, size, options.cache, reporter))
        opened = hold_out(opened) if options.held_out else opened
        datasets[name, size] = replace(opened, development=options.development)
    return datasets


def _textured(experiments: list[Experiment]) -> set[int]:
    """Return the image sizes of the experiments that draw defects with pictures from a folder."""
    methods = [(experiment.image_size, *_method(experiment)) for experiment in experiments]
    return {size for size, method, settings in methods if method.wants_textures(settings)}


def training_key(cell: Cell) -> str:
    """Compute a text that is equal for the cells of a plan that share a trained model.

    Args:
        cell: A cell of the plan.

    Returns:
        The decisive settings and the seed as JSON.
    """
    method, settings = _method(cell.experiment)
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


def image_counts(dataset: str, options: RunOptions, size: int) -> tuple[int, int] | None:
    """Count the images of a dataset. If it does not exist here or has faults, the published numbers are used.

    Args:
        dataset: Name of the dataset.
        options: Options of the run.
        size: Image size in pixels.

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
    _, settings = _method(experiment)
    return json.dumps([experiment.setting, resolved_settings(experiment, settings)], sort_keys=True)


def _method(experiment: Experiment) -> tuple[type[Detector], Strict]:
    """Return the class of an experiment's method and the method's settings."""
    method = load_method(experiment.method)
    return method, method_settings(method, experiment.settings, experiment.name)


def build_detector(experiment: Experiment, dataset: Dataset, options: RunOptions, seed: int) -> Detector:
    """Build the detector of an experiment, untrained, with the weights of its teacher.

    The random generator is seeded after the teacher is built, because building it draws random numbers.
    An InputError is raised if the weights alone take more memory than the device has.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.
        options: Options of the run.
        seed: Seed of the cell.

    Returns:
        The detector on its device. With `from_checkpoint`, the weights of all models are loaded once, as a check.
    """
    method, settings = _method(experiment)
    teacher = experiment.encoder
    encoder = load_encoder(teacher.name, teacher.levels, options.weights_dir, teacher.sha256, teacher.padding_for)
    separate = experiment.setting == "separate"
    categories = 1 if separate else len(dataset.categories)
    needed = bytes_of_model(lambda: method(encoder, settings, categories), experiment.optimizer.name)
    demand_memory(needed, options.device, experiment.name, "the model, with what training keeps of its weights,")
    seed_everything(derived_seed(seed, "initial weights"))
    detector = method(encoder, settings, categories).to(options.device).to(memory_format=torch.channels_last)
    if options.from_checkpoint is not None:  # loading all files checks every one of them
        models = dataset.categories if separate else (ALL_CATEGORIES,)
        for _ in load_authors_models(detector, options.from_checkpoint, models):
            pass
    return detector


def training_sets(experiment: Experiment, dataset: Dataset) -> list[int]:
    """Count the training images of each model.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.

    Returns:
        One number for a unified model; one for each category for separate models.
    """
    if experiment.setting == "unified":
        return [len(dataset.train)]
    return [len(dataset.train.of(category)) for category in dataset.categories]


def _try_one_batch(experiment: Experiment, dataset: Dataset, options: RunOptions) -> None:
    """Build the detector and run one batch through it.

    The batch is as small as the smallest batch of the training, and has two images at most.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.
        options: Options of the run.

    Raises:
        InputError: If this fails, or if the memory it takes shows that a full batch cannot fit.
    """
    totals, size, side = training_sets(experiment, dataset), experiment.batch_size, experiment.image_size
    total = min(totals)
    smallest = min(total, size) if experiment.drop_last or total < size else total % size or size
    full = min(size, len(dataset.train))
    purpose = f"a batch of {full} images of {side}x{side} pixels"
    try:
        detector = build_detector(experiment, dataset, options, experiment.seeds[0])
        protocol_card(experiment, detector, dataset)
        demand_memory(bytes_of_batch(detector.encoder, full, side), options.device, experiment.name, purpose)
        evaluating = f"evaluating {min(BATCH_SIZE, len(dataset.test))} images of {side}x{side} pixels at once"
        needed = bytes_of_batch(detector.encoder, min(BATCH_SIZE, len(dataset.test)), side)
        demand_memory(needed, options.device, experiment.name, evaluating)
        collecting = f"what the method keeps of {max(totals)} images"
        needed = detector.collected_bytes(max(totals), side)
        demand_memory(needed, options.device, experiment.name, collecting)
        images = torch.zeros(min(smallest, 2), 3, side, side, device=options.device)
        categories = torch.zeros(len(images), dtype=torch.int64, device=options.device)
        with autocast(options.device, experiment.precision):
            with SavedForBackward(detector) as saved:
                if options.from_checkpoint is None:
                    _one_step(detector, Batch(images, categories, images), experiment)
            with SavedForBackward(detector) as saved_later:  # a method with phases is in its last one then
                if options.from_checkpoint is None and not detector.single_pass:
                    _one_step(detector, Batch(images, categories, images, progress=LAST), experiment)
            if not detector.single_pass:  # such a method cannot score before it has seen all its images
                detector.eval()
                by_category = detector.wants_test_labels
                if by_category and type(detector).anomaly_maps_of is Detector.anomaly_maps_of:
                    raise InputError(f"{experiment.method}: {NO_CATEGORY}")
                first = images[:1]
                maps = detector.anomaly_maps_of(first, 0) if by_category else detector.anomaly_maps(first)
                detector.image_scores(maps)
    except (RuntimeError, ValueError, AssertionError, AttributeError, MemoryError) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(f"{experiment.name}: the method cannot be trained with these settings ({reason})") from None
    most = max(saved.bytes, saved_later.bytes)
    demand_memory(most * full // len(images), options.device, experiment.name, purpose)


def _one_step(detector: Detector, batch: Batch, experiment: Experiment) -> None:
    """Run a training step. Raise InputError if it returns losses although the method only collects, or vice versa."""
    make_optimizer(detector, experiment.optimizer)
    terms = detector.train().training_step(batch)
    if bool(terms) == detector.single_pass:
        raise InputError(f"{experiment.method}: {ONLY_COLLECTS if terms else NO_LOSS}")
