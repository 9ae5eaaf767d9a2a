"""Compares how many images there are with how many a dataset has, or with what a fabricated tree says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mddbench.data.samples import Counts, DatasetSource, Published, SecondHand, Tree
from mddbench.data.splits import SplitError, read_json
from mddbench.errors import InputError

FABRICATED = "FABRICATED.json"
"""Lies at the root of a tree of drawn images and says how many there are: {category: [train, test good, test defective]}."""
COLUMNS = ("normal training", "normal test", "defective test")


def fabricated_mark(root: Path) -> Path | None:
    """The mark of the tree of drawn images that a folder is, or lies in; None for any other folder."""
    real = root.resolve()
    return next((place / FABRICATED for place in (real, *real.parents) if (place / FABRICATED).exists()), None)


def fabricated_counts(root: Path) -> Published | None:
    """How many images a fabricated tree says it has; None for any other folder. Raises InputError if it says nothing clear."""
    file = root / FABRICATED
    if not file.exists():
        return None
    try:
        content = read_json(file, root)
        counts = {
            str(name): (int(train), int(good), int(bad)) for name, (train, good, bad) in content["counts"].items()
        }
        return Published(f"fabricated {content['dataset']}", dict(counts))
    except (SplitError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{file}: not as `mddbench data fabricate` writes it; fabricate the tree anew") from None


def expected_counts(source: DatasetSource, root: Path | None) -> Published | None:
    """What the numbers of a tree are compared with: those of the dataset, or what a fabricated tree says of itself; None for a
    part of a fabricated tree. root: None for a dataset that is embedded.
    """
    return source.published if root is None or fabricated_mark(root) is None else fabricated_counts(root)


def mark_fabricated(root: Path, dataset: str, counts: Counts) -> None:
    """Say of a tree that its images are drawn."""
    note = "Drawn images in a dataset's layout: for trying, never for results."
    text = json.dumps({"note": note, "dataset": dataset, "counts": counts}, indent=1)
    (root / FABRICATED).write_text(text + "\n", encoding="utf-8")


@dataclass
class Comparison:
    """What differs: faults in numbers that are certain, warnings in those that are second hand."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def compare(tree: Tree, published: Published) -> Comparison:
    """The tree's numbers of images beside those of the dataset, by category, and in all where no category tells more.

    A category that a fault of the tree speaks of is not told to be missing.
    """
    told, place = Comparison(), f"below {tree.root}"
    spoken_of = "\n".join(tree.faults)
    missing = [name for name in published.categories if name not in tree.counts and name not in spoken_of]
    if missing:
        others = f" and {len(missing) - 3} others" if missing[3:] else ""
        told.faults.append(
            f"{', '.join(missing[:3])}{others} of {published.title}'s {len(published.categories)} categories are not {place}; "
            "a part of a dataset can be read as 'folder' or, by a meta.json, as 'meta'"
        )
    if published.categories:
        told.faults += [
            f"{tree.root / name}: not a category of {published.title}; read other folders as 'folder'"
            for name in tree.categories
            if name not in published.categories
        ]
    for name, expected in published.categories.items():
        if name in tree.counts:
            _add(told, _unequal(expected, tree.counts[name], f"of category '{name}' {place}"))
    if not told.faults and not tree.faults:
        train, good, defective = (sum(column) for column in zip(*tree.counts.values(), strict=True))
        everywhere = f"in all of {published.title} {place}"
        _add(told, _unequal(published.all, (train, good, defective), everywhere))
        _, normal, anomalous = published.all
        if normal is not None and anomalous is not None and normal + anomalous != good + defective:
            told.faults.append(f"expected {normal + anomalous} test images {everywhere}, found {good + defective}")
    return told


def _add(told: Comparison, lines: Iterable[tuple[str, bool]]) -> None:
    for line, certain in lines:
        (told.faults if certain else told.warnings).append(line)


def _unequal(expected: Iterable[int | None], found: Iterable[int], where: str) -> Iterator[tuple[str, bool]]:
    for kind, wanted, count in zip(COLUMNS, expected, found, strict=True):
        if wanted is not None and wanted != count:
            yield f"expected {wanted} {kind} images {where}, found {count}", not isinstance(wanted, SecondHand)
