"""Records from several places put together: which are the same, which contradict one another, and which is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mddbench.experiments.ablation import PREFIX
from mddbench.metrics.names import SEVEN
from mddbench.runs.records import Record, as_json


@dataclass(frozen=True)
class Found:
    """A record, where it was found, and the names of the files that belong to it there."""

    record: Record
    place: str
    files: frozenset[str] = frozenset()

    @property
    def extras(self) -> frozenset[str]:
        """What it has that another record of the same numbers may lack; an experiment of its own is more than a variant."""
        has = {
            "own name": not self.record.experiment.startswith(PREFIX),
            "confidence": bool(self.record.confidence),
            "test_curve": bool(self.record.test_curve),
        }
        return self.files | {name for name, there in has.items() if there}


@dataclass(frozen=True)
class Conflict:
    """Two records of one cell that contradict each other, and of which the first is kept."""

    kept: Found
    other: Found

    def __str__(self) -> str:
        record = self.kept.record
        name = f"{record.method}/{record.dataset}/seed{record.seed} ({record.experiment}, {record.identity[:8]})"
        found = largest_difference(record, self.other.record)
        if found is None:
            return f"{name}: {self.kept.place} and {self.other.place} have equal metrics, from different weights"
        place, key = found
        one, two = record.value(place, key), self.other.record.value(place, key)
        apart = "" if math.isnan(one - two) else f", {abs(one - two):.2g} apart"
        return (
            f"{name}: {self.kept.place} and {self.other.place} differ most in {place}/{key}: "
            f"{_shown(one)} and {_shown(two)}{apart}"
        )


@dataclass(frozen=True)
class Merged:
    """One record of each cell, in the order in which cells were found; and each other version of it as a conflict."""

    kept: tuple[Found, ...]
    conflicts: tuple[Conflict, ...]


def merge(found: Iterable[Found]) -> Merged:
    """Keeps the first record of each cell, or one of the same numbers that has more; others contradict it."""
    versions: dict[str, list[Found]] = {}
    for one in found:
        known = versions.setdefault(one.record.identity, [])
        index = next((i for i, other in enumerate(known) if _same_numbers(one.record, other.record)), None)
        if index is None:
            known.append(one)
        elif one.extras > known[index].extras:
            known[index] = one
    kept = tuple(each[0] for each in versions.values())
    return Merged(kept, tuple(Conflict(each[0], other) for each in versions.values() for other in each[1:]))


def merge_into(stored: Sequence[Found], incoming: Sequence[Found], replace: bool = False) -> Merged:
    """What of `incoming` a store should take; conflicts among all. A record is taken if the store has none of its cell, or one
    of the same numbers with less; `replace` lets the last of those in conflict be kept, not the first.
    """
    together = [*stored, *incoming]
    merged = merge(reversed(together) if replace else together)
    known = {one.record.identity: one for one in stored}
    taken = [one for one in merged.kept if _is_news(one, known.get(one.record.identity))]
    return Merged(tuple(reversed(taken) if replace else taken), merged.conflicts)


def in_fixed_order(found: Iterable[Found]) -> list[Found]:
    """The same, in an order that follows from the records alone, those that have more before others of their cell."""
    return sorted(found, key=lambda one: (one.record.identity, -len(one.extras), as_json(one.record), one.place))


def largest_difference(one: Record, two: Record) -> tuple[str, str] | None:
    """(category or 'mean', metric) in which two records differ most; what only one defines is further apart than any values.

    None if they do not differ.
    """
    places = {(place, key) for record in (one, two) for place, values in record.metrics.items() for key in values}
    apart = {place: _apart(one.value(*place), two.value(*place)) for place in sorted(places)}
    largest = max(apart, key=lambda place: apart[place])
    return largest if apart[largest] > 0 else None


def farthest(mean: Mapping[str, float], record: Record) -> tuple[str, float]:
    """The metric whose mean is farthest from the record's, and how far: infinitely if only one of the two is defined."""
    apart = {}
    for key in SEVEN:
        pair = mean[key], record.value("mean", key)
        undefined = sum(map(math.isnan, pair))
        apart[key] = (abs(pair[0] - pair[1]), math.inf, 0.0)[undefined]
    key = max(apart, key=lambda each: apart[each])
    return key, apart[key]


def _same_numbers(one: Record, two: Record) -> bool:
    return one.model_sha256 == two.model_sha256 and largest_difference(one, two) is None


def _is_news(one: Found, stored: Found | None) -> bool:
    return stored is None or not _same_numbers(one.record, stored.record) or one.extras > stored.extras


def _apart(one: float, two: float) -> float:
    if math.isnan(one) or math.isnan(two):
        return 0.0 if math.isnan(one) and math.isnan(two) else math.inf
    return abs(one - two)


def _shown(value: float) -> str:
    return "not defined" if math.isnan(value) else repr(value)
