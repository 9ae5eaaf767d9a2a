"""Estimates the cost of a plan from a few timed steps.

Nothing is trained, and neither images nor weights are needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.batches import TrainingImages, batches_per_epoch, epoch_batches
from mddbench.engine.cost import inference_seconds, seconds_of_calls, step_seconds
from mddbench.engine.device import synchronize
from mddbench.engine.memory import demand_memory
from mddbench.engine.step import TrainingStep
from mddbench.engine.train import bytes_per_image, with_features
from mddbench.execution.cells import Cell
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import distinct_experiments, image_counts
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.feature_cache import GIB
from mddbench.progress import Reporter
from mddbench.sizes import height_and_width, pixel_count

MORE_BATCHES = 4
"""Number of batches that a single pass collects to see what grows with them."""
MIDDLE = 0.5
"""Share of the training that is done when a step is timed. A method with phases is in its longest one then."""
CATEGORIES = 15
"""Number of categories of the timed model. Hardly anything depends on it."""


@dataclass(frozen=True)
class Estimate:
    """The estimate for one experiment of a plan.

    Attributes:
        experiment: The experiment.
        seeds: Seeds of its cells.
        train_images: Number of training images, None if it is unknown.
        test_images: Number of test images, None if it is unknown.
        step_seconds: Seconds of a training step after the first epoch.
            Of the first epoch if the number of images is unknown.
        hours: Hours for all its cells together, None if the number of images is unknown.
        hours_range: The same hours if all steps were as fast as the fastest timed one, or as slow as the slowest one.
        cache_mib: Size of the decoded images in MiB, None if the number of images is unknown.
        collected_mib: The most that a method of a single pass keeps at a time in MiB, None as above.
    """

    experiment: Experiment
    seeds: tuple[int, ...]
    train_images: int | None
    test_images: int | None
    step_seconds: float
    hours: float | None
    hours_range: tuple[float, float] | None
    cache_mib: float | None
    collected_mib: float | None


def estimate(cells: list[Cell], options: RunOptions, reporter: Reporter) -> list[Estimate]:
    """Estimate the cost of cells.

    Args:
        cells: The cells of a plan.
        options: Options of the run.
        reporter: Shows the progress.

    Returns:
        One estimate for each experiment, in the order of the cells.
    """
    estimates = []
    timed: dict[str, _Times] = {}
    for experiment in distinct_experiments(cells):
        timing_key = experiment.model_dump_json(
            exclude={"name", "dataset", "seeds", "epochs", "schedule", "overrides", "reported"}
        )
        if timing_key not in timed:
            reporter.say(f"timing {experiment.name}")
            timed[timing_key] = _timed(experiment, options)
        seeds = tuple(cell.seed for cell in cells if cell.experiment == experiment)
        estimates.append(_estimate_of(experiment, seeds, options, timed[timing_key]))
    return estimates


@dataclass(frozen=True)
class _Times:
    """The measurements of an experiment.

    Attributes:
        first: Seconds of a training step in the first epoch.
        later: Seconds of a training step in a later epoch if the teacher's features are cached.
        spread: The fastest and the slowest timed step, as shares of the median.
        inference: Seconds of inference for one test image.
        feature_bytes: Bytes of the teacher's features of one image.
        collected_bytes: Number of images -> the most bytes that a single pass keeps at a time.
        growing: Number of images -> seconds of finishing a single pass, and seconds of scoring an image beyond those
            after one batch.
    """

    first: float
    later: float
    spread: tuple[float, float]
    inference: float
    feature_bytes: int
    collected_bytes: Callable[[int], int]
    growing: Callable[[int], tuple[float, float]]


def _estimate_of(experiment: Experiment, seeds: tuple[int, ...], options: RunOptions, times: _Times) -> Estimate:
    counts = image_counts(experiment.dataset, options, experiment.image_size)
    if counts is None:
        return Estimate(experiment, seeds, None, None, times.first, None, None, None, None)
    train, test = counts
    per_model = train if experiment.setting == "unified" else train / CATEGORIES  # images of one model, approximately
    step = times.later if per_model * times.feature_bytes <= options.feature_room * GIB else times.first
    steps = batches_per_epoch(train, experiment)
    finishing, longer = times.growing(math.ceil(per_model))
    models = 1 if experiment.setting == "unified" else CATEGORIES
    seconds = steps * (times.first + (experiment.epochs - 1) * step) + test * (times.inference + longer)
    seconds += models * finishing
    size = (train + test) * pixel_count(experiment.image_size) * 4 / 2**20
    collected = times.collected_bytes(math.ceil(per_model)) / 2**20
    hours = len(seeds) * seconds / 3600
    hours_range = hours * times.spread[0], hours * times.spread[1]
    return Estimate(experiment, seeds, train, test, step, hours, hours_range, size, collected)


def _timed(experiment: Experiment, options: RunOptions) -> _Times:
    """Measure an experiment on noise with untrained weights, which cost the same as images and trained weights."""
    method = load_method(experiment.method)
    encoder_settings = experiment.encoder
    encoder = FrozenEncoder(encoder_settings.name, encoder_settings.levels, **encoder_settings.options)
    settings = method_settings(method, experiment.settings, experiment.name)
    detector = method(encoder, settings, CATEGORIES).to(options.device).to(memory_format=torch.channels_last)
    size = experiment.image_size
    kept = "what the method keeps of a batch of images"
    demand_memory(detector.collected_bytes(experiment.batch_size, size), options.device, experiment.name, kept)
    noise = np.random.default_rng(0).integers(
        0, 256, (experiment.batch_size, *height_and_width(size), 3), dtype=np.uint8
    )
    data = TrainingImages(noise, np.zeros(len(noise), dtype=np.int64), noise)
    step = TrainingStep(detector, experiment)
    batch = replace(next(epoch_batches(data, step.experiment, 0, step.device)), progress=MIDDLE)
    seconds = seconds_of_calls(lambda: step_seconds(step, batch))
    first = later = median(seconds)
    if detector.asks_teacher:
        cached = with_features(batch, detector, experiment.precision)
        seconds = seconds_of_calls(lambda: step_seconds(step, cached))
        later = median(seconds)
    spread = min(seconds) / later, max(seconds) / later
    detector.finish_training()  # a method of a single pass cannot score before
    inference = inference_seconds(detector.eval(), size, experiment.precision)
    feature_bytes = bytes_per_image(detector, data, experiment.precision)
    growing = _growing(experiment, detector, batch)
    return _Times(
        first, later, spread, inference, feature_bytes, lambda images: detector.collected_bytes(images, size), growing
    )


def _growing(experiment: Experiment, model: Detector, batch: Batch) -> Callable[[int], tuple[float, float]]:
    """Measure how a method of a single pass slows down with the number of images it has collected.

    Args:
        experiment: The experiment.
        model: A model of the method, which stays as it is.
        batch: A batch of noise.

    Returns:
        Number of images -> seconds of finishing, and seconds of scoring an image beyond those after one batch.
    """
    size, count = experiment.image_size, len(batch.images)
    before, after = model.growing_work(count, size), model.growing_work(MORE_BATCHES * count, size)
    if after == before:
        return lambda _: (0.0, 0.0)

    def collected(batches: int) -> tuple[float, float]:
        detector = type(model)(model.encoder, model.settings, CATEGORIES).to(batch.images.device)
        for _ in range(batches):
            detector.training_step(batch)
        synchronize(batch.images.device)
        started = time.perf_counter()
        detector.finish_training()
        synchronize(batch.images.device)
        finishing = time.perf_counter() - started
        return finishing, inference_seconds(detector.eval(), size, experiment.precision)

    (_, quick), (finishing, slow) = collected(1), collected(MORE_BATCHES)
    rate, slower = finishing / after[0] if after[0] else 0.0, max(0.0, slow - quick) / (after[1] - before[1])

    def seconds(images: int) -> tuple[float, float]:
        total, scoring = model.growing_work(images, size)
        return rate * total, slower * max(0.0, scoring - before[1])

    return seconds
