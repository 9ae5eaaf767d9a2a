"""Which experiments and suites there are, and what each says: found by file name, in the package and in plug-in folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mddbench.errors import InputError
from mddbench.experiments.schema import Experiment, Suite
from mddbench.plugins import DATASETS, METHODS, experiment_folders, modules, nearest
from mddbench.settings import packaged, read_yaml, shown_path, validated

PROTOCOL = "protocol"
"""The file of a dataset's folder that methods without a file of their own are run by."""
LIKE = "like"
"""The one key of such a file of a dataset that is run as another."""


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


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        raw = raw.setdefault(part, {})
        if not isinstance(raw, dict):
            raise InputError(f"--set {dotted}={value}: '{part}' is not a group of settings")
    raw[last] = value
