"""What an experiment and a suite are, as their YAML files say it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from mddbench.errors import InputError
from mddbench.settings import BelowOne, Count, Fraction, Positive, Strict, parse_yaml


class EncoderSettings(Strict):
    """name: of a timm model, with its tag where one matters; levels: timm's feature indices; sha256: pins the weights;
    padding_for: strided convolutions that timm pads by the image's size are padded as for this size at every size, as
    in code that fixes its padding once; no part of what is written down where it is not set.
    """

    name: str
    levels: tuple[int, ...] = (1, 2, 3)
    sha256: str | None = None
    padding_for: Annotated[int, Field(ge=32, le=8192)] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = content(self)
        if self.padding_for is None:
            written.pop("padding_for", None)
        return written


class OptimizerSettings(Strict):
    """betas are of Adam and AdamW; momentum of SGD. Weight decay is the optimiser's own."""

    name: Literal["adam", "adamw", "sgd"]
    lr: Annotated[float, Field(gt=0, le=100)]
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    momentum: BelowOne = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0


class ScheduleSettings(Strict):
    """How the learning rate changes over training, whose length is 1.

    constant: not at all; step: times `factor` from `at` on; cosine: from 1 down to `factor`.
    All after a linear rise over `warmup`.
    """

    name: Literal["constant", "step", "cosine"]
    at: Fraction = 0.8
    factor: Fraction = 0.1
    warmup: Fraction = 0.0


def _known_convention(name: str) -> str:
    from mddbench.metrics.conventions import CONVENTIONS

    known = ("exact", *CONVENTIONS)
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)}")
    return name


class ReportedSettings(Strict):
    """Where the published numbers of an experiment's protocol stand in paper_tables/reported.csv: the method's name there, how
    the source begins, and the epochs as it says them. Measured means count as reproduced within `tolerance` percent points, or
    within `sigmas` standard deviations over the seeds. convention: by which the source computes its metrics; known: what else
    is known to differ, in words.
    """

    method: str
    source: str
    epochs: str = ""
    tolerance: Positive = 1.0
    sigmas: Positive = 2.0
    convention: Annotated[str, AfterValidator(_known_convention)] = "exact"
    known: tuple[str, ...] = ()


class Experiment(Strict):
    """One method on one dataset under one protocol; with a seed it is a cell.

    name: 'dataset/method' of its file, or the file's name; overrides: what `--set` changed. Both are filled in on loading.
    metrics: the engine of the pixel metrics; auto takes exact wherever it fits into memory.
    setting: one model for all categories, or, for comparison only, a separate one for each.
    reported: the published numbers that it should reproduce; no part of its identity.
    """

    name: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    method: str
    dataset: str
    setting: Literal["unified", "separate"] = "unified"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    image_size: Annotated[int, Field(ge=32, le=8192)]
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    epochs: Count
    encoder: EncoderSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    gradient_clip: Positive | None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    drop_last: bool = True
    metrics: Literal["auto", "exact", "histogram"] = "auto"
    settings: dict[str, Any] = Field(default_factory=dict)
    reported: ReportedSettings | None = None


class Suite(Strict):
    """A list of experiments and ablations that run together."""

    description: str
    experiments: tuple[str, ...]


def parse_override(text: str) -> tuple[str, Any]:
    """'optimizer.lr=0.001' -> ('optimizer.lr', 0.001); the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text}: expected KEY=VALUE, as in --set optimizer.lr=0.001")
    return key, parse_yaml(value, f"--set {text}")
