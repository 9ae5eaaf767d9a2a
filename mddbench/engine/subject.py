"""A method with small settings and a small encoder, on images of 64 pixels, to check what every method must do."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.errors import InputError
from mddbench.experiments.catalogue import experiment_names, load_experiment
from mddbench.experiments.schema import Experiment
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.plugins import METHODS, modules, nearest
from mddbench.seeding import seed_everything
from mddbench.settings import Strict
from mddbench.sizes import ImageSize, height_and_width

SIZE, IMAGES, CATEGORIES = 64, 4, 2
WIDE = (64, 96)
"""The size of images that are no squares."""


@dataclass(frozen=True)
class Subject:
    """A method that is checked.

    Attributes:
        name: Its name.
        method: Its class.
        settings: Its settings.
        encoder: A small encoder of the kind that it uses.
    """

    name: str
    method: type[Detector]
    settings: Strict
    encoder: FrozenEncoder

    @classmethod
    def of(cls, name: str) -> Subject:
        """Take a method as on the embedded dataset, whose images are small.

        Args:
            name: The method, or an experiment of *mini* that has it.

        Returns:
            The subject.

        Raises:
            InputError: If there is no such method or experiment.
        """
        if name not in modules(METHODS) and f"mini/{name}" not in experiment_names():
            raise InputError(
                f"unknown method '{name}'{nearest(name, modules(METHODS))}; `mddbench list methods` shows them"
            )
        experiment = load_experiment(f"mini/{name}")
        method = load_method(experiment.method)
        settings = method_settings(method, small_settings(experiment), name)
        return cls(name, method, settings, small_encoder(experiment) or default_encoder())

    def detector(self, seed: int = 0) -> Detector:
        """Build the untrained model, with an encoder of its own.

        Args:
            seed: The seed of its weights.

        Returns:
            The model.
        """
        seed_everything(seed)
        return self.method(deepcopy(self.encoder), self.settings, CATEGORIES)


@cache
def default_encoder() -> FrozenEncoder:
    """Load EfficientNet-Lite0, whose weights are installed with the suite."""
    return load_encoder("tf_efficientnet_lite0", (1, 2, 3), None)


def small_encoder(wanted: Experiment) -> FrozenEncoder | None:
    """Build timm's smallest vision transformer, without weights, in place of an experiment's own.

    Args:
        wanted: The experiment.

    Returns:
        The encoder; None if the experiment's is no vision transformer.
    """
    if not wanted.encoder.name.startswith("vit"):
        return None
    seed_everything(0)
    levels = enumerate(wanted.encoder.levels)
    few = tuple((2 * number, 2 * number + 1) if isinstance(level, tuple) else number for number, level in levels)
    options = wanted.encoder.options | {"padding_for": None}
    return FrozenEncoder("test_vit", few, **options)


def small_settings(wanted: Experiment) -> dict[str, Any]:
    """Return an experiment's settings of its method, for images of 64 pixels: 4 x 4 patches of `small_encoder`.

    Args:
        wanted: The experiment.

    Returns:
        Setting -> value.
    """
    grid = {"grid": 4} if wanted.encoder.name.startswith("vit") and "grid" in wanted.settings else {}
    return wanted.settings | grid


def sample_batch(size: ImageSize = SIZE) -> Batch:
    """Return four images of noise, (4, 3, H, W) in [0, 1], of two categories."""
    images = torch.rand(IMAGES, 3, *height_and_width(size), generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.tensor([0, 0, 1, 1]))


def train(detector: Detector, batch: Batch, steps: int) -> list[float]:
    """Train a model on one batch, by Adam, and end its training.

    Args:
        detector: The model. It is in evaluation mode afterwards.
        batch: The batch.
        steps: The number of steps.

    Returns:
        The loss of each step that had one.
    """
    detector.train()
    groups = [group for group in detector.parameter_groups(1e-3) if group["params"]]
    optimizer = torch.optim.Adam(groups) if groups else None
    losses = []
    for _ in range(steps):
        terms = detector.training_step(batch)
        if terms and optimizer is not None:
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    detector.finish_training()
    detector.eval()
    return losses
