"""Finds the variants of an ablation among records. Nothing marks them: a variant is known by its settings alone, so that a cell
that several ablations share counts in each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mddbench.experiments.ablation import PREFIX, Ablation
from mddbench.experiments.catalogue import experiment_names, load_experiment
from mddbench.report.rows.groups import MARK, Group
from mddbench.runs.records import Record

ABSENT = object()


@dataclass(frozen=True)
class Study:
    """An ablation as it was run on one dataset. groups: a variant each, in the ablation's order, labelled by it, with the seeds
    that all of them have; name: of its files; title: the ablation's, and what `--set` changed in all variants.
    """

    ablation: Ablation
    name: str
    title: str
    dataset: str
    groups: list[Group]

    @property
    def values(self) -> list[float] | None:
        """The numbers that the variants are, None if they are none."""
        axis = self.ablation.axis
        if axis is None:
            return None
        points = {label: float(changes[axis]) for label, changes in self.ablation.variants.items()}
        return [points[group.label.removesuffix(MARK)] for group in self.groups]


def only_of_ablation(record: Record) -> bool:
    """Whether a record is of a variant, which stands in the table of its ablation and not in the main one."""
    return record.experiment.startswith(PREFIX)


def studies(ablations: Iterable[Ablation], by_dataset: dict[str, list[Group]]) -> list[Study]:
    """All ablations of which at least two variants were run under a protocol that is otherwise the same."""
    return [
        study
        for dataset, groups in by_dataset.items()
        for ablation in ablations
        for study in _of_dataset(ablation, dataset, groups)
    ]


def _of_dataset(ablation: Ablation, dataset: str, groups: list[Group]) -> list[Study]:
    """One study for each set of variants that agree in all that is not varied: those that are complete or have the base's own
    record, or else the largest. The one around the base as it is has the plain name.
    """
    method = load_experiment(ablation.base).method
    alike: dict[tuple[str, int], dict[str, Group]] = {}
    for group in groups:
        label, rest = _place(ablation, group.first)
        if group.first.method == method and label is not None:
            number = next(n for n in count() if label not in alike.get((rest, n), {}))
            alike.setdefault((rest, number), {})[label] = group
    sets = [members for _, members in sorted(alike.items()) if len(members) > 1]
    chosen = [one for one in sets if len(one) == len(ablation.variants) or _around(ablation, one) is not None]
    chosen = sorted(chosen or sorted(sets, key=len)[-1:], key=lambda one: _around(ablation, one) != {})
    found: list[Study] = []
    for members in chosen:
        changed = _around(ablation, members) or {}
        told = "".join(f", {key}={value}" for key, value in changed.items())
        suffix = f"-{next(iter(members.values())).first.protocol[:8]}" if found else ""
        ordered = {label: members[label] for label in ablation.variants if label in members}
        name = f"{ablation.name.removeprefix(PREFIX)}{suffix}"
        found.append(Study(ablation, name, f"{ablation.title}{told}", dataset, _labelled(ordered)))
    return found


def _around(ablation: Ablation, members: dict[str, Group]) -> dict[str, Any] | None:
    """What `--set` changed in the base's own record among the variants, {} if nothing; None if it is not among them."""
    base = ablation.base if ablation.base in experiment_names() else Path(ablation.base).stem
    own = [record for group in members.values() for record in group.records if record.experiment == base]
    changes: list[dict[str, Any]] = [dict(record.settings.get("overrides") or {}) for record in own]
    return min(changes, key=len, default=None)


def _labelled(members: dict[str, Group]) -> list[Group]:
    """Groups under their variants' names, with the records of those seeds that all have, so that no mean is compared with a
    single run; if they share no seed, as they are.
    """
    shared = set.intersection(*({record.seed for record in group.records} for group in members.values()))
    return [
        Group(
            f"{label}{MARK}" if group.first.card.upper_bound else label,
            tuple(record for record in group.records if record.seed in shared or not shared),
        )
        for label, group in members.items()
    ]


def _place(ablation: Ablation, record: Record) -> tuple[str | None, str]:
    """(the variant that a record is, None if none; its settings and protocol but for what is varied, as text)."""
    settings = deepcopy({key: value for key, value in record.settings.items() if key != "overrides"})
    point = {}
    for setting in ablation.settings:
        *parents, last = setting.split(".")
        place: Any = settings
        for part in parents:
            place = place.get(part) if isinstance(place, dict) else None
        point[setting] = place.pop(last, ABSENT) if isinstance(place, dict) else ABSENT
    label = next((name for name, changes in ablation.variants.items() if changes == point), None)
    words = {word for setting in ablation.settings for word in setting.split(".")}
    card = {name: value for name, value in record.card.outside_settings().items() if name.split("_")[0] not in words}
    return label, json.dumps([settings, card], sort_keys=True)
