"""Holds normal training images out of the training, so that thresholds can be set on them without test labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mddbench.data.dataset import Dataset, load_source
from mddbench.errors import InputError
from mddbench.experiments.schema import Experiment
from mddbench.seeding import derived_seed

VALIDATION = "validation"


def calibrated(dataset: Dataset, experiment: Experiment, seed: int) -> Dataset:
    """Divide the training images of a dataset as an experiment says.

    Args:
        dataset: The opened dataset.
        experiment: The experiment.
        seed: Seed of the cell. Which images are held out follows from it.

    Returns:
        The dataset with `calibration` and without these images in `train`; unchanged if none are to be held out.

    Raises:
        InputError: If the dataset has no validation images, or if a category would keep no image for one of the two.
    """
    share = experiment.calibration
    if share == 0:
        return dataset
    if isinstance(share, str):
        held, source = _validation_images(dataset), "the dataset's own validation images"
    else:
        held, source = _share(dataset, share, seed), f"{100 * share:g} % of the training images of each category"
    for category in dataset.categories:
        members = np.array([sample.category == category for sample in dataset.train.samples])
        if not (held & members).any() or not (~held & members).any():
            raise InputError(
                f"{experiment.name}: calibration: {share} holds out {np.count_nonzero(held & members)} of the "
                f"{np.count_nonzero(members)} training images of '{category}'; expected at least one held out and one "
                "trained on; use another share"
            )
    train, calibration = dataset.train.pick(~held), dataset.train.pick(held)
    return replace(dataset, train=train, calibration=calibration, calibration_source=source)


def _validation_images(dataset: Dataset) -> NDArray[np.bool_]:
    """Find the training images of the dataset's own validation split: (N,) bool."""
    belongs = load_source(dataset.name).validation
    if belongs is None:
        raise InputError(
            f"{dataset.name}: calibration: validation: the dataset has no validation images; expected a share such as 0.1"
        )
    return np.array([belongs(sample.image) for sample in dataset.train.samples])


def _share(dataset: Dataset, share: float, seed: int) -> NDArray[np.bool_]:
    """Draw a share of the training images of each category: (N,) bool."""
    held = np.zeros(len(dataset.train), dtype=np.bool_)
    for category in dataset.categories:
        members = np.array([index for index, s in enumerate(dataset.train.samples) if s.category == category])
        generator = np.random.default_rng(derived_seed(seed, "calibration", category))
        held[generator.permutation(members)[: round(share * len(members))]] = True
    return held
