"""Compares the number of images with what the dataset should have, or with what a fabricated tree says it has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mddbench.data.samples import Counts, DatasetSource, Published, SecondHand, Tree
from mddbench.data.splits import SplitError, read_json
from mddbench.errors import InputError

FABRICATED = "FABRICATED.json"
"""The name of the file that marks a tree of drawn images. It lies at the tree's root.

Its "counts" are {category: [train, test good, test defective]}.
"""
COLUMNS = ("normal training", "normal test", "defective test")


def fabricated_mark(root: Path) -> Path | None:
    """Find the mark of a tree of drawn images.

    Args:
        root: A folder, which may be the tree itself or a folder inside it.

    Returns:
        The mark's file, or None if the folder belongs to no such tree.
    """
    resolved = root.resolve()
    folders = (resolved, *resolved.parents)
    return next((folder / FABRICATED for folder in folders if (folder / FABRICATED).exists()), None)


def fabricated_counts(root: Path) -> Published | None:
    """Read how many images a tree of drawn images has.

    Args:
        root: The tree's root.

    Returns:
        The numbers of images, or None if the folder has no mark.

    Raises:
        InputError: If the mark cannot be understood.
    """
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
    """Choose the numbers of images with which a tree is compared.

    Args:
        source: The description of the dataset.
        root: The tree's root. None for a dataset that mddbench writes itself.

    Returns:
        The published numbers of the dataset; for a tree of drawn images those of its mark. None for a part of such a
        tree, or if no numbers are known.
    """
    return source.published if root is None or fabricated_mark(root) is None else fabricated_counts(root)


def mark_fabricated(root: Path, dataset: str, counts: Counts) -> None:
    """Mark a tree as drawn images.

    Args:
        root: The tree's root.
        dataset: The name of the dataset whose layout it has.
        counts: The numbers of images of each category.
    """
    note = "Drawn images in a dataset's layout: for trying, never for results."
    text = json.dumps({"note": note, "dataset": dataset, "counts": counts}, indent=1)
    (root / FABRICATED).write_text(text + "\n", encoding="utf-8")


@dataclass
class Comparison:
    """The differences between the actual and the expected numbers of images.

    Attributes:
        faults: One line for each difference from a number that is certain.
        warnings: One line for each difference from a number that is second hand.
    """

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def compare(tree: Tree, published: Published) -> Comparison:
    """Compare a tree's numbers of images with the published ones.

    They are compared for each category, and in total if no category differs.
    A missing category is not reported if a fault of the tree names it.

    Args:
        tree: The tree.
        published: The expected numbers.

    Returns:
        The differences.
    """
    comparison, location = Comparison(), f"below {tree.root}"
    fault_text = "\n".join(tree.faults)
    missing = [name for name in published.categories if name not in tree.counts and name not in fault_text]
    if missing:
        others = f" and {len(missing) - 3} others" if missing[3:] else ""
        comparison.faults.append(
            f"{', '.join(missing[:3])}{others} of {published.title}'s {len(published.categories)} categories "
            f"are not {location}; a part of a dataset can be read as 'folder' or, by a meta.json, as 'meta'"
        )
    if published.categories:
        comparison.faults += [
            f"{tree.root / name}: not a category of {published.title}; read other folders as 'folder'"
            for name in tree.categories
            if name not in published.categories
        ]
    for name, expected in published.categories.items():
        if name in tree.counts:
            _add(comparison, _differences(expected, tree.counts[name], f"of category '{name}' {location}"))
    if not comparison.faults and not tree.faults:
        train, good, defective = (sum(column) for column in zip(*tree.counts.values(), strict=True))
        everywhere = f"in all of {published.title} {location}"
        _add(comparison, _differences(published.all, (train, good, defective), everywhere))
        _, normal, anomalous = published.all
        if normal is not None and anomalous is not None and normal + anomalous != good + defective:
            comparison.faults.append(
                f"expected {normal + anomalous} test images {everywhere}, found {good + defective}"
            )
    return comparison


def _add(comparison: Comparison, lines: Iterable[tuple[str, bool]]) -> None:
    for line, certain in lines:
        (comparison.faults if certain else comparison.warnings).append(line)


def _differences(expected: Iterable[int | None], actual: Iterable[int], scope: str) -> Iterator[tuple[str, bool]]:
    """Yield a line for each number that differs, and True if the expected number is certain."""
    for kind, wanted, count in zip(COLUMNS, expected, actual, strict=True):
        if wanted is not None and wanted != count:
            yield f"expected {wanted} {kind} images {scope}, found {count}", not isinstance(wanted, SecondHand)
