"""Finds the variants of an ablation among records. Nothing marks them: a variant is known by its settings alone, so that a cell
that several ablations share counts in each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mddbench.ablation import PREFIX, Ablation
from mddbench.config import experiment_names, load_experiment
from mddbench.records import Record
from mddbench.report.tables import MARK, Group, is_upper_bound

ABSENT = object()
OUTSIDE_SETTINGS = ("method_version", "encoder_sha256", "textures", "interpolation", "mask_rule", "metrics")
"""What a card says that no setting decides: variants of one table agree in it, unless it follows from what is varied."""


@dataclass(frozen=True)
class Study:
    """An ablation as it was run on one dataset. groups: a variant each, in the ablation's order, labelled by it, with the seeds
    that all of them have; name: of its files.
    """

    ablation: Ablation
    name: str
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
    """One study for each protocol (budget, encoder, ...): of the sets of variants that agree in all other settings of the
    method, the one around the base itself, or else the largest.
    """
    method = load_experiment(ablation.base).method
    base = ablation.base if ablation.base in experiment_names() else Path(ablation.base).stem
    alike: dict[tuple[str, str], dict[str, Group]] = {}
    for group in groups:
        label, protocol, rest = _place(ablation, group.first)
        if group.first.method == method and label is not None:
            alike.setdefault((protocol, rest), {})[label] = group
    best: dict[str, dict[str, Group]] = {}
    for (protocol, _), members in sorted(alike.items()):
        if len(members) > 1 and _rank(members, base) > _rank(best.get(protocol, {}), base):
            best[protocol] = members
    plain = ablation.name.removeprefix(PREFIX)
    return [
        Study(
            ablation,
            plain if len(best) == 1 else f"{plain}-{hashlib.sha256(protocol.encode()).hexdigest()[:8]}",
            dataset,
            _labelled({label: members[label] for label in ablation.variants if label in members}),
        )
        for protocol, members in best.items()
    ]


def _rank(members: dict[str, Group], base: str) -> tuple[bool, int]:
    return any(record.experiment == base for group in members.values() for record in group.records), len(members)


def _labelled(members: dict[str, Group]) -> list[Group]:
    """Groups under their variants' names, with the records of those seeds that all have, so that no mean is compared with a
    single run; if they share no seed, as they are.
    """
    shared = set.intersection(*({record.seed for record in group.records} for group in members.values()))
    return [
        Group(
            f"{label}{MARK}" if is_upper_bound(group.first) else label,
            tuple(record for record in group.records if record.seed in shared or not shared),
        )
        for label, group in members.items()
    ]


def _place(ablation: Ablation, record: Record) -> tuple[str | None, str, str]:
    """(the variant that a record is, None if none; the protocol but for what is varied; the method's other settings)."""
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
    card = {key: record.card.get(key) for key in OUTSIDE_SETTINGS if key.split("_")[0] not in words}
    own = settings.pop("settings", {})
    return label, json.dumps([settings, card], sort_keys=True), json.dumps(own, sort_keys=True)
