"""The training images, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.batch import Batch, as_images
from mddbench.engine.device import autocast
from mddbench.engine.uploads import Upload, Uploader, is_asynchronous, one_ahead
from mddbench.experiments.schema import Experiment
from mddbench.nn.feature_cache import FeatureCache


@dataclass(frozen=True)
class TrainingImages:
    """All the data that a training may use.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, normal images, and the defective ones that `contamination` adds.
        categories: (N,) int64, index of each image's category.
        textures: (T, S, S, 3) uint8 RGB, pictures of any kind; None unless the method wants them.
    """

    images: NDArray[np.uint8]
    categories: NDArray[np.int64]
    textures: NDArray[np.uint8] | None = None


def batches_per_epoch(images: int, experiment: Experiment) -> int:
    """Count the batches of an epoch of that many images: only full ones with `drop_last`, but always at least one."""
    full_batches, remainder = divmod(images, experiment.batch_size)
    return max(1, full_batches if experiment.drop_last else full_batches + bool(remainder))


def epoch_batches(
    data: TrainingImages,
    experiment: Experiment,
    seed: int,
    device: torch.device,
    cache: FeatureCache | None = None,
    first: int = 0,
) -> Iterator[Batch]:
    """Draw the batches of one epoch. On a GPU, the next batch is copied while one is trained.

    Args:
        data: The training images.
        experiment: The experiment.
        seed: Seed for the order of the images, and for the choice of textures.
        device: Device of the batches.
        cache: Cache for the teacher's features; None if batches have no features.
        first: Number of batches to leave out, which were trained before an interruption.

    Yields:
        The batches.
    """
    uploads = _uploads(data, experiment, seed, device, first)
    for indices, upload in one_ahead(uploads) if is_asynchronous(device) else uploads:
        pixels, categories, *textures = upload.wait()
        images, features = as_images(pixels, device), None
        if cache is not None:
            with autocast(device, experiment.precision):
                features = tuple(cache.features(indices, images))
        yield Batch(images, categories, as_images(textures[0], device) if textures else None, features)


def _uploads(
    data: TrainingImages, experiment: Experiment, seed: int, device: torch.device, first: int
) -> Iterator[tuple[NDArray[np.int64], Upload]]:
    """Draw the images of each batch, and begin to copy their pixels, categories and textures to the device."""
    uploader, generator = Uploader(device), np.random.default_rng(seed)
    order = generator.permutation(len(data.images))
    for index in range(batches_per_epoch(len(order), experiment)):
        indices = order[index * experiment.batch_size : (index + 1) * experiment.batch_size]
        chosen = generator.integers(len(data.textures), size=len(indices)) if data.textures is not None else None
        if index < first:
            continue
        textures = (data.textures[chosen],) if data.textures is not None else ()
        yield indices, uploader.begin(data.images[indices], data.categories[indices], *textures)
