"""What a plan would cost, from timed steps: nothing is trained, and neither images nor weights are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mddbench.detector import load_method, method_settings
from mddbench.engine.cost import inference_seconds, median_seconds
from mddbench.engine.train import Trainer, TrainingImages, batches_per_epoch
from mddbench.execution.cells import Cell
from mddbench.execution.plan import RunOptions, distinct_experiments, image_counts
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.feature_cache import GIB
from mddbench.progress import Reporter

CATEGORIES = 15
"""Of the model that is timed; hardly anything depends on their number."""


@dataclass(frozen=True)
class Estimate:
    """One experiment of a plan. Images and times are None if the number of images is not known; hours are for all its cells."""

    experiment: Experiment
    seeds: tuple[int, ...]
    train_images: int | None
    test_images: int | None
    step_seconds: float
    hours: float | None
    cache_mib: float | None


def estimate(cells: list[Cell], options: RunOptions, reporter: Reporter) -> list[Estimate]:
    """An estimate for each experiment among the cells, in their order."""
    estimates = []
    timed: dict[str, _Times] = {}
    for experiment in distinct_experiments(cells):
        alike = experiment.model_dump_json(
            exclude={"name", "dataset", "seeds", "epochs", "schedule", "overrides", "reported"}
        )
        if alike not in timed:
            reporter.say(f"timing {experiment.name}")
            timed[alike] = _timed(experiment, options)
        seeds = tuple(cell.seed for cell in cells if cell.experiment == experiment)
        estimates.append(_one(experiment, seeds, options, timed[alike]))
    return estimates


@dataclass(frozen=True)
class _Times:
    """Seconds of a step of the first epoch, of a later one if the teacher's features are remembered, and of a test image;
    bytes of one image's features.
    """

    first: float
    later: float
    inference: float
    feature_bytes: int


def _one(experiment: Experiment, seeds: tuple[int, ...], options: RunOptions, times: _Times) -> Estimate:
    counts = image_counts(experiment.dataset, options, experiment.image_size)
    if counts is None:
        return Estimate(experiment, seeds, None, None, times.first, None, None)
    train, test = counts
    at_once = train if experiment.setting == "unified" else train / CATEGORIES  # images of a model, about
    step = times.later if at_once * times.feature_bytes <= options.feature_room * GIB else times.first
    steps = batches_per_epoch(train, experiment)
    seconds = steps * (times.first + (experiment.epochs - 1) * step) + test * times.inference
    size = (train + test) * experiment.image_size**2 * 4 / 2**20
    return Estimate(experiment, seeds, train, test, step, len(seeds) * seconds / 3600, size)


def _timed(experiment: Experiment, options: RunOptions) -> _Times:
    """On noise and untrained weights, which cost the same."""
    method = load_method(experiment.method)
    chosen = experiment.encoder
    encoder = FrozenEncoder(chosen.name, chosen.levels, chosen.padding_for)
    settings = method_settings(method, experiment.settings, experiment.name)
    detector = method(encoder, settings, CATEGORIES).to(options.device).to(memory_format=torch.channels_last)
    size = experiment.image_size
    noise = np.random.default_rng(0).integers(0, 256, (experiment.batch_size, size, size, 3), dtype=np.uint8)
    data = TrainingImages(noise, np.zeros(len(noise), dtype=np.int64), noise)
    trainer = Trainer(detector, experiment, 0, Path("unused"))
    first = later = median_seconds(lambda: trainer.time_steps(data, 1))
    if detector.asks_teacher:
        later = median_seconds(lambda: trainer.time_steps(data, 1, remembered=True))
    inference = inference_seconds(detector.eval(), size, experiment.precision)
    return _Times(first, later, inference, trainer.feature_bytes(data, 1))
