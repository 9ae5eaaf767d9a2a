"""Finds the variants of an ablation among records.

No record says which variant it is. Its settings alone decide, so that a cell can belong to several ablations.
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
from mddbench.report.rows.groups import UPPER_BOUND_MARK, Group
from mddbench.runs.records import Record

ABSENT = object()


@dataclass(frozen=True)
class Study:
    """An ablation as it was run on one dataset.

    Attributes:
        ablation: The ablation.
        name: Its name in file names.
        title: Its title, with the settings that `--set` changed in all variants.
        dataset: Name of the dataset.
        groups: A group for each variant, in the ablation's order and under the variant's label.
            All have the same seeds, if there is a seed that all variants have.
        base: All seeds of the variant that is the unchanged base; None if it was not run as itself.
        base_label: Label of that variant; empty if there is none.
    """

    ablation: Ablation
    name: str
    title: str
    dataset: str
    groups: list[Group]
    base: Group | None = None
    base_label: str = ""

    @property
    def values(self) -> list[float] | None:
        """The numbers that the variants are; None if they are not numbers."""
        axis = self.ablation.axis
        if axis is None:
            return None
        points = {label: float(changes[axis]) for label, changes in self.ablation.variants.items()}
        return [points[group.label.removesuffix(UPPER_BOUND_MARK)] for group in self.groups]


def only_of_ablation(record: Record) -> bool:
    """Check whether a record belongs to the table of its ablation only.

    Args:
        record: The record.

    Returns:
        True if it does not belong to the main table.
    """
    return record.experiment.startswith(PREFIX)


def studies(ablations: Iterable[Ablation], by_dataset: dict[str, list[Group]]) -> list[Study]:
    """Find the ablations that were run.

    Args:
        ablations: The ablations.
        by_dataset: Dataset -> groups.

    Returns:
        All ablations of which at least two variants were run under a protocol that is otherwise the same.
    """
    return [
        study
        for dataset, groups in by_dataset.items()
        for ablation in ablations
        for study in _of_dataset(ablation, dataset, groups)
    ]


def _of_dataset(ablation: Ablation, dataset: str, groups: list[Group]) -> list[Study]:
    """One study for each set of variants that agree in all settings that the ablation does not vary."""
    method = load_experiment(ablation.base).method
    alike: dict[tuple[str, int], dict[str, Group]] = {}
    for group in groups:
        label, rest = _variant(ablation, group.first)
        if group.first.method == method and label is not None:
            number = next(n for n in count() if label not in alike.get((rest, n), {}))
            alike.setdefault((rest, number), {})[label] = group
    sets = [members for _, members in sorted(alike.items()) if len(members) > 1]
    # A set counts if it is complete or holds the base's own record. If none does, the largest one counts.
    chosen = [s for s in sets if len(s) == len(ablation.variants) or _base_changes(ablation, s) is not None]
    chosen = chosen or sorted(sets, key=len)[-1:]
    result: list[Study] = []
    for members in sorted(chosen, key=lambda s: _base_changes(ablation, s) != {}):  # the unchanged base: the plain name
        changes = _base_changes(ablation, members) or {}
        changed = "".join(f", {key}={value}" for key, value in changes.items())
        suffix = f"-{next(iter(members.values())).first.protocol[:8]}" if result else ""
        ordered = {label: members[label] for label in ablation.variants if label in members}
        name = f"{ablation.name.removeprefix(PREFIX)}{suffix}"
        bases = ((label, group) for label, group in ordered.items() if _is_base(ablation, group.first))
        base_label, base = next(bases, ("", None))
        study = Study(ablation, name, f"{ablation.title}{changed}", dataset, _labelled(ordered), base, base_label)
        result.append(study)
    return result


def _is_base(ablation: Ablation, record: Record) -> bool:
    """True if a record is of the base experiment of an ablation."""
    name = ablation.base if ablation.base in experiment_names() else Path(ablation.base).stem
    return record.experiment == name


def _base_changes(ablation: Ablation, members: dict[str, Group]) -> dict[str, Any] | None:
    """The settings that `--set` changed in the record of the base experiment; None if no variant has that record."""
    records = [record for group in members.values() for record in group.records if _is_base(ablation, record)]
    changes: list[dict[str, Any]] = [dict(record.settings.get("overrides") or {}) for record in records]
    return min(changes, key=len, default=None)


def _labelled(members: dict[str, Group]) -> list[Group]:
    """The groups under the names of their variants, with the seeds that all share, or with all seeds."""
    # The mean over several seeds is not compared with a single run.
    shared = set.intersection(*({record.seed for record in group.records} for group in members.values()))
    return [
        Group(
            f"{label}{UPPER_BOUND_MARK}" if group.first.card.upper_bound else label,
            tuple(record for record in group.records if record.seed in shared or not shared),
        )
        for label, group in members.items()
    ]


def _variant(ablation: Ablation, record: Record) -> tuple[str | None, str]:
    """The variant that a record is, or None; and, as text, its settings and protocol without the varied settings."""
    settings = deepcopy({key: value for key, value in record.settings.items() if key != "overrides"})
    point = {}
    for setting in ablation.settings:
        *parents, last = setting.split(".")
        block: Any = settings
        for parent in parents:
            block = block.get(parent) if isinstance(block, dict) else None
        point[setting] = block.pop(last, ABSENT) if isinstance(block, dict) else ABSENT
    label = next((name for name, changes in ablation.variants.items() if changes == point), None)
    words = {word for setting in ablation.settings for word in setting.split(".")}
    card = {name: value for name, value in record.card.outside_settings().items() if name.split("_")[0] not in words}
    return label, json.dumps([settings, card], sort_keys=True)
