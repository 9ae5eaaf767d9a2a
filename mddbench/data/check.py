"""Reads a dataset's tree and looks for what can be wrong with any: files, names, numbers. No pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mddbench.data.counts import Comparison, compare, expected_counts
from mddbench.data.files import file_faults, leads_out, names_alike
from mddbench.data.names import is_text, shown
from mddbench.data.samples import DatasetSource, Tree

LONGEST = 200
"""Bytes of a category's name: files named after it, of 255 at most, and MLflow's keys, of 250 signs, add some."""
FEWEST = 2
"""Training images of a category."""


def read_source(source: DatasetSource, root: Path, size: int) -> Tree:
    """What the dataset's reader finds below `root`, with the faults and warnings that any dataset can have.

    size: the side in pixels that images will have. Raises InputError for a tree that is marked as fabricated and does not say
    how.
    """
    try:
        tree = source.read(root, size)
    except OSError as fault:
        return Tree(root, (), (shown(f"{fault.filename}: cannot be read ({fault.strerror})"),))
    if tree.root != root and leads_out(tree.root, root):
        return Tree(
            root, (), (shown(f"{tree.root}: a symbolic link out of {root}; give the folder that it points to"),)
        )
    faults = [*names_alike(tree), *tree.faults]
    told = Comparison()
    if tree.samples:
        faults += [*_names(tree), *_lacking(tree), *file_faults(tree)]
        expected = expected_counts(source, root)
        told = compare(tree, expected) if expected is not None else told
    elif not faults:
        faults.append(f"no image below {root}; give the folder where they lie by --data-root")
    faults += told.faults
    warnings = (*tree.warnings, *told.warnings, *_undefined(tree))
    return replace(tree, faults=_lines(faults), warnings=_lines(warnings))


def _lines(told: Iterable[str]) -> tuple[str, ...]:
    """Each line once, in its order, as it may be printed."""
    return tuple(dict.fromkeys(map(shown, told)))


def _names(tree: Tree) -> Iterator[str]:
    """Categories that cannot be keys of tables and files, and kinds of defects that cannot be printed."""
    for category in tree.categories:
        if category == "mean":
            yield f"{tree.root / category}: 'mean' is what the mean over categories is called; rename the category"
        elif (size := len(category.encode(errors="replace"))) > LONGEST:
            yield (
                f"{tree.root}: category '{category[:40]}...' has a name of {size} bytes; expected {LONGEST} at most, as files "
                "and curves are named after it; rename it"
            )
        elif category in ("", ".", "..") or not is_text(category) or any(sign in category for sign in "/\\"):
            yield f"{tree.root}: category {category!a} is not a name; expected printable text without '/' and '\\'"
    for defect in sorted({sample.defect for sample in tree.samples}):
        if not is_text(defect):
            yield f"{tree.root}: the kind of defect {defect!a} is not printable text; rename it"


def _lacking(tree: Tree) -> Iterator[str]:
    """Categories that cannot be trained on or judged, or only partly."""
    if tree.faults:  # which say it already
        return
    for category, (train, good, defective) in tree.counts.items():
        if train == 1:
            yield (
                f"category '{category}' has one normal training image below {tree.root}; expected {FEWEST} at least, to tell "
                "what normal images differ in"
            )
        if not train:
            yield f"category '{category}' has no normal training image below {tree.root}; expected some, or no image of it"
        if not good + defective:
            yield f"category '{category}' has no test image below {tree.root}; expected some, or no image of it"
    yield from _unmasked(tree)


def _unmasked(tree: Tree) -> Iterator[str]:
    """Categories some of whose defects have no mask, or all where only masks could tell anything."""
    masked: dict[str, set[bool]] = {}
    for sample in tree.samples:
        if sample.anomalous:
            masked.setdefault(sample.category, set()).add(bool(sample.masks))
    for category, kinds in masked.items():
        if True not in kinds and not tree.counts[category][1]:
            yield (
                f"category '{category}' has neither normal test images nor masks below {tree.root}: no metric is defined"
                "; add some, or say which images are normal"
            )
        if len(kinds) == 2:
            lacking = next(s for s in tree.samples if s.category == category and s.anomalous and not s.masks)
            yield f"{lacking.image}: no mask for it, but other defects of '{category}' have one; give one to all, or to none"


def _undefined(tree: Tree) -> Iterator[str]:
    """Categories some of whose metrics will not be defined."""
    for category, (_, good, defective) in tree.counts.items():
        if not good or not defective:
            lacking = "normal" if not good else "defective"
            yield f"category '{category}' has no {lacking} test image below {tree.root}; image-level metrics are not defined"
