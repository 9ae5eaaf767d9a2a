"""Which records share a row, and which rows may share a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from mddbench.runs.card import ProtocolCard, Setting, label
from mddbench.runs.records import Record

OTHER = "†"
"""Marks a row under another protocol."""
PUBLISHED = "‡"
"""Marks a row that is quoted from a publication and was not measured here."""
MARK = ", test labels given (upper bound)"


@dataclass(frozen=True)
class Group:
    """The seeds of one protocol: a row of a table. label: the method, and what tells it apart where that is needed; differs:
    what of its card does not agree with the other rows', '' if all does.
    """

    label: str
    records: tuple[Record, ...]
    differs: str = ""

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def shown(self) -> str:
        """The label, marked if the row is under another protocol."""
        return f"{self.label} {OTHER}" if self.differs else self.label


@dataclass(frozen=True)
class Sheet:
    """Rows that share tables. place: the folder of its files; dataset: for titles; other: what of their protocol is not that of
    the dataset's first sheet, '' in that one.
    """

    place: str
    dataset: str
    groups: tuple[Group, ...]
    other: str = ""


def group_by_protocol(records: Iterable[Record]) -> dict[str, list[Group]]:
    """Dataset -> groups, in the order of labels; records of one protocol share a group, and nothing else does.

    Two trees read as one dataset (their fingerprints differ) are two datasets here: 'folder-0123abcd'. Two protocols of one
    method are told apart by their experiment, then by what `--set` changed, then by the protocol's hash.
    """
    protocols: dict[tuple[str, str], list[Record]] = {}
    records = list(records)
    trees = {(record.dataset, record.fingerprint) for record in records}
    shared = {dataset for dataset, _ in trees if sum(other == dataset for other, _ in trees) > 1}
    for record in records:
        place = f"{record.dataset}-{record.fingerprint[:8]}" if record.dataset in shared else record.dataset
        protocols.setdefault((place, record.protocol), []).append(record)
    by_dataset: dict[str, list[tuple[Record, ...]]] = {}
    for (dataset, _), members in sorted(protocols.items()):
        by_dataset.setdefault(dataset, []).append(tuple(sorted(members, key=lambda record: record.seed)))
    return {dataset: _labelled(groups) for dataset, groups in by_dataset.items()}


def sheets(records: Iterable[Record], allow_mixed: bool = False) -> list[Sheet]:
    """The sheets of each dataset: one for each set of rows whose cards agree. First the one of unified models that nobody tells
    anything, or else the one with the most records.

    allow_mixed: one sheet a dataset; rows whose card does not agree with the first set's are marked.
    """
    found = []
    for dataset, groups in group_by_protocol(records).items():
        cards: dict[str, list[Group]] = {}
        for group in groups:
            cards.setdefault(_task(group), []).append(group)
        ordered = sorted(cards.values(), key=_rank)
        usual = ordered[0][0].first.card
        if allow_mixed:
            marked = [replace(group, differs=_difference(group, usual)) for group in groups]
            found.append(Sheet(dataset, dataset, tuple(marked)))
            continue
        for rows in ordered:
            other = _difference(rows[0], usual)
            suffix = f"-{hashlib.sha256(_task(rows[0]).encode()).hexdigest()[:8]}" if other else ""
            labelled = tuple(_labelled([group.records for group in rows]))
            found.append(Sheet(f"{dataset}{suffix}", f"{dataset}{', ' if other else ''}{other}", labelled, other))
    return found


def refusals(found: list[Sheet]) -> list[str]:
    """A line for each sheet that could not share its dataset's table."""
    return [
        f"{sheet.dataset}: another protocol, so tables of its own ({sheet.place}); --allow-mixed puts all rows into one"
        for sheet in found
        if sheet.other
    ]


def _rank(rows: list[Group]) -> tuple[bool, bool, int]:
    card = rows[0].first.card
    return not card.unified, card.upper_bound or card.trained_elsewhere, -sum(len(group.records) for group in rows)


def _task(group: Group) -> str:
    """The fields in which the rows of a table must agree, as text."""
    return json.dumps({name: _plain(value) for name, value in group.first.card.task().items()}, sort_keys=True)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Setting) else value


def _difference(group: Group, usual: ProtocolCard) -> str:
    own, others = group.first.card.task(), usual.task()
    return "; ".join(f"{label(name)} {own[name]}" for name in own if own[name] != others[name])


def _labelled(groups: list[tuple[Record, ...]]) -> list[Group]:
    ways: tuple[Callable[[Record], str], ...] = (
        _name,
        lambda record: f"{_name(record)} ({record.experiment})",
        lambda record: f"{_name(record)} ({record.experiment}{_overrides(record)})",
        lambda record: f"{_name(record)} ({record.experiment}{_overrides(record)}, {record.protocol[:8]})",
    )
    labelled = []
    for members in groups:
        way = next(w for w in ways if sum(w(other[0]) == w(members[0]) for other in groups) == 1)
        labelled.append(Group(way(members[0]), members))
    return sorted(labelled, key=lambda group: group.label)


def _name(record: Record) -> str:
    """The method, marked where it was told what nobody tells it at test."""
    return f"{record.label}{MARK}" if record.card.upper_bound else record.label


def _overrides(record: Record) -> str:
    changed = record.settings.get("overrides") or {}
    return "".join(f", {key}={value}" for key, value in changed.items())
