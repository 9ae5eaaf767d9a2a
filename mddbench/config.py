"""Experiments and suites: readable YAML, validated strictly, never changed afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from mddbench.errors import InputError
from mddbench.plugins import nearest

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=2**20)]
Depth = Annotated[int, Field(ge=1, le=256)]
"""Of layers or blocks one after another."""
Pixels = Annotated[float, Field(ge=0, le=1024)]
"""The width of a smoothing."""


class Strict(BaseModel):
    """Settings that cannot be changed and refuse what they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


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
    return key, _parse(value, f"--set {text}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, read safely; a key given twice is an error."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{shown_path(path)}: cannot be read ({getattr(fault, 'strerror', fault)})") from None
    content = _parse(text, shown_path(path))
    if not isinstance(content, dict):
        raise InputError(f"{shown_path(path)}: expected settings as 'key: value' lines, found {type(content).__name__}")
    return content


def validated(model: type[Model], raw: Mapping[str, Any], where: str) -> Model:
    """`raw` as the model; InputError with `where`, the setting, what was found and what was expected if it does not fit."""
    try:
        return model.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as fault:
        raise InputError(f"{where}: {_first_fault(model, fault)}") from None


def _first_fault(model: type[BaseModel], fault: ValidationError) -> str:
    error = min(fault.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    place = [str(part) for part in error["loc"]]
    name = ".".join(place)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        hint = nearest(place[-1], known) or f"; known: {', '.join(known)}"
        return f"unknown key '{name}'{hint}"
    if error["type"] == "missing":
        return f"'{name}' is missing"
    return f"'{name}' is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields_at(model: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next((kind for kind in inner if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def packaged(folder: str) -> Path:
    """A folder of files that come with the package."""
    return Path(str(files("mddbench"))) / folder


def shown_path(path: Path) -> str:
    """A packaged file by its short name, any other by the path given."""
    root = packaged("")
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise InputError(f"{where}: not valid YAML (nested too deeply)") from None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{where}:{line} not valid YAML ({getattr(fault, 'problem', fault)})") from None


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, stricter: keys are text and given once, and no aliases (which can grow without bound)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_UniqueKeys.add_implicit_resolver(  # YAML 1.2 takes 1e-3 for a number; PyYAML, which reads 1.1, for text
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
