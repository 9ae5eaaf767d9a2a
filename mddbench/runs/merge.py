"""Merges records from several places.

It finds records that are the same and records that contradict one another, and decides which ones are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mddbench.experiments.ablation import PREFIX
from mddbench.metrics.names import MEAN, SEVEN
from mddbench.runs.records import Record, as_json


@dataclass(frozen=True)
class FoundRecord:
    """A record and where it was found.

    Attributes:
        record: The record.
        source: File or run in which it was found, for messages.
        files: Names of the other files that belong to it there.
    """

    record: Record
    source: str
    files: frozenset[str] = frozenset()

    @property
    def extras(self) -> frozenset[str]:
        """What it has in addition to the metrics, and another record of the same metrics may lack.

        The name of an experiment counts as more than the name of an ablation's variant.
        """
        extras = {
            "own name": not self.record.experiment.startswith(PREFIX),
            "confidence": bool(self.record.confidence),
            "test_curve": bool(self.record.test_curve),
            "further": bool(self.record.further),
        }
        return self.files | {name for name, present in extras.items() if present}


@dataclass(frozen=True)
class Conflict:
    """Two records of one cell that contradict each other.

    Attributes:
        kept: The record that is kept.
        rejected: The record that is not kept.
    """

    kept: FoundRecord
    rejected: FoundRecord

    def __str__(self) -> str:
        record = self.kept.record
        name = f"{record.method}/{record.dataset}/seed{record.seed} ({record.experiment}, {record.identity[:8]})"
        location = largest_difference(record, self.rejected.record)
        if location is None:
            return f"{name}: {self.kept.source} and {self.rejected.source} have equal metrics, from different weights"
        group, key = location
        kept_value, rejected_value = record.value(group, key), self.rejected.record.value(group, key)
        difference = kept_value - rejected_value
        distance = "" if math.isnan(difference) else f", {abs(difference):.2g} apart"
        return (
            f"{name}: {self.kept.source} and {self.rejected.source} differ most in {group}/{key}: "
            f"{_shown(kept_value)} and {_shown(rejected_value)}{distance}"
        )


@dataclass(frozen=True)
class Merged:
    """The result of a merge.

    Attributes:
        kept: One record of each cell, in the order in which the cells were found.
        conflicts: One conflict for each other version of a cell's record.
    """

    kept: tuple[FoundRecord, ...]
    conflicts: tuple[Conflict, ...]


def merge(records: Iterable[FoundRecord]) -> Merged:
    """Keep one record of each cell.

    It is the first one, or one with the same numbers and more extras. All other versions contradict it.

    Args:
        records: The records, in order of preference.

    Returns:
        The kept records and the conflicts.
    """
    versions: dict[str, list[FoundRecord]] = {}
    for candidate in records:
        cell_versions = versions.setdefault(candidate.record.identity, [])
        index = next(
            (number for number, version in enumerate(cell_versions) if _same_numbers(candidate.record, version.record)),
            None,
        )
        if index is None:
            cell_versions.append(candidate)
        elif candidate.extras > cell_versions[index].extras:
            cell_versions[index] = candidate
    kept = tuple(cell_versions[0] for cell_versions in versions.values())
    conflicts = tuple(
        Conflict(cell_versions[0], version) for cell_versions in versions.values() for version in cell_versions[1:]
    )
    return Merged(kept, conflicts)


def merge_into(stored: Sequence[FoundRecord], incoming: Sequence[FoundRecord], replace: bool = False) -> Merged:
    """Find the records that a store should take.

    A record is taken if the store has none of its cell, or one with equal numbers and fewer extras.

    Args:
        stored: Records of the store.
        incoming: New records.
        replace: True to keep the last of several records in conflict, False to keep the first.

    Returns:
        The records to take, and the conflicts among all records.
    """
    together = [*stored, *incoming]
    merged = merge(reversed(together) if replace else together)
    stored_by_cell = {entry.record.identity: entry for entry in stored}
    accepted = [entry for entry in merged.kept if _is_news(entry, stored_by_cell.get(entry.record.identity))]
    return Merged(tuple(reversed(accepted) if replace else accepted), merged.conflicts)


def in_fixed_order(records: Iterable[FoundRecord]) -> list[FoundRecord]:
    """Sort records by their content alone, so that the result does not depend on their order.

    Args:
        records: The records.

    Returns:
        The records, sorted by cell. Among the records of a cell, those with more extras come first.
    """
    return sorted(
        records, key=lambda entry: (entry.record.identity, -len(entry.extras), as_json(entry.record), entry.source)
    )


def largest_difference(first: Record, second: Record) -> tuple[str, str] | None:
    """Find the metric in which two records differ most.

    A metric that only one record defines counts as a greater difference than any two values.

    Args:
        first: A record.
        second: A record of the same cell.

    Returns:
        'mean' or a category, and the key of the metric; None if the records do not differ.
    """
    metrics = {(group, key) for record in (first, second) for group, values in record.metrics.items() for key in values}
    differences = {metric: _difference(first.value(*metric), second.value(*metric)) for metric in sorted(metrics)}
    largest = max(differences, key=lambda metric: differences[metric])
    return largest if differences[largest] > 0 else None


def largest_mean_difference(mean: Mapping[str, float], record: Record) -> tuple[str, float]:
    """Find the metric whose mean differs most from a record.

    Args:
        mean: Metric -> mean over the categories, NaN where it is not defined.
        record: The record.

    Returns:
        Key of the metric and the absolute difference. The difference is infinite if only one of the two is defined.
    """
    differences = {key: _difference(mean[key], record.value(MEAN, key)) for key in SEVEN}
    largest = max(differences, key=lambda key: differences[key])
    return largest, differences[largest]


def _same_numbers(first: Record, second: Record) -> bool:
    return first.model_sha256 == second.model_sha256 and largest_difference(first, second) is None


def _is_news(candidate: FoundRecord, stored: FoundRecord | None) -> bool:
    """Return True if the store lacks the candidate's numbers or some of its extras."""
    return stored is None or not _same_numbers(candidate.record, stored.record) or candidate.extras > stored.extras


def _difference(first: float, second: float) -> float:
    """Return the absolute difference; infinity if only one value is NaN, 0 if both are."""
    if math.isnan(first) or math.isnan(second):
        return 0.0 if math.isnan(first) and math.isnan(second) else math.inf
    return abs(first - second)


def _shown(value: float) -> str:
    return "not defined" if math.isnan(value) else repr(value)
