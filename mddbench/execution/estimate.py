"""Estimates the cost of a plan from a few timed steps.

Nothing is trained, and neither images nor weights are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from mddbench.detector import load_method, method_settings
from mddbench.engine.cost import inference_seconds, median_seconds, step_seconds
from mddbench.engine.memory import demand_memory
from mddbench.engine.step import TrainingStep
from mddbench.engine.train import TrainingImages, batches_per_epoch, bytes_per_image, epoch_batches, with_features
from mddbench.execution.cells import Cell
from mddbench.execution.plan import RunOptions, distinct_experiments, image_counts
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.feature_cache import GIB
from mddbench.progress import Reporter

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
        cache_mib: Size of the decoded images in MiB, None if the number of images is unknown.
        collected_mib: The most that a method of a single pass keeps at a time in MiB, None as above.
    """

    experiment: Experiment
    seeds: tuple[int, ...]
    train_images: int | None
    test_images: int | None
    step_seconds: float
    hours: float | None
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
        inference: Seconds of inference for one test image.
        feature_bytes: Bytes of the teacher's features of one image.
        collected_bytes: Number of images -> the most bytes that a single pass keeps at a time.
    """

    first: float
    later: float
    inference: float
    feature_bytes: int
    collected_bytes: Callable[[int], int]


def _estimate_of(experiment: Experiment, seeds: tuple[int, ...], options: RunOptions, times: _Times) -> Estimate:
    counts = image_counts(experiment.dataset, options, experiment.image_size)
    if counts is None:
        return Estimate(experiment, seeds, None, None, times.first, None, None, None)
    train, test = counts
    per_model = train if experiment.setting == "unified" else train / CATEGORIES  # images of one model, approximately
    step = times.later if per_model * times.feature_bytes <= options.feature_room * GIB else times.first
    steps = batches_per_epoch(train, experiment)
    seconds = steps * (times.first + (experiment.epochs - 1) * step) + test * times.inference
    size = (train + test) * experiment.image_size**2 * 4 / 2**20
    collected = times.collected_bytes(math.ceil(per_model)) / 2**20
    return Estimate(experiment, seeds, train, test, step, len(seeds) * seconds / 3600, size, collected)


def _timed(experiment: Experiment, options: RunOptions) -> _Times:
    """Measure an experiment on noise with untrained weights, which cost the same as images and trained weights."""
    method = load_method(experiment.method)
    encoder_settings = experiment.encoder
    encoder = FrozenEncoder(encoder_settings.name, encoder_settings.levels, encoder_settings.padding_for)
    settings = method_settings(method, experiment.settings, experiment.name)
    detector = method(encoder, settings, CATEGORIES).to(options.device).to(memory_format=torch.channels_last)
    size = experiment.image_size
    kept = "what the method keeps of a batch of images"
    demand_memory(detector.collected_bytes(experiment.batch_size, size), options.device, experiment.name, kept)
    noise = np.random.default_rng(0).integers(0, 256, (experiment.batch_size, size, size, 3), dtype=np.uint8)
    data = TrainingImages(noise, np.zeros(len(noise), dtype=np.int64), noise)
    step = TrainingStep(detector, experiment)
    batch = replace(next(epoch_batches(data, step.experiment, 0, step.device)), progress=MIDDLE)
    first = later = median_seconds(lambda: step_seconds(step, batch))
    if detector.asks_teacher:
        cached = with_features(batch, detector, experiment.precision)
        later = median_seconds(lambda: step_seconds(step, cached))
    detector.finish_training()  # a method of a single pass cannot score before
    inference = inference_seconds(detector.eval(), size, experiment.precision)
    feature_bytes = bytes_per_image(detector, data, experiment.precision)
    return _Times(first, later, inference, feature_bytes, lambda images: detector.collected_bytes(images, size))
