"""The settings of experiments and suites, as their YAML files contain them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mddbench.errors import InputError
from mddbench.settings import BelowOne, Count, Extended, Fraction, Positive, Strict, parse_yaml
from mddbench.sizes import ImageSize, parse_size

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]


class EncoderSettings(Extended):
    """Settings of the frozen teacher."""

    added: ClassVar[tuple[str, ...]] = ("padding_for", "normed", "prefix_tokens")

    name: str = Field(description="Name of a timm model, with its tag if there are several sets of weights.")
    levels: tuple[int | Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(
        default=(1, 2, 3),
        description="timm's indices of the feature levels. Several indices in brackets are one level, the mean of theirs.",
    )
    sha256: str | None = Field(default=None, description="Hash that the weights must have; null for no check.")
    padding_for: Annotated[int, Field(ge=32, le=8192)] | None = Field(
        default=None,
        description="Image size in pixels that fixes the padding of strided convolutions, for images of any size. "
        "This is for code that fixes its padding once, where timm adapts it to each image. "
        "If it is not set, it is left out of everything that is written.",
    )
    normed: bool = Field(
        default=False,
        description="Vision transformers: apply the final normalisation to each level. "
        "The default is left out of what is written.",
    )
    prefix_tokens: bool = Field(
        default=False,
        description="Vision transformers: give class and register tokens, too, to a method that takes them. "
        "The default is left out of what is written.",
    )

    @property
    def options(self) -> dict[str, Any]:
        """The options of the encoder besides its name, its levels and its hash."""
        return {"padding_for": self.padding_for, "normed": self.normed, "prefix_tokens": self.prefix_tokens}


class OptimizerSettings(Extended):
    """Settings of the optimiser."""

    added: ClassVar[tuple[str, ...]] = ("eps", "amsgrad")

    name: Literal["adam", "adamw", "stableadamw", "sgd"] = Field(
        description="Name of the optimiser. stableadamw: AdamW with update clipping."
    )
    lr: Annotated[float, Field(gt=0, le=100)] = Field(description="Base learning rate.")
    betas: tuple[BelowOne, BelowOne] = Field(default=(0.9, 0.999), description="Betas of Adam and its variants.")
    momentum: BelowOne = Field(default=0.9, description="Momentum of SGD.")
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.0, description="Weight decay, in the form that the optimiser itself defines."
    )
    eps: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-8,
        description="Adam and its variants: what is added to the denominator. The default is left out of what is written.",
    )
    amsgrad: bool = Field(
        default=False,
        description="Adam and its variants: AMSGrad. The default is left out of what is written.",
    )


class ScheduleSettings(Strict):
    """Changes of the learning rate during training. All times are shares of the training."""

    name: Literal["constant", "step", "cosine"] = Field(
        description="constant: no change. step: the base rate is multiplied by `factor` from `at` on. "
        "cosine: the rate falls from the base rate to `factor` times the base rate. "
        "With all of them the rate first rises linearly during `warmup`."
    )
    at: Fraction | Annotated[tuple[Fraction, ...], Field(min_length=1, max_length=100)] = Field(
        default=0.8, description="Time at which a step schedule changes the rate, or several such times."
    )
    factor: Fraction = Field(
        default=0.1,
        description="Factor of the base rate at the end of the training. "
        "A step schedule with several times applies it at each of them.",
    )
    warmup: Fraction = Field(default=0.0, description="Time during which the rate rises linearly from 0.")


def _known_convention(name: str) -> str:
    from mddbench.metrics.conventions import CONVENTIONS

    names = ("exact", *CONVENTIONS)
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}")
    return name


class ReportedSettings(Strict):
    """The published numbers of an experiment's protocol, in paper_tables/reported.csv.

    Measured means count as reproduced if they are within `tolerance` or within `sigmas`.
    """

    method: str = Field(description="Name of the method in that file.")
    source: str = Field(description="Beginning of the source in that file.")
    epochs: str = Field(default="", description="Number of epochs as the source states it.")
    tolerance: Positive = Field(default=1.0, description="Tolerated difference in percentage points.")
    sigmas: Positive = Field(
        default=2.0, description="Tolerated difference as a number of standard deviations over the seeds."
    )
    convention: Annotated[str, AfterValidator(_known_convention)] = Field(
        default="exact", description="Convention by which the source computes its metrics."
    )
    known: tuple[str, ...] = Field(default=(), description="Other known differences, in words.")


class Experiment(Extended):
    """One method on one dataset under one protocol. With a seed it is a cell."""

    added: ClassVar[tuple[str, ...]] = ("calibration", "contamination", "categories_per_model")

    name: str = Field(
        description="'dataset/method' for an experiment of the package, otherwise the name of the file. "
        "It is filled in when the file is loaded."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings that `--set` has changed. They are filled in when the file is loaded.",
    )
    method: str = Field(description="Name of the method.")
    dataset: str = Field(description="Name of the dataset.")
    setting: Literal["unified", "separate"] = Field(
        default="unified",
        description="unified: one model for all categories. "
        "separate: one model for each category, for comparison only.",
    )
    seeds: Seeds = Field(description="Seeds of the cells.")
    image_size: Annotated[ImageSize, BeforeValidator(parse_size)] = Field(
        description="Size in pixels to which images are resized: the side of a square, or [height, width]."
    )
    batch_size: Annotated[int, Field(ge=1, le=2**16)] = Field(description="Number of images of a training batch.")
    epochs: Count = Field(description="Number of epochs.")
    encoder: EncoderSettings = Field(description="Settings of the frozen teacher.")
    optimizer: OptimizerSettings = Field(description="Settings of the optimiser.")
    schedule: ScheduleSettings = Field(description="Changes of the learning rate during training.")
    gradient_clip: Positive | None = Field(description="Greatest norm of the gradients; null for no limit.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Precision of the networks. The last two mean mixed precision."
    )
    drop_last: bool = Field(default=True, description="True to leave out the last batch of an epoch if it is not full.")
    metrics: Literal["auto", "exact", "histogram"] = Field(
        default="auto", description="Engine of the pixel metrics. auto: exact wherever it fits into memory."
    )
    calibration: Annotated[float, Field(ge=0, le=0.5)] | Literal["validation"] = Field(
        default=0.0,
        description="Share of each category's normal training images that is not trained on. Thresholds are set on it, "
        "without test labels. validation: the dataset's own validation images in place of a share. "
        "The default, no thresholds, is left out of what is written.",
    )
    contamination: Annotated[float, Field(ge=0, le=0.5)] | None = Field(
        default=None,
        description="Share of the training images that is defective. Half of the defective test images are set aside for "
        "that, at every share, also 0; they are not judged. "
        "The default, null for nothing of that, is left out of what is written.",
    )
    categories_per_model: Count | None = Field(
        default=None,
        description="Number of categories that share a model, with setting: unified. It must divide the number of the "
        "dataset's categories, which are divided in the order of the alphabet. All are judged, each by its own model. "
        "The default, null for all categories in one model, is left out of what is written.",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="The method's own settings.")
    reported: ReportedSettings | None = Field(
        default=None,
        description="Published numbers that the experiment should reproduce. They are no part of its identity.",
    )


class Suite(Strict):
    """A list of experiments and ablations that run together."""

    description: str = Field(description="What the suite is for, in one line.")
    experiments: tuple[str, ...] = Field(description="Names of the experiments and ablations.")
    seeds: Seeds | None = Field(default=None, description="Seeds in place of the experiments' own.")


def parse_override(text: str) -> tuple[str, Any]:
    """Parse an override of the command line: 'optimizer.lr=0.001' -> ('optimizer.lr', 0.001).

    An InputError is also raised if the value is not valid YAML.

    Args:
        text: KEY=VALUE, where the value is YAML.

    Returns:
        Dotted setting and its value.

    Raises:
        InputError: If the text is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text}: expected KEY=VALUE, as in --set optimizer.lr=0.001")
    return key, parse_yaml(value, f"--set {text}")
