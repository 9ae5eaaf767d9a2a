"""The base class of all methods.

A method is one class with two methods of its own: `training_step` and `anomaly_maps`.
The training loop, the evaluation and the tests know a method only through this class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, get_args, get_origin

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from mddbench.batch import Batch
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single
from mddbench.nn.saved_state import load_saved_state, without_encoder
from mddbench.plugins import METHODS, load_module
from mddbench.settings import Strict, validated
from mddbench.sizes import ImageSize

LONGEST_LABEL = 70
"""Greatest length of a method's label in letters. The label in a record may be longer."""
NO_LOSS = "its training_step returns no loss; a method that only collects says `single_pass = True`"
ONLY_COLLECTS = "it says `single_pass`, but its training_step returns losses"
NO_CATEGORY = (
    "it says `wants_test_labels`, so it needs anomaly_maps_of(images, category); the category is an argument, and "
    "`told_category` is gone"
)
MethodSettings = TypeVar("MethodSettings", bound=Strict, default=Any)
"""The settings of a method."""


class Detector(nn.Module, ABC, Generic[MethodSettings]):
    """A method that learns from normal images and scores every pixel of an image. Higher scores are more anomalous.

    A step of a method may leave something for a later step only in parameters and buffers.
    A checkpoint holds nothing else. A single pass is an exception, because it is never resumed half-way.

    Attributes:
        label: Name of the method in tables. An instance may have another one, for a variant of the method.
        version: Version of the method. Raise it whenever the same settings and seed would give other results.
            Otherwise finished cells would wrongly count as up to date.
        Settings: Class of the method's own settings, with their defaults. It follows from `Detector[MySettings]`.
        image_score_rule: Text of the protocol card that says how an image score is computed.
        smoothing: Text of the protocol card that says how maps are smoothed.
        network: Text about the parts of the network that depend on more of the encoder than its channels.
            The protocol card and the cell's identity include it unless it is ''.
        learned_from: Source of the learned weights if they were not trained here, otherwise ''.
            The protocol card and the cell's identity include it unless it is ''.
        asks_teacher: True if training asks `teacher` for the features of the unchanged images. Then a cache saves time.
        single_pass: True if the method only collects. It then sees every training image exactly once, without an
            optimiser. Its `training_step` returns {}, and its `finish_training` builds what it learned.
        brings_optimizer: True if the method makes its own optimiser, by `own_optimizer`. That of the experiment is then
            not used, its schedule is.
        uses_encoder: False if the method learns from the pixels alone. Its experiments then have the encoder 'none'.
        takes_prefix_tokens: True if the method can use class and register tokens, which then follow the levels in the
            teacher's features.
        encoder: The frozen teacher.
        settings: The settings of this instance, of class `Settings`.
        categories: Number of categories of the training set.
    """

    label: str
    version: ClassVar[int]
    Settings: ClassVar[type[Strict]]
    image_score_rule: str = "max of the map"
    smoothing: str = "none"
    network: str = ""
    learned_from: str = ""
    asks_teacher: ClassVar[bool] = False
    single_pass: ClassVar[bool] = False
    brings_optimizer: ClassVar[bool] = False
    uses_encoder: ClassVar[bool] = True
    takes_prefix_tokens: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Take the class of the settings from the base class `Detector[MySettings]`."""
        super().__init_subclass__(**options)
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin = get_origin(base)
            plain = [each for each in get_args(base) if isinstance(each, type) and get_origin(each) is None]
            settings = [each for each in plain if issubclass(each, Strict)]
            if (
                isinstance(origin, type)
                and issubclass(origin, Detector)
                and settings
                and "Settings" not in cls.__dict__
            ):
                cls.Settings = settings[0]

    def __init__(self, encoder: FrozenEncoder, settings: MethodSettings, categories: int) -> None:
        """Create an untrained detector.

        A subclass raises InputError if the encoder does not suit the method.

        Args:
            encoder: The frozen teacher.
            settings: An instance of `Settings`.
            categories: Number of categories of the training set.
        """
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.categories = categories

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: Normal training images.

        Returns:
            Name -> scalar loss term. The training loop adds the terms.
            {} if the method only collects (`single_pass`).
        """

    @abstractmethod
    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the final anomaly maps of images. The method gets neither labels nor masks.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W) scores, already smoothed if the method smooths.
        """

    def anomaly_maps_of(self, images: Tensor, category: int) -> Tensor:  # noqa: ARG002
        """Compute the final anomaly maps of images of a known category: an upper bound, if `wants_test_labels` is true.

        Args:
            images: (B, 3, H, W) in [0, 1].
            category: Index of their category.

        Returns:
            (B, H, W) scores, as from `anomaly_maps`.
        """
        return self.anomaly_maps(images)

    def teacher(self, batch: Batch) -> list[Tensor]:
        """Return the teacher's features of the images of a training batch, from the cache or newly computed.

        Args:
            batch: Normal training images.

        Returns:
            The features of each level, shallow to deep.
        """
        return list(batch.features) if batch.features is not None else self.encoder(batch.images)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute image scores from anomaly maps.

        Args:
            maps: (B, H, W) anomaly maps.

        Returns:
            (B,) scores, higher is more anomalous.
        """
        return maps.flatten(1).amax(dim=1)

    def maps_and_scores(self, images: Tensor, category: int = 0) -> tuple[Tensor, Tensor]:
        """Compute all that is evaluated. A method whose image scores need more than the maps has this one of its own.

        Args:
            images: (B, 3, H, W) in [0, 1].
            category: Index of their category. Only a method that asks for test labels is told it.

        Returns:
            (B, H, W) maps and (B,) image scores, in the method's type, but at least float32.
        """
        if self.wants_test_labels:
            maps = at_least_single(self.anomaly_maps_of(images, min(category, self.categories - 1)))
        else:
            maps = at_least_single(self.anomaly_maps(images))
        return maps, at_least_single(self.image_scores(maps))

    def finish_training(self) -> None:
        """Build something from the collected data. The training loop calls this once, after the last epoch."""

    def collected_bytes(self, images: int, image_size: ImageSize) -> int:  # noqa: ARG002
        """Return the most bytes that are collected at a time, so that the need is known before the training starts.

        Args:
            images: Number of training images.
            image_size: The size of the images: a side, or (height, width).

        Returns:
            Number of bytes; 0 unless a subclass says otherwise.
        """
        return 0

    def growing_work(self, images: int, image_size: ImageSize) -> tuple[float, float]:  # noqa: ARG002
        """Return work that grows with the number of training images, so that a dry run can scale what it timed.

        Args:
            images: Number of training images.
            image_size: The size of the images: a side, or (height, width).

        Returns:
            The work of `finish_training`, and the part of scoring an image that grows, each in a unit of its own.
            (0, 0) unless a subclass says otherwise.
        """
        return 0.0, 0.0

    def diagnostics(self) -> dict[str, float]:
        """Return numbers to plot beside the losses, after each epoch.

        Returns:
            Name -> number. Names are plain words with '_'.
        """
        return {}

    @classmethod
    def training_settings(cls, settings: MethodSettings) -> dict[str, Any]:
        """Return the settings that training depends on. Cells that agree in them share one trained model.

        Args:
            settings: An instance of `Settings`.

        Returns:
            Name -> JSON value. These are all settings, unless a subclass leaves some out.
        """
        values: dict[str, Any] = settings.model_dump(mode="json")
        return values

    @classmethod
    def wants_textures(cls, settings: MethodSettings) -> bool:  # noqa: ARG003
        """Return True if the method needs `Batch.textures` with these settings.

        Args:
            settings: An instance of `Settings`.

        Returns:
            False, unless a subclass says otherwise.
        """
        return False

    @property
    def wants_test_labels(self) -> bool:
        """True if the method gets the category of each test image. Every table marks its results as an upper bound."""
        return False

    def parameter_groups(self, lr: float) -> Iterable[dict[str, Any]]:
        """Return the parameter groups for the optimiser.

        Args:
            lr: Base learning rate of the experiment.

        Returns:
            Groups as PyTorch's optimisers take them, each with its learning rate.
            A group may also have a weight decay and betas of its own.
            A parameter without a gradient in a step stays as it is, so a loss that leaves it out freezes it.
            By default there is one group of all trainable parameters.
        """
        return [{"params": [value for value in self.parameters() if value.requires_grad], "lr": lr}]

    def own_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser of a method that says `brings_optimizer`, with its base learning rates.

        Returns:
            A new optimiser.

        Raises:
            NotImplementedError: Unless a subclass has one.
        """
        raise NotImplementedError(f"{type(self).__name__} says brings_optimizer, so it needs own_optimizer()")

    @classmethod
    def shrunk(cls, settings: MethodSettings) -> MethodSettings:
        """Return settings for images of 64 pixels with which checks can train the method in seconds.

        Args:
            settings: An instance of `Settings`.

        Returns:
            The settings themselves, unless a subclass has large networks.
        """
        return settings

    @classmethod
    def demand_weights(cls, weights: Path | None) -> None:
        """Check that the files that `start_from` reads are there, before a model is built. Else raise InputError.

        Args:
            weights: What --weights-dir names; None if it was not given.
        """

    def start_from(self, weights: Path | None) -> None:
        """Load pre-trained weights that the training starts from, beside the encoder's. By default there are none.

        This is called once, before anything is trained. What was loaded should be told by its hash in `network`.
        A subclass raises InputError if they do not fit.

        Args:
            weights: What --weights-dir names; None if it was not given.
        """

    def learned_state(self) -> dict[str, Tensor]:
        """Return the state dict without the encoder, whose weights the record identifies by their hash."""
        return without_encoder(self)

    def load_authors_state(self, content: Any, where: str) -> None:  # noqa: ARG002
        """Load the content of a weights file from the authors of the method.

        Args:
            content: Tensors in dicts, under the authors' names.
            where: Name of the file, for error messages.

        Raises:
            InputError: If the weights belong to another network, or if the authors' files are unknown for this method.
        """
        raise InputError(f"{where}: {self.label} reads no weights that others trained")

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Load what `learned_state` returned, as in `load_saved_state`. After a single pass all buffers are reshaped.

        Args:
            state: Name -> tensor, without the encoder.
        """
        load_saved_state(self, state, self.single_pass, self.encoder.mean.device)


def load_method(name: str) -> type[Detector]:
    """Load the class of a method: the one Detector in the method's file, or in `detector.py` of its folder.

    Args:
        name: Name of the method, which is the name of its file or folder.

    Returns:
        The class.

    Raises:
        InputError: If the name is unknown, the file has no or several detectors, the label is unfit, or it
            has no settings.
    """
    module = load_module(name, METHODS)
    if hasattr(module, "__path__"):
        module = import_module(f"{module.__name__}.detector")
    detectors = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Detector) and item.__module__.startswith(module.__name__)
    ]
    if len(detectors) != 1:
        raise InputError(
            f"'{name}' ({module.__name__}): expected one subclass of Detector in it, found {len(detectors)}"
        )
    label = detectors[0].label
    if not 1 <= len(label) <= LONGEST_LABEL:
        raise InputError(f"'{name}': its label has {len(label)} letters, expected 1 to {LONGEST_LABEL}: {label[:80]!r}")
    if not hasattr(detectors[0], "Settings"):
        raise InputError(
            f"'{name}': its settings are not known; write `class {detectors[0].__name__}(Detector[MySettings])`"
        )
    return detectors[0]


def method_settings(method: type[Detector], raw: dict[str, Any], source: str) -> Strict:
    """Validate the method's own settings from the `settings` of an experiment.

    An InputError is raised if a setting is unknown or its value is not allowed.

    Args:
        method: Class of the method.
        raw: Setting -> value, as in the YAML file.
        source: Name of the experiment or its file, for error messages.

    Returns:
        An instance of the method's `Settings`.
    """
    return validated(method.Settings, raw, f"{source}: settings")
