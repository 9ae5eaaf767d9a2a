"""Ablations: one experiment with some of its settings varied, as a small YAML in `experiments/ablation/`."""

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
from mddbench.plugins import nearest
from mddbench.settings import Strict, packaged, read_yaml, shown_path, validated

KEPT = "ablations"
PREFIX = "ablation/"
"""What the names of ablations, and of the experiments that only they have ('ablation/components: all'), begin with."""


class AblationFile(Strict):
    """title: of table and plot; base: an experiment, or its file beside this one, but no ablation; seeds: instead of the
    base's; vary: one setting with a list of values, or label -> settings, where every variant gives the same ones, so that a
    reader sees what each has; axis_label: of a plot's axis, instead of the setting's name, where the variants are numbers.
    """

    title: str
    base: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    vary: Annotated[dict[str, Any], Field(min_length=1)]
    axis_label: Annotated[str, Field(min_length=1)] | None = None


@dataclass(frozen=True)
class Ablation:
    """variants: label -> dotted setting -> value, at least two, all with the same settings; axis: the setting whose numbers are
    the variants, None if they are not numbers of one setting; axis_label: what people call it, None if the file does not say.
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
        """What a plot's axis is called, '' if there is none.

        >>> Ablation("ablation/a", "A", "mini/a", None, {}, "settings.memory.top_k").axis_name
        'memory.top k'
        """
        return self.axis_label or (self.axis or "").removeprefix("settings.").replace("_", " ")

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that are varied."""
        return tuple(next(iter(self.variants.values())))


def ablation_names() -> list[str]:
    """All ablations that come with the package, as 'ablation/components'."""
    return sorted(f"{PREFIX}{file.stem}" for file in (packaged("experiments") / "ablation").glob("*.yaml"))


def keep(files: Iterable[str], out: Path) -> None:
    """Copy ablations of a user's own, and their bases, beside their cells, so that every later report of them has them."""
    folder = out / KEPT
    for file in map(Path, files):
        base = Path(load_ablation(str(file)).base)
        folder.mkdir(parents=True, exist_ok=True)
        for each in (file, base) if is_path(str(base)) else (file,):
            if not (folder / each.name).exists() or not each.samefile(folder / each.name):
                shutil.copyfile(each, folder / each.name)


def all_ablations(out: Path, files: Iterable[Path], say: Callable[[str], None]) -> list[Ablation]:
    """Those that come with the package, those kept in an output folder (one that no longer loads is said and left out), and
    those of some YAML files.
    """
    found = {name: load_ablation(name) for name in ablation_names()}
    for file in sorted((out / KEPT).glob("*.y*ml")):
        try:
            if not is_ablation(str(file)):
                continue
            found[file.stem] = load_ablation(str(file))
            load_experiment(found[file.stem].base)
        except InputError as fault:
            found.pop(file.stem, None)
            say(f"left out of the report: {fault}")
    return list((found | {file.stem: load_ablation(str(file)) for file in files}).values())


def is_ablation(name: str) -> bool:
    """Whether a name of the command line is an ablation's: 'ablation/components', or a YAML file with `vary`."""
    return name.startswith(PREFIX) or (is_path(name) and Path(name).is_file() and "vary" in read_yaml(Path(name)))


def load_ablation(name: str) -> Ablation:
    """An ablation by its name or by the path of a YAML file. Raises InputError in one line for anything wrong."""
    if not is_path(name) and name not in ablation_names():
        raise InputError(
            f"unknown ablation '{name}'{nearest(name, ablation_names())}; known: {', '.join(ablation_names())}"
        )
    path = Path(name) if is_path(name) else packaged("experiments") / f"{name}.yaml"
    where = shown_path(path)
    if is_path(name) and f"{PREFIX}{path.stem}" in ablation_names():
        raise InputError(f"{where}: '{path.stem}' is the name of an ablation that comes with mddbench; rename the file")
    file = validated(AblationFile, read_yaml(path), where)
    beside = path.parent / file.base
    base = str(beside) if is_path(file.base) and beside.exists() else file.base
    if is_ablation(base):
        raise InputError(f"{where}: base '{file.base}' is an ablation; expected an experiment, as in mini/mddnet")
    variants, axis = _variants(file.vary, where)
    if file.axis_label is not None and axis is None:
        raise InputError(f"{where}: axis_label names an axis, but vary is not one setting with a list of numbers")
    return Ablation(f"{PREFIX}{path.stem}", file.title, base, file.seeds, variants, axis, file.axis_label)


def expand(ablation: Ablation, overrides: Mapping[str, Any]) -> tuple[Experiment, list[Experiment]]:
    """(the base, one experiment a variant), all with the overrides of the command line.

    Raises InputError for an override of a setting that is varied.
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
    return f"{inner}.".startswith(f"{outer}.")


def _variants(vary: dict[str, Any], where: str) -> tuple[dict[str, dict[str, Any]], str | None]:
    if len(vary) == 1 and isinstance(next(iter(vary.values())), list):
        ((setting, values),) = vary.items()
        variants = {_label(value): {setting: value} for value in values}
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        axis = setting if numeric else None
        if len(variants) < len(values):
            raise InputError(f"{where}: vary.{setting} gives a value twice")
    else:
        variants, axis = vary, None
        for label, changes in vary.items():
            if not isinstance(changes, dict) or not changes:
                raise InputError(f"{where}: vary.{label} is {changes!r}: expected settings, as in {{epochs: 10}}")
            missing = set(next(iter(vary.values()))) ^ set(changes)
            if missing:
                raise InputError(
                    f"{where}: every variant should give the same settings; '{sorted(missing)[0]}' is "
                    f"not in all of them"
                )
    points = [json.dumps(changes, sort_keys=True, default=str) for changes in variants.values()]
    if len(set(points)) < len(points):
        raise InputError(f"{where}: two variants have the same settings; leave one out")
    grouped = next(
        (key for changes in variants.values() for key, value in changes.items() if isinstance(value, dict)), None
    )
    if grouped is not None:
        raise InputError(
            f"{where}: vary.{grouped} is a group of settings; vary each by its own name, as in settings.memory.items"
        )
    if len(variants) < 2:
        raise InputError(f"{where}: vary holds one variant; expected at least two")
    return variants, axis


def _label(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def is_path(name: str) -> bool:
    """Whether a name of the command line is a file's."""
    return name.endswith((".yaml", ".yml"))
