"""Which records share a row, and which rows may share a table."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, replace

from mddbench.metrics.names import COLUMNS, MAD, MEAN
from mddbench.runs.card import CARD_FIELDS, ProtocolCard
from mddbench.runs.records import Record

OTHER_PROTOCOL = "†"  # marks a row under another protocol
PUBLISHED = "‡"  # marks a row that is quoted from a publication and was not measured here
UPPER_BOUND_MARK = ", test labels given (upper bound)"


@dataclass(frozen=True)
class Group:
    """A row of a table: the records of one protocol, one for each seed.

    Attributes:
        label: The method, and what tells the row from others with the same method.
        records: The records by seed.
        differs: Fields of the protocol card that differ from the other rows of the table; empty if none does.
    """

    label: str
    records: tuple[Record, ...]
    differs: str = ""

    @property
    def first(self) -> Record:
        """The record of the first seed."""
        return self.records[0]

    @property
    def marked_label(self) -> str:
        """The label, with a mark if the row is under another protocol."""
        return f"{self.label} {OTHER_PROTOCOL}" if self.differs else self.label

    @property
    def competes(self) -> bool:
        """True if the row may hold the best value of a table."""
        return not self.differs and not self.first.card.upper_bound


@dataclass(frozen=True)
class Sheet:
    """Rows that share tables.

    Attributes:
        folder: Name of the folder of its files.
        dataset: Name of the dataset for titles, with `difference`.
        groups: The rows.
        difference: Fields of the protocol card that differ from the first sheet of the dataset; empty in the first one.
    """

    folder: str
    dataset: str
    groups: tuple[Group, ...]
    difference: str = ""


def group_by_protocol(records: Iterable[Record]) -> dict[str, list[Group]]:
    """Group records into rows. Records of one protocol share a group, and no others do.

    Two file trees of one name have different fingerprints and are two datasets: 'photos-0123abcd'. One tree under
    several names has the name of most records.
    Labels of one method differ in the experiment, else in the settings that `--set` changed, else in the hash.

    Args:
        records: The records.

    Returns:
        Dataset -> groups by label.
    """
    by_dataset: dict[str, dict[str, list[Record]]] = {}
    records = sorted(records, key=lambda record: (record.protocol, record.seed))
    names = _names(records)
    trees = Counter(names.values())
    for record in records:
        name = names[record.dataset, record.fingerprint]
        dataset = f"{name}-{record.fingerprint[:8]}" if trees[name] > 1 else name
        by_dataset.setdefault(dataset, {}).setdefault(record.protocol, []).append(record)
    return {dataset: _labelled([*map(tuple, rows.values())]) for dataset, rows in sorted(by_dataset.items())}


def sheets(records: Iterable[Record], allow_mixed: bool = False) -> list[Sheet]:
    """Divide records into sheets: one for each set of rows whose protocol cards agree.

    Sets of unified models come first, then sets that trained on the dataset's training images, then sets without given
    test labels and weights from a file, then large sets.
    A row of a single pass stands in every sheet with which it agrees in all but the epochs.
    With `allow_mixed`, a dataset has one sheet, and rows that differ from the first set are marked.

    Args:
        records: The records.
        allow_mixed: True for one sheet of a dataset. Rows that differ from its first set are marked.

    Returns:
        The sheets of each dataset.
    """
    all_sheets = []
    for dataset, groups in group_by_protocol(records).items():
        ordered = sorted(_by_task(groups), key=_rank)
        usual = ordered[0][0].first.card
        if allow_mixed:
            marked = [replace(group, differs=_difference(group, usual)) for group in groups]
            all_sheets.append(Sheet(dataset, dataset, tuple(marked)))
            continue
        for rows in ordered:
            difference = _difference(rows[0], usual)
            suffix = f"-{hashlib.sha256(_task(rows[0]).encode()).hexdigest()[:8]}" if difference else ""
            labelled = tuple(_labelled([group.records for group in rows]))
            title = f"{dataset}, {difference}" if difference else dataset
            all_sheets.append(Sheet(f"{dataset}{suffix}", title, labelled, difference))
    return all_sheets


def refusals(all_sheets: list[Sheet]) -> list[str]:
    """Describe the sheets that could not share the table of their dataset.

    Args:
        all_sheets: The sheets.

    Returns:
        The lines.
    """
    return [
        f"{sheet.dataset}: another protocol, so tables of its own ({sheet.folder}); --allow-mixed puts all rows into one"
        for sheet in all_sheets
        if sheet.difference
    ]


def defined_metrics(groups: Iterable[Group]) -> tuple[str, ...]:
    """List the metrics, mAD included, whose mean over the categories is defined in some record.

    Args:
        groups: The rows.

    Returns:
        Keys of metrics in the order of a table. Without masks these are the image-level metrics.
    """
    means = [record.metrics.get(MEAN, {}) for group in groups for record in group.records]
    return tuple(key for key in COLUMNS if any(mean.get(key) is not None for mean in means))


def quality_metric(groups: Iterable[Group]) -> str:
    """Choose the metric that stands for quality where a figure or a ranking needs one.

    Args:
        groups: The rows.

    Returns:
        The mAD. If no row has one, the first metric that is defined: the image AUROC where there are no masks.
    """
    defined = defined_metrics(groups)
    return next(iter(defined), MAD.key) if MAD.key not in defined else MAD.key


def counted_seeds(rows: Iterable[Sized]) -> str:
    """Say in words how many seeds some rows have.

    >>> counted_seeds([(0, 1, 2), (0,)])
    '1 or 3 seeds'

    Args:
        rows: The seeds or records of each row.

    Returns:
        The words.
    """
    numbers = sorted({len(seeds) for seeds in rows})
    return " or ".join(map(str, numbers)) + (" seed" if numbers == [1] else " seeds")


def changed_settings(record: Record) -> str:
    """List the settings that `--set` changed.

    Args:
        record: The record.

    Returns:
        Names and values, each after a comma.
    """
    changed = record.settings.get("overrides") or {}
    return "".join(f", {key}={value}" for key, value in changed.items())


def _names(records: list[Record]) -> dict[tuple[str, str], str]:
    """Dataset and fingerprint of each tree -> its name in most records; of equally many, the first by the alphabet."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        found.setdefault((record.dataset, record.fingerprint), Counter())[record.shown_dataset] += 1
    return {tree: min(names, key=lambda name: (-names[name], name)) for tree, names in found.items()}


def _by_task(groups: list[Group]) -> list[list[Group]]:
    """Return the sets of rows whose protocol cards agree. In each set, the rows with epochs come first."""
    sets: dict[str, list[Group]] = {}
    for group in groups:
        if not group.first.card.one_pass:
            sets.setdefault(_task(group), []).append(group)
    for group in groups:
        if group.first.card.one_pass:
            agreeing = [rows for rows in sets.values() if not group.first.card.differing_task(rows[0].first.card)]
            for rows in agreeing or [sets.setdefault(_task(group), [])]:
                rows.append(group)
    return list(sets.values())


def _rank(rows: list[Group]) -> tuple[bool, bool, bool, int]:
    card, size = rows[0].first.card, sum(len(group.records) for group in rows)
    other_images = card.calibration is not None or card.contamination is not None
    return not card.unified, other_images, card.upper_bound or card.trained_elsewhere, -size


def _task(group: Group) -> str:
    """The fields of the protocol card in which the rows of a table must agree, as text."""
    task = group.first.card.task()
    content = {name: value for name, value in task.items() if value is not None or not CARD_FIELDS[name].later}
    return json.dumps(content, sort_keys=True, default=str)


def _difference(group: Group, usual: ProtocolCard) -> str:
    return "; ".join(f"{name} {own}" for name, own, _ in group.first.card.differing_task(usual))


def _labelled(groups: list[tuple[Record, ...]]) -> list[Group]:
    """The groups under the shortest labels that differ from each other."""
    forms: tuple[Callable[[Record], str], ...] = (
        _name,
        lambda record: f"{_name(record)} ({record.experiment})",
        lambda record: f"{_name(record)} ({record.experiment}{changed_settings(record)})",
        lambda record: f"{_name(record)} ({record.experiment}{changed_settings(record)}, {record.protocol[:8]})",
    )
    labelled = []
    for members in groups:
        form = next(f for f in forms if sum(f(group[0]) == f(members[0]) for group in groups) == 1)
        labelled.append(Group(form(members[0]), members))
    return sorted(labelled, key=lambda group: group.label)


def _name(record: Record) -> str:
    """The method, with a mark if it was given the labels of test images."""
    return f"{record.label}{UPPER_BOUND_MARK}" if record.card.upper_bound else record.label
