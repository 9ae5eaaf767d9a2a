"""Reads a dataset's tree and checks what any dataset can have wrong: files, names and numbers. No pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mddbench.data.counts import Comparison, compare, expected_counts
from mddbench.data.files import file_faults, leads_out, names_alike
from mddbench.data.names import is_text, shown
from mddbench.data.samples import DatasetSource, Tree
from mddbench.metrics.names import MEAN
from mddbench.sizes import ImageSize, height_and_width

LONGEST = 200
"""The longest name of a category, in bytes.

Files and MLflow's keys are named after the category, and they add some characters to its name.
A file's name has at most 255 bytes, and a key has at most 250 characters.
"""
FEWEST = 2
"""The smallest number of training images of a category."""


def read_source(source: DatasetSource, root: Path, size: ImageSize) -> Tree:
    """Read a dataset below a folder, and check it for the faults that any dataset can have.

    An InputError is raised for a fabricated tree that does not say how many images it has.

    Args:
        source: The description of the dataset.
        root: The dataset's folder.
        size: The size of the decoded images.

    Returns:
        The tree, with all faults and warnings.
    """
    try:
        tree = source.read(root, max(height_and_width(size)))
    except OSError as fault:
        return Tree(root, (), (shown(f"{fault.filename}: cannot be read ({fault.strerror})"),))
    if tree.root != root and leads_out(tree.root, root):
        return Tree(
            root, (), (shown(f"{tree.root}: a symbolic link out of {root}; give the folder that it points to"),)
        )
    faults = [*names_alike(tree), *tree.faults]
    comparison = Comparison()
    if tree.samples:
        faults += [*_name_faults(tree), *_incomplete(tree), *file_faults(tree)]
        expected = expected_counts(source, root)
        comparison = compare(tree, expected) if expected is not None else comparison
    elif not faults:
        faults.append(f"no image below {root}; give the folder where they lie by --data-root")
    faults += comparison.faults
    warnings = (*tree.warnings, *comparison.warnings, *_undefined_metrics(tree))
    return replace(tree, faults=_printable(faults), warnings=_printable(warnings))


def _printable(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines without repetitions, in the same order, safe to print."""
    return tuple(dict.fromkeys(map(shown, lines)))


def _name_faults(tree: Tree) -> Iterator[str]:
    """Categories that cannot be keys of tables and names of files, and kinds of defects that cannot be printed."""
    for category in tree.categories:
        if category == MEAN:
            yield f"{tree.root / category}: 'mean' is what the mean over categories is called; rename the category"
        elif (size := len(category.encode(errors="replace"))) > LONGEST:
            yield (
                f"{tree.root}: category '{category[:40]}...' has a name of {size} bytes; "
                f"expected {LONGEST} at most, as files and curves are named after it; rename it"
            )
        elif category in ("", ".", "..") or not is_text(category) or any(sign in category for sign in "/\\"):
            yield f"{tree.root}: category {category!a} is not a name; expected printable text without '/' and '\\'"
    for defect in sorted({sample.defect for sample in tree.samples}):
        if not is_text(defect):
            yield f"{tree.root}: the kind of defect {defect!a} is not printable text; rename it"


def _incomplete(tree: Tree) -> Iterator[str]:
    """Categories that cannot be trained on or evaluated, or only in part."""
    if tree.faults:  # they name these categories already
        return
    for category, (train, good, defective) in tree.counts.items():
        if 0 < train < FEWEST:
            yield (
                f"category '{category}' has one normal training image below {tree.root}; "
                f"expected {FEWEST} at least, to tell what normal images differ in"
            )
        if not train:
            yield (
                f"category '{category}' has no normal training image below {tree.root}; "
                "expected some, or no image of it"
            )
        if not good + defective:
            yield f"category '{category}' has no test image below {tree.root}; expected some, or no image of it"
    yield from _without_masks(tree)


def _without_masks(tree: Tree) -> Iterator[str]:
    """Categories in which some defects have no mask, and categories without masks and without normal test images."""
    has_mask: dict[str, set[bool]] = {}
    for sample in tree.samples:
        if sample.anomalous:
            has_mask.setdefault(sample.category, set()).add(bool(sample.masks))
    for category, answers in has_mask.items():
        if True not in answers and not tree.counts[category][1]:
            yield (
                f"category '{category}' has neither normal test images nor masks below {tree.root}: "
                "no metric is defined; add some, or say which images are normal"
            )
        if len(answers) == 2:
            lacking = next(s for s in tree.samples if s.category == category and s.anomalous and not s.masks)
            yield (
                f"{lacking.image}: no mask for it, but other defects of '{category}' have one; "
                "give one to all, or to none"
            )


def _undefined_metrics(tree: Tree) -> Iterator[str]:
    """Categories for which some metrics are not defined."""
    for category, (_, good, defective) in tree.counts.items():
        if not good or not defective:
            lacking = "normal" if not good else "defective"
            yield (
                f"category '{category}' has no {lacking} test image below {tree.root}; "
                "image-level metrics are not defined"
            )
