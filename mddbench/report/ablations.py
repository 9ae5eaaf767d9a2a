"""Finds the variants of an ablation among records. Nothing marks them: a variant is known by its settings alone, so that a cell
that several ablations share counts in each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from mddbench.ablation import PREFIX, Ablation
from mddbench.config import load_experiment
from mddbench.records import Record
from mddbench.report.tables import Group

ABSENT = object()


@dataclass(frozen=True)
class Study:
    """An ablation as it was run on one dataset. groups: a variant each, in the ablation's order, labelled by it; values: the
    numbers that the variants are, None if they are none; name: of its files.
    """

    ablation: Ablation
    name: str
    dataset: str
    groups: list[Group]

    @property
    def values(self) -> list[float] | None:
        axis = self.ablation.axis
        if axis is None:
            return None
        return [float(self.ablation.variants[group.label][axis]) for group in self.groups]


def only_of_ablation(record: Record) -> bool:
    """Whether a record is of a variant, which stands in the table of its ablation and not in the main one."""
    return record.experiment.startswith(PREFIX)


def studies(ablations: Iterable[Ablation], by_dataset: dict[str, list[Group]]) -> list[Study]:
    """All ablations of which at least two variants were run under settings that are otherwise the same."""
    return [
        study
        for dataset, groups in by_dataset.items()
        for ablation in ablations
        for study in _of_dataset(ablation, dataset, groups)
    ]


def _of_dataset(ablation: Ablation, dataset: str, groups: list[Group]) -> list[Study]:
    method = load_experiment(ablation.base).method
    alike: dict[str, dict[str, Group]] = {}
    for group in groups:
        if group.first.method != method:
            continue
        rest, point = _split(group.first, ablation.settings)
        label = next((name for name, changes in ablation.variants.items() if changes == point), None)
        if label is not None:
            alike.setdefault(rest, {})[label] = replace(group, label=label)
    plain = ablation.name.removeprefix(PREFIX)
    found = [(rest, members) for rest, members in sorted(alike.items()) if len(members) > 1]
    return [
        Study(
            ablation,
            plain if len(found) == 1 else f"{plain}-{next(iter(members.values())).first.protocol[:8]}",
            dataset,
            [members[label] for label in ablation.variants if label in members],
        )
        for _, members in found
    ]


def _split(record: Record, varied: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """(all settings but the varied ones, as text; the varied ones)."""
    rest = deepcopy({key: value for key, value in record.settings.items() if key != "overrides"})
    point = {}
    for setting in varied:
        *parents, last = setting.split(".")
        place: Any = rest
        for part in parents:
            place = place.get(part) if isinstance(place, dict) else None
        point[setting] = place.pop(last, ABSENT) if isinstance(place, dict) else ABSENT
    return json.dumps(rest, sort_keys=True), point
