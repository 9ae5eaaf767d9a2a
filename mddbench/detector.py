"""What a method is: one class, two methods of its own. The loop, the evaluation and the tests know nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.plugins import METHODS, load_module
from mddbench.settings import Strict, validated

LONGEST_LABEL = 70
"""Of a method's label in letters; a record's may say more."""
NO_LOSS = "its training_step returns no loss; a method that only collects says `single_pass = True`"
ONLY_COLLECTS = "it says `single_pass`, but its training_step returns losses"


class Detector(nn.Module, ABC):
    """Learns from normal images; scores every pixel of an image. Higher is more anomalous.

    label: the method's name in tables; version: raise it whenever the same settings and seed would give other results,
    so that finished cells are not taken for up to date; Settings: the method's own settings with their defaults.
    image_score_rule, smoothing: what the protocol card says of them.
    network: what of the network follows from the encoder by more than its channels; in the card and the identity unless ''.
    learned_from: where the learned weights came from, unless they were trained here; in the card and the identity then.
    asks_teacher: whether training asks for the teacher's features of the images as they are (`teacher`), so that remembering
    them pays.
    single_pass: whether the method only collects: it sees each training image once, all of them, without an optimiser, its
    `training_step` returns {}, and `finish_training` builds what it learned. Such a pass is never resumed half-way.
    What a step of any other method leaves for a later one lies in parameters and buffers: a checkpoint holds nothing else.
    told_category: the category of the images that `anomaly_maps` gets next, where `wants_test_labels`; else None always.
    """

    label: ClassVar[str]
    version: ClassVar[int]
    Settings: ClassVar[type[Strict]]
    image_score_rule: str = "max of the map"
    smoothing: str = "none"
    network: str = ""
    learned_from: str = ""
    asks_teacher: ClassVar[bool] = False
    single_pass: ClassVar[bool] = False
    told_category: int | None = None

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        """encoder: the frozen teacher; settings: an instance of `Settings`; categories: how many the training set has.

        Raises InputError if the encoder does not suit the method.
        """
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.categories = categories

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar loss terms, which the loop sums; {} if the method only collects (`single_pass`)."""

    @abstractmethod
    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, H, W), final: smoothed if the method smooths. No label, no mask."""

    def teacher(self, batch: Batch) -> list[Tensor]:
        """The teacher's features of a training batch's images, shallow to deep, remembered or computed."""
        return list(batch.features) if batch.features is not None else self.encoder(batch.images)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) -> (B,)."""
        return maps.flatten(1).amax(dim=1)

    def finish_training(self) -> None:
        """Called once after the last epoch, for a method that builds something from what it collected."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers worth a curve beside the losses, asked for after each epoch; names are plain words with '_'."""
        return {}

    @classmethod
    def training_settings(cls, settings: Any) -> dict[str, Any]:
        """What of the settings training depends on: cells that agree in it share one trained model. All, unless a method knows
        better.
        """
        found: dict[str, Any] = settings.model_dump(mode="json")
        return found

    @classmethod
    def wants_textures(cls, settings: Any) -> bool:  # noqa: ARG003
        """Whether `Batch.textures` is needed, with these settings."""
        return False

    @property
    def wants_test_labels(self) -> bool:
        """Whether the method is told each test image's category: an upper bound, marked as such in every table."""
        return False

    def parameter_groups(self, lr: float) -> Iterable[dict[str, Any]]:
        """Groups for the optimiser, each with its learning rate; by default all trainable parameters."""
        return [{"params": [value for value in self.parameters() if value.requires_grad], "lr": lr}]

    def learned_state(self) -> dict[str, Tensor]:
        """The state dict without the encoder, whose weights the record names by hash."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}

    def load_authors_state(self, content: Any, where: str) -> None:  # noqa: ARG002
        """Take what a file of the method's authors holds. content: tensors in dicts, under the authors' names; where: the file.

        Raises InputError if it is another network's, and for a method whose authors' files are not known.
        """
        raise InputError(f"{where}: {self.label} reads no weights that others trained")

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `learned_state` gave; the buffers of a single pass take the shapes that they had.

        Raises RuntimeError if it is another model's.
        """
        places = {
            f"{owner}.{leaf}" if owner else leaf: (module, leaf)
            for owner, module in self.named_modules()
            for leaf in set(module._buffers) - module._non_persistent_buffers_set
        }
        known = {name for name in (*self.state_dict(), *places) if not name.startswith("encoder.")}
        missing = [name for name in known - set(state) if name not in places or self._has(*places[name])]
        unexpected = sorted(set(state) - known)
        if missing or unexpected:
            raise RuntimeError(f"the saved state does not fit: missing {sorted(missing)}, unexpected {unexpected}")
        if self.single_pass:  # it has collected as many as there were
            device = next(self.encoder.parameters()).device
            for name in set(state) & set(places):
                module, leaf = places[name]
                setattr(module, leaf, torch.empty_like(state[name], device=device))
        self.load_state_dict(state, strict=False)

    @staticmethod
    def _has(module: nn.Module, buffer: str) -> bool:
        return module._buffers[buffer] is not None


def load_method(name: str) -> type[Detector]:
    """The one Detector defined in the method's file, or in `detector.py` of its folder. Raises InputError for an unknown
    name.
    """
    module = load_module(name, METHODS)
    if hasattr(module, "__path__"):
        module = import_module(f"{module.__name__}.detector")
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Detector) and item.__module__.startswith(module.__name__)
    ]
    if len(found) != 1:
        raise InputError(f"'{name}' ({module.__name__}): expected one subclass of Detector in it, found {len(found)}")
    label = found[0].label
    if not 1 <= len(label) <= LONGEST_LABEL:
        raise InputError(f"'{name}': its label has {len(label)} letters, expected 1 to {LONGEST_LABEL}: {label[:80]!r}")
    return found[0]


def method_settings(method: type[Detector], raw: dict[str, Any], where: str) -> Strict:
    """The method's settings from an experiment's `settings`. Raises InputError for an unknown or unfit one."""
    return validated(method.Settings, raw, f"{where}: settings")
