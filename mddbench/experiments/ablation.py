"""Ablations. An ablation varies some settings of one experiment. It is a small YAML file in `experiments/ablation/`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mddbench.errors import InputError
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment
from mddbench.plugins import nearest, yaml_files
from mddbench.settings import Strict, packaged, read_yaml, shown_path, validated

KEPT = "ablations"
"""Folder in an output folder for the user's own ablations."""
PREFIX = "ablation/"
"""Beginning of the names of ablations and of their variants, as in 'ablation/components: all'."""


class AblationFile(Strict):
    """The content of an ablation's YAML file."""

    title: str = Field(description="Title of the table and the plot.")
    base: str = Field(description="An experiment, or its file in the same folder, but no ablation.")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = Field(
        default=None, description="Seeds that replace the seeds of the base."
    )
    vary: Annotated[dict[str, Any], Field(min_length=1)] = Field(
        description="One setting with a list of values, or label -> settings. "
        "All variants give the same settings, so that a reader sees the values of each."
    )
    axis_label: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Label of the plot's axis if the variants are numbers. Otherwise it is the name of the setting.",
    )


@dataclass(frozen=True)
class Ablation:
    """An ablation.

    Attributes:
        name: Name, which begins with PREFIX.
        title: Title of the table and the plot.
        base: Name or file of the base experiment.
        seeds: Seeds that replace the seeds of the base; None to keep them.
        variants: Label -> dotted setting -> value. There are at least two, all with the same settings.
        axis: The one setting whose numbers are the variants; None if the variants are not numbers of one setting.
        axis_label: Label of the plot's axis; None if the file has none.
    """

    name: str
    title: str
    base: str
    seeds: tuple[int, ...] | None
    variants: dict[str, dict[str, Any]]
    axis: str | None
    axis_label: str | None = None

    @property
    def axis_name(self) -> str:
        """Label of the plot's axis, '' if there is no axis.

        >>> Ablation("ablation/a", "A", "mini/a", None, {}, "settings.memory.top_k").axis_name
        'memory.top k'
        """
        return self.axis_label or (self.axis or "").removeprefix("settings.").replace("_", " ")

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that the variants change."""
        return tuple(next(iter(self.variants.values())))


def ablation_names() -> list[str]:
    """Return the names of all ablations of the package and of plug-in folders, as in 'ablation/components', sorted."""
    return list(ablation_files())


def ablation_files() -> dict[str, Path]:
    """Return the file of each ablation of the package and of plug-in folders, sorted by name."""
    found = yaml_files("experiments", packaged("experiments"), f"{PREFIX}*.yaml")
    return {f"{PREFIX}{name}": file for name, file in found.items()}


def keep_ablations(files: Iterable[str], out: Path) -> None:
    """Copy the user's own ablations and their bases into the output folder, so that later reports can use them.

    Args:
        files: YAML files of ablations.
        out: Output folder.
    """
    folder = out / KEPT
    for file in map(Path, files):
        base = Path(load_ablation(str(file)).base)
        folder.mkdir(parents=True, exist_ok=True)
        for source in (file, base) if is_path(str(base)) else (file,):
            if not (folder / source.name).exists() or not source.samefile(folder / source.name):
                shutil.copyfile(source, folder / source.name)


def all_ablations(out: Path, files: Iterable[Path], say: Callable[[str], None]) -> list[Ablation]:
    """Load all ablations for a report.

    Args:
        out: Output folder, whose kept ablations are loaded. One that no longer loads is reported and left out.
        files: YAML files of further ablations.
        say: Called with a message for each ablation that is left out.

    Returns:
        The ablations of the package, of the output folder and of the files.
    """
    ablations = {name: load_ablation(name) for name in ablation_names()}
    for file in sorted((out / KEPT).glob("*.y*ml")):
        try:
            if not is_ablation(str(file)):
                continue
            ablations[file.stem] = load_ablation(str(file))
            load_experiment(ablations[file.stem].base)
        except InputError as fault:
            ablations.pop(file.stem, None)
            say(f"left out of the report: {fault}")
    return list((ablations | {file.stem: load_ablation(str(file)) for file in files}).values())


def is_ablation(name: str) -> bool:
    """Return True for the name of an ablation, as in 'ablation/components', or of a YAML file with `vary`."""
    return name.startswith(PREFIX) or (is_path(name) and Path(name).is_file() and "vary" in read_yaml(Path(name)))


def load_ablation(name: str) -> Ablation:
    """Load an ablation.

    Args:
        name: Name of the ablation, or path of a YAML file.

    Returns:
        The ablation.

    Raises:
        InputError: If there is no such ablation, or if anything in the file is wrong. The message is one line.
    """
    if not is_path(name) and name not in ablation_names():
        raise InputError(
            f"unknown ablation '{name}'{nearest(name, ablation_names())}; known: {', '.join(ablation_names())}"
        )
    path = Path(name) if is_path(name) else ablation_files()[name]
    source = shown_path(path)
    if is_path(name) and f"{PREFIX}{path.stem}" in ablation_names():
        raise InputError(
            f"{source}: '{path.stem}' is the name of an ablation that comes with mddbench; rename the file"
        )
    file = validated(AblationFile, read_yaml(path), source)
    neighbour = path.parent / file.base
    base = str(neighbour) if is_path(file.base) and neighbour.exists() else file.base
    if is_ablation(base):
        raise InputError(f"{source}: base '{file.base}' is an ablation; expected an experiment, as in mini/mddnet")
    variants, axis = _variants(file.vary, source)
    if file.axis_label is not None and axis is None:
        raise InputError(f"{source}: axis_label names an axis, but vary is not one setting with a list of numbers")
    return Ablation(f"{PREFIX}{path.stem}", file.title, base, file.seeds, variants, axis, file.axis_label)


def expand(ablation: Ablation, overrides: Mapping[str, Any]) -> tuple[Experiment, list[Experiment]]:
    """Create the experiments of an ablation, all with the overrides of the command line.

    Args:
        ablation: The ablation.
        overrides: Dotted setting -> value.

    Returns:
        The base experiment, and one experiment for each variant.

    Raises:
        InputError: If an override changes a setting that the variants change.
    """
    for setting in ablation.settings:
        clash = next((key for key in overrides if _same_or_inside(key, setting) or _same_or_inside(setting, key)), None)
        if clash is not None:
            raise InputError(
                f"--set {clash}={overrides[clash]}: {ablation.name} varies {setting}; leave one of them out"
            )
    base = load_experiment(ablation.base, overrides)
    seeds = ablation.seeds or base.seeds
    variants = [
        _variant(ablation, label, {**overrides, **changes}).model_copy(
            update={"name": f"{ablation.name}: {label}", "seeds": seeds}
        )
        for label, changes in ablation.variants.items()
    ]
    return base.model_copy(update={"seeds": seeds}), variants


def _variant(ablation: Ablation, label: str, changes: Mapping[str, Any]) -> Experiment:
    try:
        return load_experiment(ablation.base, changes)
    except InputError as fault:
        raise InputError(f"{ablation.name}: '{label}' does not fit its base: {fault}") from None


def _same_or_inside(outer: str, inner: str) -> bool:
    """Return True if the dotted name `inner` is the name `outer` or lies in that group."""
    return f"{inner}.".startswith(f"{outer}.")


def _variants(vary: dict[str, Any], source: str) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Return the variants as label -> dotted setting -> value, and the setting of the axis or None."""
    if len(vary) == 1 and isinstance(next(iter(vary.values())), list):
        ((setting, values),) = vary.items()
        variants = {_label(value): {setting: value} for value in values}
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        axis = setting if numeric else None
        if len(variants) < len(values):
            raise InputError(f"{source}: vary.{setting} gives a value twice")
    else:
        variants, axis = vary, None
        for label, changes in vary.items():
            if not isinstance(changes, dict) or not changes:
                raise InputError(f"{source}: vary.{label} is {changes!r}: expected settings, as in {{epochs: 10}}")
            missing = set(next(iter(vary.values()))) ^ set(changes)
            if missing:
                raise InputError(
                    f"{source}: every variant should give the same settings; '{sorted(missing)[0]}' is "
                    f"not in all of them"
                )
    points = [json.dumps(changes, sort_keys=True, default=str) for changes in variants.values()]
    if len(set(points)) < len(points):
        raise InputError(f"{source}: two variants have the same settings; leave one out")
    grouped = next(
        (key for changes in variants.values() for key, value in changes.items() if isinstance(value, dict)), None
    )
    if grouped is not None:
        raise InputError(
            f"{source}: vary.{grouped} is a group of settings; vary each by its own name, as in settings.memory.items"
        )
    if len(variants) < 2:
        raise InputError(f"{source}: vary holds one variant; expected at least two")
    return variants, axis


def _label(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def is_path(name: str) -> bool:
    """Return True if a name of the command line is the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))
