"""Ablations: one experiment with some of its settings varied, as a small YAML in `experiments/ablation/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mddbench.config import Experiment, Strict, load_experiment, packaged, read_yaml, shown_path, validated
from mddbench.errors import InputError
from mddbench.plugins import nearest

PREFIX = "ablation/"
"""What the names of ablations, and of the experiments that only they have ('ablation/components: all'), begin with."""


class AblationFile(Strict):
    """title: of table and plot; base: an experiment, not another ablation; seeds: instead of the base's; vary: one setting
    with a list of values, or label -> settings, where every variant gives the same ones, so that a reader sees what each has.
    """

    title: str
    base: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    vary: Annotated[dict[str, Any], Field(min_length=1)]


@dataclass(frozen=True)
class Ablation:
    """variants: label -> dotted setting -> value, at least two, all with the same settings; axis: the setting whose numbers are
    the variants, None if they are not numbers of one setting.
    """

    name: str
    title: str
    base: str
    seeds: tuple[int, ...] | None
    variants: dict[str, dict[str, Any]]
    axis: str | None

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that are varied."""
        return tuple(next(iter(self.variants.values())))


def ablation_names() -> list[str]:
    """All ablations that come with the package, as 'ablation/components'."""
    return sorted(f"{PREFIX}{file.stem}" for file in (packaged("experiments") / "ablation").glob("*.yaml"))


def all_ablations(files: Iterable[str] = ()) -> list[Ablation]:
    """Those that come with the package, and those of some YAML files."""
    return [load_ablation(name) for name in dict.fromkeys((*ablation_names(), *files))]


def is_ablation(name: str) -> bool:
    """Whether a name of the command line is an ablation's: 'ablation/components', or a YAML file with `vary`."""
    return name.startswith(PREFIX) or (_is_path(name) and Path(name).is_file() and "vary" in read_yaml(Path(name)))


def load_ablation(name: str) -> Ablation:
    """An ablation by its name or by the path of a YAML file. Raises InputError in one line for anything wrong."""
    if not _is_path(name) and name not in ablation_names():
        raise InputError(
            f"unknown ablation '{name}'{nearest(name, ablation_names())}; known: {', '.join(ablation_names())}"
        )
    path = Path(name) if _is_path(name) else packaged("experiments") / f"{name}.yaml"
    where = shown_path(path)
    file = validated(AblationFile, read_yaml(path), where)
    if is_ablation(file.base):
        raise InputError(f"{where}: base '{file.base}' is an ablation; expected an experiment, as in mini/mddnet")
    variants, axis = _variants(file.vary, where)
    return Ablation(f"{PREFIX}{path.stem}", file.title, file.base, file.seeds, variants, axis)


def expand(ablation: Ablation, overrides: Mapping[str, Any]) -> tuple[Experiment, list[Experiment]]:
    """(the base, one experiment a variant), all with the overrides of the command line.

    Raises InputError for an override of a setting that is varied.
    """
    for setting in ablation.settings:
        clash = next((key for key in overrides if f"{setting}.".startswith(f"{key}.")), None)
        if clash is not None:
            raise InputError(
                f"--set {clash}={overrides[clash]}: {ablation.name} varies {setting}; leave one of them out"
            )
    base = load_experiment(ablation.base, overrides)
    seeds = ablation.seeds or base.seeds
    variants = [
        load_experiment(ablation.base, {**overrides, **changes}).model_copy(
            update={"name": f"{ablation.name}: {label}", "seeds": seeds}
        )
        for label, changes in ablation.variants.items()
    ]
    return base.model_copy(update={"seeds": seeds}), variants


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
    if len(variants) < 2:
        raise InputError(f"{where}: vary holds one variant; expected at least two")
    return variants, axis


def _label(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
