"""What all scripts of this folder measure: an experiment's model, and images of noise."""

from __future__ import annotations

import numpy as np
import torch

from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.batches import TrainingImages
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import NO_ENCODER, FrozenEncoder, load_encoder
from mddbench.seeding import seed_everything
from mddbench.sizes import height_and_width

CATEGORIES = 8


def build(experiment: Experiment, random_weights: bool = False) -> Detector:
    """The experiment's model on the CPU, always with the same weights.

    random_weights: the encoder's are drawn, not loaded, which costs the same time; for a machine without the files.
    """
    seed_everything(0)
    method, wanted = load_method(experiment.method), experiment.encoder
    if random_weights and wanted.name != NO_ENCODER:
        encoder = FrozenEncoder(wanted.name, wanted.levels, **wanted.options)
    else:
        encoder = load_encoder(wanted.name, wanted.levels, None, **wanted.options)
    return method(encoder, method_settings(method, experiment.settings, experiment.name), CATEGORIES)


def built_our_way(experiment: Experiment, device: torch.device, random_weights: bool = False) -> Detector:
    """The experiment's model as a run has it on a device."""
    detector = build(experiment, random_weights)
    return detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def noise(experiment: Experiment, images: int) -> TrainingImages:
    """So many images of nothing."""
    size = height_and_width(experiment.image_size)
    pixels = np.random.default_rng(0).integers(0, 256, (images, *size, 3), dtype=np.uint8)
    return TrainingImages(pixels, np.arange(images) % CATEGORIES)
