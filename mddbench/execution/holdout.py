"""Choosing settings without test data: some normal training images are held out and get drawn defects.

The results say nothing about real defects, which nobody drew. They are meant for settings, not for tables.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch

from mddbench.data.dataset import Dataset, Split
from mddbench.data.samples import Sample
from mddbench.errors import InputError
from mddbench.nn.synthesis import KINDS, SynthesisSettings, synthesise
from mddbench.seeding import derived_seed

FOLDS = 4
VERSION = 2
DRAWN = "drawn-"


def hold_out(dataset: Dataset) -> Dataset:
    """Make a dataset for choosing settings from the training images of another dataset.

    Three quarters of the training images of each category remain training images.
    The others become test images: each once as it is, and once with each kind of drawn defect.
    No image of the original test split is used.

    Args:
        dataset: The original dataset.

    Returns:
        The new dataset.

    Raises:
        InputError: If a category has fewer than FOLDS training images.
    """
    held = np.zeros(len(dataset.train), dtype=np.bool_)
    for category in dataset.categories:
        members = [index for index, sample in enumerate(dataset.train.samples) if sample.category == category]
        if len(members) < FOLDS:
            raise InputError(
                f"{dataset.name}: holding out needs {FOLDS} training images, '{category}' has {len(members)}"
            )
        held[members[::FOLDS]] = True
    fingerprint = hashlib.sha256(f"{dataset.fingerprint} held out {FOLDS} {VERSION}".encode()).hexdigest()
    train, test = _subset(dataset.train, ~held), _with_defects(_subset(dataset.train, held))
    return replace(dataset, fingerprint=fingerprint, train=train, test=test, regions=None)


def is_held_out(dataset: Dataset) -> bool:
    """Check whether `hold_out` made a dataset.

    Args:
        dataset: The dataset.

    Returns:
        True if its test images have drawn defects.
    """
    return any(sample.defect.startswith(DRAWN) for sample in dataset.test.samples)


def _subset(split: Split, selected: np.ndarray) -> Split:
    """Return the images of a split for which `selected` (N,) is True."""
    samples = tuple(sample for sample, keep in zip(split.samples, selected, strict=True) if keep)
    return Split(samples, np.asarray(split.images)[selected], np.asarray(split.masks)[selected])


def _with_defects(split: Split) -> Split:
    """Add defective copies after each image. They are drawn from a fixed seed for each kind of defect."""
    images = torch.from_numpy(np.array(split.images)).permute(0, 3, 1, 2).float() / 255
    index = {category: number for number, category in enumerate(sorted({sample.category for sample in split.samples}))}
    categories = torch.tensor([index[sample.category] for sample in split.samples])
    pixels, masks = [split.images], [split.masks]
    samples = [split.samples]
    with torch.random.fork_rng(devices=[]):
        for kind in KINDS:
            torch.manual_seed(derived_seed(0, f"hold out {kind}"))
            defective, defect_masks = synthesise(images, categories, SynthesisSettings(kinds=(kind,)))
            pixels.append((defective * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
            masks.append(defect_masks.numpy())
            samples.append(tuple(_defective(sample, kind) for sample in split.samples))
    order = np.arange(len(split) * (1 + len(KINDS))).reshape(1 + len(KINDS), -1).T.reshape(-1)
    all_samples = [sample for copies in samples for sample in copies]
    ordered = tuple(all_samples[position] for position in order)
    return Split(ordered, np.concatenate(pixels)[order], np.concatenate(masks)[order])


def _defective(sample: Sample, kind: str) -> Sample:
    return replace(sample, split="test", defect=f"{DRAWN}{kind}", masks=(sample.image,), item="")
