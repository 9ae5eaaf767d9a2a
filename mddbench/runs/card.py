"""The protocol card of a cell: what a reader must know to compare two numbers.

A field says by its role what it decides. Its place in the class is its place in a table.
A new field should be set only for the cells that it concerns, because a field that is set changes their identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from mddbench.runs.bounds import LARGEST, LONGEST_TEXT, Natural, small_value
from mddbench.settings import Strict
from mddbench.sizes import shown_size

UPPER_BOUND = "given: an upper bound"
"""Value of `test_labels` where the method was given the category of each test image."""
SEEN_ONCE = "one pass"
"""Value of `epochs` where the method sees each training image exactly once, whatever the budget of the others."""


Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class Role(Enum):
    """What a field of a protocol card decides.

    TASK: the task, its budget and how it is judged. Rows that share a table must agree in it.
    RECIPE: how the method does it. A table says where rows differ.
    DERIVED: follows from the rest, or says where weights came from. It is no part of a cell's identity.
    """

    TASK = "task"
    RECIPE = "recipe"
    DERIVED = "derived"


@dataclass(frozen=True)
class CardField:
    """How a field of a protocol card is used.

    Attributes:
        role: What it decides.
        label: Its name in words.
        training: True if it describes a training, so that it is not known for weights from a file.
        evaluation: True if it decides the evaluation only, so that cells that differ in it share their training.
        outside_settings: True if no setting of an experiment decides it. Variants of an ablation must agree in it.
        later: True if it came after reports had been written, and is set for few cells. The name of a sheet leaves it out
            where it is not set.
    """

    role: Role
    label: str
    training: bool = False
    evaluation: bool = False
    outside_settings: bool = False
    later: bool = False


class Setting(Strict):
    """How many models are trained, on which images."""

    models: Literal["unified", "separate"] = Field(description="One model for all categories, or one for each.")
    categories: Natural = Field(description="Number of categories.")
    per_model: Natural | None = Field(
        default=None,
        description="Number of categories of each of several models. It is left out of what is written if not set.",
    )
    held_out: bool = Field(default=False, description="Judged on training images that were held out.")
    fabricated: bool = Field(default=False, description="Images are fabricated, as in a dry run.")
    development: bool = Field(
        default=False,
        description="Settings were chosen on the test images. It is left out of what is written if false.",
    )

    @property
    def standard(self) -> bool:
        """True for one model for all categories on the dataset's own images, as the field reports it."""
        return self.unified and not (self.held_out or self.fabricated or self.development)

    @property
    def unified(self) -> bool:
        """True for one model for all categories."""
        return self.models == "unified" and self.per_model is None

    def __str__(self) -> str:
        models = "one model for" if self.models == "unified" else "a separate model for each of"
        models = models if self.per_model is None else f"a model for each {self.per_model} of"
        held_out = ", held out" if self.held_out else ""
        fabricated = ", fabricated images" if self.fabricated else ""
        development = ", development data" if self.development else ""
        return f"{models} {self.categories} categories{held_out}{fabricated}{development}"

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name not in ("development", "per_model") or value}


def _setting_of_old_records(value: Any) -> Any:
    """The setting from the text that older records hold; any other value as it is."""
    if not isinstance(value, str):
        return value
    text, *remarks = value.split(", ")
    starts: tuple[tuple[Literal["unified", "separate"], str], ...] = (
        ("unified", "one model for "),
        ("separate", "a separate model for each of "),
    )
    for models, start in starts:
        count = text.removeprefix(start).removesuffix(" categories")
        if text.startswith(start) and count.isdecimal():
            flags = {"held_out": "held out" in remarks, "fabricated": "fabricated images" in remarks}
            setting = Setting(models=models, categories=int(count), **flags)
            if str(setting) == value:
                return setting
    return value


Options = Annotated[dict[str, Any], AfterValidator(small_value)]
Norm = Annotated[float, Field(ge=0, le=LARGEST)]
_TASK, _RECIPE, _DERIVED = (partial(CardField, role) for role in Role)


class ProtocolCard(Strict):
    """What a reader must know to compare two numbers; the same fields for every method, in the order of a table.

    A field that is not set was not recorded. Records from older versions lack some.
    """

    setting: Annotated[Setting | Text | None, BeforeValidator(_setting_of_old_records), _TASK("setting")] = None
    epochs: Annotated[Natural | Text | None, _TASK("epochs", training=True)] = None
    iterations: Annotated[Natural | Text | None, _DERIVED("iterations", training=True)] = None
    batch_size: Annotated[Natural | Text | None, _RECIPE("batch size", training=True)] = None
    image_size: Annotated[Natural | tuple[Natural, Natural] | None, _TASK("image size")] = None
    interpolation: Annotated[Text | None, _TASK("interpolation", outside_settings=True)] = None
    mask_rule: Annotated[Text | None, _TASK("mask rule", outside_settings=True)] = None
    augmentation: Annotated[Text | None, _TASK("augmentation")] = None
    calibration: Annotated[Text | None, _TASK("held out for thresholds", later=True)] = None
    contamination: Annotated[Text | None, _TASK("defects in the training", later=True)] = None
    textures: Annotated[Text | None, _RECIPE("textures", outside_settings=True)] = None
    test_labels: Annotated[Text | None, _TASK("test labels", evaluation=True)] = None
    encoder: Annotated[Text | None, _RECIPE("encoder")] = None
    encoder_levels: Annotated[tuple[Natural | tuple[Natural, ...], ...] | None, _RECIPE("encoder levels")] = None
    encoder_features: Annotated[Text | None, _RECIPE("encoder features")] = None
    encoder_padding: Annotated[Text | None, _RECIPE("encoder padding")] = None
    encoder_weights: Annotated[Text | None, _DERIVED("encoder weights")] = None
    encoder_sha256: Annotated[Text | None, _RECIPE("encoder sha256", outside_settings=True)] = None
    network: Annotated[Text | None, _RECIPE("network")] = None
    learned_weights: Annotated[Text | None, _RECIPE("learned weights", outside_settings=True)] = None
    optimizer: Annotated[Options | Text | None, _RECIPE("optimizer", training=True)] = None
    schedule: Annotated[Options | Text | None, _RECIPE("schedule", training=True)] = None
    gradient_clip: Annotated[Norm | Text | None, _RECIPE("gradient clip", training=True)] = None
    precision: Annotated[Text | None, _TASK("precision")] = None
    smoothing: Annotated[Text | None, _DERIVED("smoothing")] = None
    image_score: Annotated[Text | None, _RECIPE("image score", evaluation=True)] = None
    selection: Annotated[Text | None, _TASK("selection", training=True)] = None
    metrics: Annotated[Text | None, _TASK("metrics", evaluation=True, outside_settings=True)] = None
    method_version: Annotated[Natural | None, _RECIPE("method version", outside_settings=True)] = None

    @property
    def upper_bound(self) -> bool:
        """True if the method was given the category of each test image."""
        return self.test_labels == UPPER_BOUND

    @property
    def trained_elsewhere(self) -> bool:
        """True if the weights come from a file that others made."""
        return self.learned_weights is not None

    @property
    def standard_setting(self) -> bool:
        """True if the setting is known and is that of published numbers, with all normal training images and no others."""
        plain = self.calibration is None and self.contamination is None
        return isinstance(self.setting, Setting) and self.setting.standard and plain

    @property
    def unified(self) -> bool:
        """True if one model is known to serve all categories."""
        return isinstance(self.setting, Setting) and self.setting.unified

    @property
    def one_pass(self) -> bool:
        """True if the method saw each training image exactly once, so that no budget of epochs concerns it."""
        return self.epochs == SEEN_ONCE

    def task(self) -> dict[str, Any]:
        """Name and value of the fields in which the rows of a table must agree; None where one was not recorded."""
        return {name: getattr(self, name) for name, field in CARD_FIELDS.items() if field.role is Role.TASK}

    def differing_task(self, other: ProtocolCard) -> list[tuple[str, Any, Any]]:
        """List the fields of the task in which two cards differ.

        Epochs do not count if one of the two methods sees each image exactly once.

        Args:
            other: The other card.

        Returns:
            Label, own value and other value of each field.
        """
        own, others = self.task(), other.task()
        if self.one_pass or other.one_pass:
            own.pop("epochs")
        return [(CARD_FIELDS[name].label, own[name], others[name]) for name in own if own[name] != others[name]]

    def outside_settings(self) -> dict[str, Any]:
        """Name and value of the fields that no setting of an experiment decides."""
        return {name: getattr(self, name) for name, field in CARD_FIELDS.items() if field.outside_settings}

    def decisive(self, training_only: bool = False) -> dict[str, Any]:
        """What a cell's identity depends on, as JSON values.

        Args:
            training_only: Leave out what decides the evaluation only.

        Returns:
            Name -> value of the recorded fields. The setting is its text, as in all identities so far.
        """
        return {
            name: value
            for name, value in self.texts().items()
            if CARD_FIELDS[name].role is not Role.DERIVED and not (training_only and CARD_FIELDS[name].evaluation)
        }

    def texts(self) -> dict[str, Any]:
        """The recorded fields as JSON values, with the setting as text."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return values | ({"setting": str(self.setting)} if self.setting is not None else {})

    def rows(self) -> Iterator[tuple[str, str]]:
        """Label and value of each recorded field in words, in the order of a table."""
        for name, field in CARD_FIELDS.items():
            if name in self.model_fields_set:
                yield field.label, self.shown(name)

    def shown(self, name: str) -> str:
        """The value of a field in words."""
        value = getattr(self, name)
        if name == "encoder_sha256" and value is not None:
            value = value[:12]
        if name == "image_size" and isinstance(value, tuple):
            return shown_size(value)
        if isinstance(value, dict):
            value = " ".join(f"{'' if key == 'name' else f'{key} '}{_words(part)}" for key, part in value.items())
        return _words(value)

    @model_serializer(mode="wrap")
    def _recorded_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name in self.model_fields_set}


CARD_FIELDS: dict[str, CardField] = {
    name: next(part for part in info.metadata if isinstance(part, CardField))
    for name, info in ProtocolCard.model_fields.items()
}
"""Each field of a protocol card and its role, in the order of a table."""


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join("+".join(map(str, part)) if isinstance(part, list | tuple) else str(part) for part in value)
    return str("none" if value is None else value)
