"""Builds the models of experiments, and tries whether they can be trained here."""

from __future__ import annotations

import torch

from mddbench.batch import Batch
from mddbench.data.dataset import Dataset
from mddbench.detector import NO_CATEGORY, NO_LOSS, ONLY_COLLECTS, Detector, load_method, method_settings
from mddbench.engine.device import autocast
from mddbench.engine.foreign import OPTION, load_authors_models
from mddbench.engine.inference import BATCH_SIZE
from mddbench.engine.memory import SavedForBackward, bytes_of_batch, bytes_of_model, demand_memory
from mddbench.engine.optimizer import make_optimizer
from mddbench.errors import InputError
from mddbench.execution.grouping import models_of, per_model
from mddbench.execution.options import RunOptions
from mddbench.execution.protocol import protocol_card, training_sets
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import load_encoder
from mddbench.seeding import derived_seed, seed_everything
from mddbench.settings import Strict
from mddbench.sizes import height_and_width, shown_size, written_size

LAST = 0.999
"""Share of the training that is done when a step of the last phase is tried."""


def method_of(experiment: Experiment) -> tuple[type[Detector], Strict]:
    """Return the class of an experiment's method and the method's settings."""
    method = load_method(experiment.method)
    return method, method_settings(method, experiment.settings, experiment.name)


def build_detector(experiment: Experiment, dataset: Dataset, options: RunOptions, seed: int) -> Detector:
    """Build the detector of an experiment, untrained, with the weights of its teacher.

    The random generator is seeded after the teacher is built, because building it draws random numbers.
    An InputError is also raised if the weights alone take more memory than the device has.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.
        options: Options of the run.
        seed: Seed of the cell.

    Returns:
        The detector on its device. With `from_checkpoint`, the weights of all models are loaded once, as a check.

    Raises:
        InputError: If weights from a file are wanted for models that no file holds.
    """
    method, settings = method_of(experiment)
    teacher = experiment.encoder
    encoder = load_encoder(teacher.name, teacher.levels, options.weights_dir, teacher.sha256, **teacher.options)
    models = models_of(experiment, dataset)
    categories = per_model(models)
    needed = bytes_of_model(lambda: method(encoder, settings, categories), experiment.optimizer.name)
    demand_memory(needed, options.device, experiment.name, "the model, with what training keeps of its weights,")
    seed_everything(derived_seed(seed, "initial weights"))
    detector = method(encoder, settings, categories).to(options.device).to(memory_format=torch.channels_last)
    if options.from_checkpoint is not None:  # loading all files checks every one of them
        if experiment.categories_per_model is not None:
            raise InputError(
                f"{experiment.name}: {OPTION} goes without categories_per_model; no file holds such models"
            )
        for _ in load_authors_models(detector, options.from_checkpoint, tuple(models)):
            pass
    return detector


def try_one_batch(experiment: Experiment, dataset: Dataset, options: RunOptions) -> Detector:
    """Build the detector and run one batch through it.

    The batch is as small as the smallest batch of the training, and has two images at most.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.
        options: Options of the run.

    Returns:
        The detector. Its weights are untouched.

    Raises:
        InputError: If this fails, or if the memory it takes shows that a full batch cannot fit.
    """
    totals, size, side = training_sets(experiment, dataset), experiment.batch_size, experiment.image_size
    total = min(totals)
    smallest = min(total, size) if experiment.drop_last or total < size else total % size or size
    full = min(size, len(dataset.train))
    purpose = f"a batch of {full} images of {shown_size(side)} pixels"
    try:
        detector = build_detector(experiment, dataset, options, experiment.seeds[0])
        stride = detector.encoder.strides[0] if detector.encoder.has_tokens else 1
        if any(length % stride for length in height_and_width(side)):
            raise InputError(
                f"{experiment.name}: image_size {written_size(side)} does not fit '{experiment.encoder.name}', whose patches "
                f"have {stride} pixels; use a multiple"
            )
        protocol_card(experiment, detector, dataset)
        demand_room(experiment, detector, dataset, options)
        images = torch.zeros(min(smallest, 2), 3, *height_and_width(side), device=options.device)
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
                if detector.wants_test_labels and type(detector).anomaly_maps_of is Detector.anomaly_maps_of:
                    raise InputError(f"{experiment.method}: {NO_CATEGORY}")
                detector.maps_and_scores(images[:1])
    except (RuntimeError, ValueError, AssertionError, AttributeError, MemoryError) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(f"{experiment.name}: the method cannot be trained with these settings ({reason})") from None
    most = max(saved.bytes, saved_later.bytes)
    demand_memory(most * full // len(images), options.device, experiment.name, purpose)
    return detector


def demand_room(experiment: Experiment, detector: Detector, dataset: Dataset, options: RunOptions) -> None:
    """Check by computing alone that the device has memory for a batch, for evaluating and for what a single pass keeps.

    An InputError is raised if it has not.

    Args:
        experiment: The experiment.
        detector: Its detector.
        dataset: Its opened dataset.
        options: Options of the run.
    """
    side, totals = experiment.image_size, training_sets(experiment, dataset)
    batch, at_once = min(experiment.batch_size, len(dataset.train)), min(BATCH_SIZE, len(dataset.test))
    for needed, purpose in (
        (bytes_of_batch(detector.encoder, batch, side), f"a batch of {batch} images of {shown_size(side)} pixels"),
        (
            bytes_of_batch(detector.encoder, at_once, side),
            f"evaluating {at_once} images of {shown_size(side)} pixels at once",
        ),
        (detector.collected_bytes(max(totals), side), f"what the method keeps of {max(totals)} images"),
    ):
        demand_memory(needed, options.device, experiment.name, purpose)


def _one_step(detector: Detector, batch: Batch, experiment: Experiment) -> None:
    """Run a training step. Raise InputError if it returns losses although the method only collects, or vice versa."""
    make_optimizer(detector, experiment.optimizer)
    terms = detector.train().training_step(batch)
    if bool(terms) == detector.single_pass:
        raise InputError(f"{experiment.method}: {ONLY_COLLECTS if terms else NO_LOSS}")
