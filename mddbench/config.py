"""Experiments and suites: readable YAML, validated strictly, never changed afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mddbench.errors import InputError
from mddbench.plugins import DATASETS, METHODS, experiment_folders, modules, nearest

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Settings that cannot be changed and refuse what they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


PROTOCOL = "protocol"
"""The file of a dataset's folder that methods without a file of their own are run by."""
LIKE = "like"
"""The one key of such a file of a dataset that is run as another."""

Model = TypeVar("Model", bound=BaseModel)


class EncoderSettings(Strict):
    """name: of a timm model, with its tag where one matters; levels: timm's feature indices; sha256: pins the weights."""

    name: str
    levels: tuple[int, ...] = (1, 2, 3)
    sha256: str | None = None


class OptimizerSettings(Strict):
    """betas are of Adam and AdamW; momentum of SGD. Weight decay is the optimiser's own."""

    name: Literal["adam", "adamw", "sgd"]
    lr: Positive
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class ScheduleSettings(Strict):
    """How the learning rate changes over training, whose length is 1.

    constant: not at all; step: times `factor` from `at` on; cosine: from 1 down to `factor`.
    All after a linear rise over `warmup`.
    """

    name: Literal["constant", "step", "cosine"]
    at: Fraction = 0.8
    factor: Fraction = 0.1
    warmup: Fraction = 0.0


class Experiment(Strict):
    """One method on one dataset under one protocol; with a seed it is a cell.

    name: 'dataset/method' of its file, or the file's name; overrides: what `--set` changed. Both are filled in on loading.
    metrics: the engine of the pixel metrics; auto takes exact wherever it fits into memory.
    setting: one model for all categories, or, for comparison only, a separate one for each.
    """

    name: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    method: str
    dataset: str
    setting: Literal["unified", "separate"] = "unified"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    image_size: Annotated[int, Field(ge=32)]
    batch_size: Count
    epochs: Count
    encoder: EncoderSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    gradient_clip: Positive | None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    drop_last: bool = True
    metrics: Literal["auto", "exact", "histogram"] = "auto"
    settings: dict[str, Any] = Field(default_factory=dict)


class Suite(Strict):
    """A list of experiments and ablations that run together."""

    description: str
    experiments: tuple[str, ...]


def experiment_names() -> list[str]:
    """All experiments, as 'dataset/method': those that have a file, and those of a dataset that is run like another."""
    files = _experiment_files()
    alike = {
        f"{dataset}/{name.partition('/')[2]}"
        for dataset, other in _likenesses().items()
        for name in files
        if name.startswith(f"{other}/")
    }
    return sorted(alike | set(files))


def protocol_files() -> dict[str, Path]:
    """Dataset -> the file that methods without one of their own are run by."""
    return {file.parent.name: file for file in _yaml_files() if file.stem == PROTOCOL}


def load_protocol(dataset: str) -> dict[str, Any]:
    """What the dataset's protocol file says, or that of the dataset that it is run like. Raises InputError if it says both."""
    files = protocol_files()
    content = read_yaml(files[dataset])
    if LIKE not in content:
        return content
    other = content[LIKE]
    if (
        set(content) != {LIKE}
        or not isinstance(other, str)
        or other not in files
        or LIKE in (own := read_yaml(files[other]))
    ):
        raise InputError(
            f"{shown_path(files[dataset])}: expected nothing but '{LIKE}: DATASET', of a dataset with settings in its own "
            f"{PROTOCOL}.yaml; found {json.dumps(content)[:80]}"
        )
    return own


def _likenesses() -> dict[str, str]:
    """Dataset -> the one whose experiments are its own, too, but for the images."""
    contents = {dataset: read_yaml(file) for dataset, file in protocol_files().items()}
    return {dataset: str(content[LIKE]) for dataset, content in contents.items() if LIKE in content}


def _experiment_files() -> dict[str, Path]:
    own = (file for file in _yaml_files() if file.parent.name != "ablation" and file.stem != PROTOCOL)
    return {f"{file.parent.name}/{file.stem}": file for file in own}


def _yaml_files() -> list[Path]:
    """All files that come with the package or a plug-in folder; of two of one name the package's."""
    roots = [*reversed(experiment_folders()), packaged("experiments")]
    return [file for root in roots for file in sorted(root.glob("*/*.yaml"))]


def suite_names() -> list[str]:
    """All suites that come with the package."""
    return sorted(path.stem for path in packaged("suites").glob("*.yaml"))


def load_experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment by its name ('mini/rd4ad') or by the path of a YAML file, with some settings changed.

    A dataset and a method that have no file together meet under the dataset's protocol, with the method's default settings. A
    dataset whose protocol is 'like' another's has all of the other's experiments, and one without a protocol those of folders.
    overrides: dotted setting -> value. Raises InputError in one line for anything wrong.
    """
    if name.endswith((".yaml", ".yml")):
        path, raw = Path(name), read_yaml(Path(name))
        name = path.stem
    else:
        path, raw = _named(name)
    where = shown_path(path)
    for dotted, value in (overrides or {}).items():
        _override(raw, dotted, value)
        where = f"{where} with --set {dotted}={value}"
    for reserved in ("name", "overrides"):
        if reserved in raw:
            raise InputError(f"{where}: '{reserved}' is filled in on loading; remove it")
    return validated(Experiment, {"name": name, "overrides": dict(overrides or {}), **raw}, where)


def _named(name: str) -> tuple[Path, dict[str, Any]]:
    """(file, content) of an experiment by its name."""
    files = _experiment_files()
    if name in files:
        return files[name], read_yaml(files[name])
    dataset, _, method = name.partition("/")
    protocols = protocol_files()
    same = files.get(f"{_likenesses().get(dataset) if dataset in protocols else 'folder'}/{method}")
    if dataset in modules(DATASETS) and same is not None:
        return same, {**read_yaml(same), "dataset": dataset}
    if dataset in modules(DATASETS) and method in modules(METHODS):
        decisive = dataset if dataset in protocols else "folder"
        return protocols[decisive], {**load_protocol(decisive), "dataset": dataset, "method": method}
    raise InputError(
        f"unknown experiment '{name}'{nearest(name, files)}; `mddbench list` shows experiments, and methods and datasets to "
        "combine as DATASET/METHOD; or give the path of a YAML file"
    )


def load_suite(name: str) -> Suite:
    """A suite by name. Raises InputError for an unknown one."""
    if name not in suite_names():
        raise InputError(f"unknown suite '{name}'{nearest(name, suite_names())}; known: {', '.join(suite_names())}")
    path = packaged("suites") / f"{name}.yaml"
    return validated(Suite, read_yaml(path), shown_path(path))


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


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        raw = raw.setdefault(part, {})
        if not isinstance(raw, dict):
            raise InputError(f"--set {dotted}={value}: '{part}' is not a group of settings")
    raw[last] = value


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
