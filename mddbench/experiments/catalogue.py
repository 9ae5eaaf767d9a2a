"""Finds and loads experiments and suites by their file names, in the package and in plug-in folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mddbench.errors import InputError
from mddbench.experiments.schema import Experiment, Suite
from mddbench.plugins import DATASETS, METHODS, experiment_folders, modules, nearest, yaml_files
from mddbench.settings import packaged, read_yaml, shown_path, validated

PROTOCOL = "protocol"
"""Name of the file in a dataset's folder that has the settings for methods without an own file there."""
LIKE = "like"
"""Key of a protocol file that names another dataset, whose experiments are used. Other keys replace their settings."""


NOT_REPLACED = ("name", "overrides", "method", "dataset", "reported", "settings")
"""Keys that a protocol file cannot have beside `like`."""
NO_DATASETS = ("ablation", "search")
"""Folders of experiments that belong to no dataset."""


def experiment_names() -> list[str]:
    """Return the names of all experiments as 'dataset/method'.

    Returns:
        The experiments that have a file, and those that a dataset takes from another one; sorted.
    """
    files = _experiment_files()
    borrowed = {
        f"{dataset}/{name.partition('/')[2]}"
        for dataset, model_dataset in _model_datasets().items()
        for name in files
        if name.startswith(f"{model_dataset}/")
    }
    return sorted(borrowed | set(files))


def protocol_files() -> dict[str, Path]:
    """Return the protocol file of each dataset that has one."""
    return {file.parent.name: file for file in _yaml_files() if file.stem == PROTOCOL}


def load_protocol(dataset: str) -> dict[str, Any]:
    """Read the protocol file of a dataset, or that of the dataset that it names by `like`.

    Args:
        dataset: Name of a dataset that has a protocol file.

    Returns:
        Setting -> value.

    Raises:
        InputError: If `like` does not name a dataset with own settings.
    """
    files = protocol_files()
    content = read_yaml(files[dataset])
    if LIKE not in content:
        return content
    model_dataset = content[LIKE]
    if (
        not isinstance(model_dataset, str)
        or model_dataset not in files
        or LIKE in (settings := read_yaml(files[model_dataset]))
    ):
        raise InputError(
            f"{shown_path(files[dataset])}: expected '{LIKE}: DATASET', of a dataset with settings in its own "
            f"{PROTOCOL}.yaml; found {json.dumps(content)[:80]}"
        )
    return {**settings, **_replacing(content, files[dataset])}


def _replacing(protocol: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the settings of a protocol file that replace those of the dataset that it is like."""
    replacing = {key: value for key, value in protocol.items() if key != LIKE}
    for key, value in replacing.items():
        if key not in Experiment.model_fields or key in NOT_REPLACED or isinstance(value, dict):
            raise InputError(
                f"{shown_path(file)}: '{key}' beside '{LIKE}': expected a setting of a single value, such as epochs or "
                "calibration"
            )
    return replacing


def _model_datasets() -> dict[str, str]:
    """Return the dataset that `like` names, for each dataset with such a protocol file."""
    contents = {dataset: read_yaml(file) for dataset, file in protocol_files().items()}
    return {dataset: str(content[LIKE]) for dataset, content in contents.items() if LIKE in content}


def _experiment_files() -> dict[str, Path]:
    files = (file for file in _yaml_files() if file.parent.name not in NO_DATASETS and file.stem != PROTOCOL)
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def _yaml_files() -> list[Path]:
    """Return all YAML files of plug-in folders and of the package. The package is last, so that its names win."""
    roots = [*reversed(experiment_folders()), packaged("experiments")]
    return [file for root in roots for file in sorted(root.glob("*/*.yaml"))]


def suite_names() -> list[str]:
    """Return the names of all suites of the package and of plug-in folders, sorted."""
    return list(suite_files())


def suite_files() -> dict[str, Path]:
    """Return the file of each suite of the package and of plug-in folders, sorted by name."""
    return yaml_files("suites", packaged("suites"), "*.yaml")


def load_experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Load an experiment.

    If a dataset and a method have no file together, the dataset's protocol file and the method's defaults are used.
    A dataset whose protocol is `like` another dataset has all experiments of that dataset.
    A dataset without a protocol file has those of the dataset 'folder'.

    An InputError is raised for every other fault, too. Its message is one line.

    Args:
        name: Name of the experiment, as in 'mini/rd4ad', or path of a YAML file.
        overrides: Dotted setting -> value.

    Returns:
        The experiment.

    Raises:
        InputError: If the file has a setting that must not be in it.
    """
    if name.endswith((".yaml", ".yml")):
        path, raw = Path(name), read_yaml(Path(name))
        name = path.stem
    else:
        path, raw = _named(name)
    source = shown_path(path)
    for dotted, value in (overrides or {}).items():
        _override(raw, dotted, value)
        source = f"{source} with --set {dotted}={value}"
    for reserved in ("name", "overrides"):
        if reserved in raw:
            raise InputError(f"{source}: '{reserved}' is filled in on loading; remove it")
    return validated(Experiment, {"name": name, "overrides": dict(overrides or {}), **raw}, source)


def experiment_file(name: str) -> Path:
    """Return the file that holds the settings of an experiment of a dataset and a method.

    An InputError is raised if there is no such experiment.

    Args:
        name: Name of the experiment, as in 'mini/rd4ad'.

    Returns:
        Its own file, that of the dataset it is like, or the dataset's protocol file.
    """
    return _named(name)[0]


def _named(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the file of an experiment and its content."""
    files = _experiment_files()
    if name in files:
        return files[name], read_yaml(files[name])
    dataset, _, method = name.partition("/")
    protocols = protocol_files()
    protocol = read_yaml(protocols[dataset]) if dataset in protocols else {LIKE: "folder"}
    borrowed = files.get(f"{protocol[LIKE]}/{method}") if LIKE in protocol else None
    if dataset in modules(DATASETS) and borrowed is not None:
        replacing = _replacing(protocol, protocols[dataset]) if len(protocol) > 1 else {}
        own = {key: value for key, value in read_yaml(borrowed).items() if not (replacing and key == "reported")}
        return borrowed, {**own, **replacing, "dataset": dataset}
    if dataset in modules(DATASETS) and method in modules(METHODS):
        protocol_dataset = dataset if dataset in protocols else "folder"
        return protocols[protocol_dataset], {**load_protocol(protocol_dataset), "dataset": dataset, "method": method}
    raise InputError(f"unknown experiment '{name}'{_hint(name)}")


def _hint(name: str) -> str:
    """Say what to give in place of a name that is no experiment."""
    if "=" in name:
        return f"; a setting is changed by --set {name}"
    if name in modules(DATASETS):
        of_dataset = [known for known in experiment_names() if known.startswith(f"{name}/")]
        examples = ", ".join(of_dataset[:3]) or f"{name}/rd4ad"
        return f", which is a dataset; name a method of it, such as {examples}"
    if name in modules(METHODS):
        return f", which is a method; name a dataset, too, such as folder/{name}"
    if name in suite_names():
        return f", which is a suite; run it by --all --suite {name}"
    more = "`mddbench list` shows experiments, and methods and datasets to combine as DATASET/METHOD"
    return f"{nearest(name, experiment_names())}; {more}; or give the path of a YAML file"


def load_suite(name: str) -> Suite:
    """Load a suite.

    Args:
        name: Name of the suite.

    Returns:
        The suite.

    Raises:
        InputError: If there is no such suite.
    """
    if name not in suite_names():
        raise InputError(f"unknown suite '{name}'{nearest(name, suite_names())}; known: {', '.join(suite_names())}")
    path = suite_files()[name]
    return validated(Suite, read_yaml(path), shown_path(path))


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a nested value, for example 'optimizer.lr'."""
    *groups, last = dotted.split(".")
    for group in groups:
        raw = raw.setdefault(group, {})
        if not isinstance(raw, dict):
            raise InputError(f"--set {dotted}={value}: '{group}' is not a group of settings")
    raw[last] = value
