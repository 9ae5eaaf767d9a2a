"""Settings: readable YAML, validated strictly, never changed afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, read safely; a key given twice is an error."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{shown_path(path)}: cannot be read ({getattr(fault, 'strerror', fault)})") from None
    content = parse_yaml(text, shown_path(path))
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


def parse_yaml(text: str, where: str) -> Any:
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
