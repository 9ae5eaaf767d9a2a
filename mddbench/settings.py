"""Settings from readable YAML files. They are validated strictly and cannot be changed afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

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
from pydantic_core import to_jsonable_python

from mddbench.errors import InputError
from mddbench.plugins import nearest

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=2**20)]
Depth = Annotated[int, Field(ge=1, le=256)]
"""Number of consecutive layers or blocks."""
Pixels = Annotated[float, Field(ge=0, le=1024)]
"""Width of a smoothing, in pixels."""


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("expected an odd number, which has a middle")
    return number


OddCount = Annotated[int, Field(ge=1, le=1023), AfterValidator(_odd)]
"""Side of a window around a position or pixel."""


class Strict(BaseModel):
    """A model whose fields cannot be changed and that rejects unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Extended(Strict):
    """Settings that got further fields after cells had been run with them.

    Such a field is left out of what is written while it has its default. So it changes no identity of a cell.

    Attributes:
        added: Names of these fields.
    """

    added: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_added_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unset = {name for name in self.added if getattr(self, name) == fields[name].default}
        return {name: value for name, value in serialize(self).items() if name not in unset}


def all_values(settings: BaseModel) -> dict[str, Any]:
    """Return the values of all fields, also of those that `Extended` leaves out of what is written.

    Args:
        settings: The settings.

    Returns:
        Field -> JSON value. Settings within settings are dicts of the same kind.
    """
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        name: all_values(value) if isinstance(value, BaseModel) else to_jsonable_python(value)
        for name, value in values.items()
    }


Model = TypeVar("Model", bound=BaseModel)
MOST_JSON_BYTES = 2**28
"""The largest size of a JSON file that is read."""


def read_json(file: Path, what: str, advice: str = "") -> dict[str, Any]:
    """Read a JSON file of any origin that holds one object.

    Args:
        file: The file.
        what: What is expected there, for the error message.
        advice: What to do if it is not, for the error message.

    Returns:
        Key -> value.

    Raises:
        InputError: If it is no plain file, is too large, or holds no object.
    """
    end = f"; {advice}" if advice else ""
    try:
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: expected {what}, found something that is no file{end}")
        if (size := file.stat().st_size) > MOST_JSON_BYTES:
            raise InputError(f"{file}: expected {what}, found {size} bytes, more than {MOST_JSON_BYTES}{end}")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise InputError(f"{file}: {what} cannot be read there ({fault}){end}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected {what}, found {type(content).__name__}{end}")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. No code in it is executed, and a repeated key is an error.

    Args:
        path: The file.

    Returns:
        Key -> value.

    Raises:
        InputError: If the file cannot be read, or if it is not valid YAML or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{shown_path(path)}: cannot be read ({getattr(fault, 'strerror', fault)})") from None
    content = parse_yaml(text, shown_path(path))
    if not isinstance(content, dict):
        raise InputError(f"{shown_path(path)}: expected settings as 'key: value' lines, found {type(content).__name__}")
    return content


def validated(model: type[Model], raw: Mapping[str, Any], source: str) -> Model:
    """Validate a mapping as a model.

    Args:
        model: The class of the model.
        raw: Key -> value, as read from a file.
        source: Name of the file or setting, for the error message.

    Returns:
        An instance of the model.

    Raises:
        InputError: If the mapping does not fit. The message names the source and the setting.
            It also says what was found and what was expected.
    """
    try:
        return model.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as fault:
        raise InputError(f"{source}: {_first_fault(model, fault)}") from None


def _first_fault(model: type[BaseModel], fault: ValidationError) -> str:
    """Describe the first error, where an unknown key comes first."""
    error = min(fault.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    location = _without_union_members(model, [str(key) for key in error["loc"]])
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        fields = _fields_at(model, location[:-1])
        hint = nearest(location[-1], fields) or f"; known: {', '.join(fields)}"
        return f"unknown key '{name}'{hint}"
    if error["type"] == "missing":
        return f"'{name}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    reason = f"{message[0].lower()}{message[1:]}"
    meaning = _meaning_of(model, location)
    return f"'{name}' is {error['input']!r}: {reason}{f'; it means: {meaning}' if meaning else ''}"


def _without_union_members(annotation: Any, location: list[str]) -> list[str]:
    """Leave out of a location what pydantic adds to it: which member of a union it tried."""
    names, rest = [], list(location)
    while rest:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
            continue
        members = [kind for kind in get_args(annotation) if kind is not type(None)]
        if get_origin(annotation) in (Union, UnionType):
            tried = rest.pop(0) if len(members) > 1 else ""
            annotation = next((kind for kind in members if not tried or getattr(kind, "__name__", "") == tried), None)
            continue
        names.append(rest.pop(0))
        fields = getattr(annotation, "model_fields", {})
        inner = members[-1] if get_origin(annotation) is dict else members[0] if members else None
        annotation = fields[names[-1]].annotation if names[-1] in fields else inner
    return names


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """List the fields of the model that lies at a location within another model."""
    for field in location:
        model = _inner_model(model, field) or model
    return list(model.model_fields)


def _inner_model(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The class of a field that is a model itself; None for any other field."""
    annotation = model.model_fields[field].annotation if field in model.model_fields else None
    kinds = (annotation, *get_args(annotation))
    candidates = [kind for kind in kinds if isinstance(kind, type) and get_origin(kind) is None]  # Python 3.10
    return next((kind for kind in candidates if issubclass(kind, BaseModel)), None)


def _meaning_of(model: type[BaseModel], location: list[str]) -> str:
    """The description of the innermost described field at a location; empty if there is none."""
    meaning = ""
    for field in location:
        if field not in model.model_fields:
            break
        meaning = model.model_fields[field].description or meaning
        model = _inner_model(model, field) or model
    return meaning.removesuffix(".")


def described(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """List the settings of a model, with those of the models in it.

    Args:
        model: The class of the model.
        prefix: Begins each name.

    Yields:
        Name as `--set` takes it, default as YAML has it (empty if there is none), and description.
    """
    for name, field in model.model_fields.items():
        inner = _inner_model(model, name)
        if inner is None or field.default is None:
            default = (
                "" if field.is_required() else json.dumps(field.get_default(call_default_factory=True), default=str)
            )
            yield f"{prefix}{name}", default, field.description or ""
        if inner is not None:
            yield from described(inner, f"{prefix}{name}.")


def packaged(folder: str) -> Path:
    """Return the path of a folder of files that are installed with the package."""
    return Path(str(files("mddbench"))) / folder


def shown_path(path: Path) -> str:
    """Return the short name of a file of the package, or the given path of any other file."""
    root = packaged("")
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Write JSON values as YAML, in their order.

    Args:
        content: Key -> value.

    Returns:
        The text.
    """
    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return text


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text. No code in it is executed, and a repeated key is an error.

    Args:
        text: The YAML text.
        source: Name of the file or option, for the error message.

    Returns:
        The content.

    Raises:
        InputError: If the text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise InputError(f"{source}: not valid YAML (nested too deeply)") from None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{source}:{line} not valid YAML ({getattr(fault, 'problem', fault)})") from None


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader with two more rules.

    Each key is text and occurs once. Aliases are not allowed, because they can grow without bound.
    """

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


_UniqueKeys.add_implicit_resolver(  # YAML 1.2 reads 1e-3 as a number, but PyYAML reads YAML 1.1, where it is text
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
