"""Reads a dataset's tree and looks for what can be wrong with any: files, links, names, numbers. No pixel is decoded."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mddbench.data.samples import Counts, DatasetSource, Published, SecondHand, Tree
from mddbench.errors import InputError

FABRICATED = "FABRICATED.json"
"""Lies at the root of a tree of drawn images and says how many there are: {category: [train, test good, test defective]}."""
MISSING = "missing"
COLUMNS = ("normal training", "normal test", "defective test")


def read_source(source: DatasetSource, root: Path, size: int) -> Tree:
    """What the dataset's reader finds below `root`, with the faults and warnings that any dataset can have.

    size: the side in pixels that images will have.
    """
    try:
        tree = source.read(root, size)
    except OSError as fault:
        return Tree(root, (), (f"{ascii(str(fault.filename))[1:-1]}: cannot be read ({fault.strerror})",))
    if tree.faults:
        return tree
    faults = [*_names(tree), *_files(tree)]
    expected = fabricated_counts(root) or source.published
    wrong, odd = _differences(tree, expected) if expected is not None and not faults else ([], [])
    return replace(tree, faults=(*faults, *wrong), warnings=(*tree.warnings, *odd))


def fabricated_counts(root: Path) -> Published | None:
    """How many images a fabricated tree says it has; None for any other tree. Raises InputError if it says nothing clear."""
    file = root / FABRICATED
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        counts = {
            str(name): (int(train), int(good), int(bad)) for name, (train, good, bad) in content["counts"].items()
        }
        return Published(f"fabricated {content['dataset']}", dict(counts))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{file}: not as `mddbench data fabricate` writes it; fabricate the tree anew") from None


def mark_fabricated(root: Path, dataset: str, counts: Counts) -> None:
    """Say of a tree that its images are drawn."""
    note = "Drawn images in a dataset's layout: for trying, never for results."
    text = json.dumps({"note": note, "dataset": dataset, "counts": counts}, indent=1)
    (root / FABRICATED).write_text(text + "\n", encoding="utf-8")


def _names(tree: Tree) -> Iterator[str]:
    """Categories that cannot be keys of tables and files."""
    for category in tree.categories:
        if category == "mean":
            yield f"{tree.root / category}: 'mean' is what the mean over categories is called; rename the category"
        elif category in ("", ".", "..") or not category.isprintable() or any(sign in category for sign in "/\\"):
            yield f"{tree.root}: category {category!a} is not a name; expected printable text without '/' and '\\'"


def _files(tree: Tree) -> Iterator[str]:
    """Files that are named and not there, or twice, are no files, lie elsewhere, or have names that are no text."""
    files = _Files(tree.root)
    missing: dict[str, list[Path]] = {}
    for sample in tree.samples:
        for path in (sample.image, *sample.masks):
            fault = files.fault(path)
            if fault == MISSING:
                missing.setdefault(sample.category, []).append(path)
            elif fault:
                yield fault
    for category, paths in missing.items():
        others = f", nor are {len(paths) - 1} others of '{category}'" if paths[1:] else ""
        yield f"{paths[0]}: not there{others}; unpack the dataset anew, or look at where --data-root points"
    names = [str(sample.image) for sample in tree.samples]
    if len(set(names)) != len(names):
        twice, times = Counter(names).most_common(1)[0]
        yield f"{twice}: one image is named {times} times; each may be in one split once"


class _Files:
    """Looks at files without opening them; at each folder once."""

    def __init__(self, root: Path) -> None:
        self.root, self.real = root, root.resolve()
        self.known: dict[str, Path | None] = {str(root): None}

    def fault(self, path: Path) -> str:
        """What is wrong with a file below the root, '' for nothing, MISSING if it is not there."""
        name = str(path)
        if not name.isascii() and any(0xDC80 <= ord(sign) <= 0xDCFF for sign in name):
            return f"{os.fsencode(name)!r}: the name is not UTF-8; rename it"
        try:
            kind = path.lstat().st_mode
            link = path if stat.S_ISLNK(kind) and self._leads_out(path) else self._link(name.rpartition(os.sep)[0])
            if stat.S_ISLNK(kind) and link is None:
                kind = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except (OSError, ValueError, RuntimeError) as fault:  # RuntimeError: links in a circle
            return f"{ascii(name)[1:-1]}: cannot be looked at ({getattr(fault, 'strerror', None) or fault})"
        if link is not None:
            return (
                f"{link}: a symbolic link out of {self.root}; copy what it points to, or give the folder that holds all"
            )
        return "" if stat.S_ISREG(kind) else f"{path}: not an ordinary file; remove it"

    def _link(self, name: str) -> Path | None:
        """The link on the way to a folder that leads out of the root, None if there is none."""
        if name not in self.known:
            folder = Path(name)
            out = folder.is_symlink() and self._leads_out(folder)
            self.known[name] = folder if out else self._link(str(folder.parent))
        return self.known[name]

    def _leads_out(self, link: Path) -> bool:
        return not link.resolve().is_relative_to(self.real)


def _differences(tree: Tree, published: Published) -> tuple[list[str], list[str]]:
    """(faults, warnings): where the numbers of images are not those of the dataset."""
    faults: list[str] = []
    warnings: list[str] = []
    unknown = [name for name in tree.categories if published.categories and name not in published.categories]
    faults += [
        f"{tree.root / name}: not a category of {published.title}; read other folders with the dataset 'folder'"
        for name in unknown
    ]
    for category, expected in published.categories.items():
        found = tree.counts.get(category, (0, 0, 0))
        if category not in tree.counts:
            faults.append(f"category '{category}' of {published.title} is not below {tree.root}; expected it there")
            continue
        for line, strict in _unequal(expected, found, f" of category '{category}' below {tree.root}"):
            (faults if strict else warnings).append(line)
    train, good, defective = published.all
    sums = tuple(sum(column) for column in zip(*tree.counts.values(), strict=True)) if tree.counts else (0, 0, 0)
    if not faults:
        for line, strict in _unequal((train, good, defective), sums, f" in all of {published.title} below {tree.root}"):
            (faults if strict else warnings).append(line)
    if not faults and good is not None and defective is not None and good + defective != sums[1] + sums[2]:
        where = f"in all of {published.title} below {tree.root}"
        faults.append(f"expected {good + defective} test images {where}, found {sums[1] + sums[2]}")
    return faults, warnings


def _unequal(expected: Iterable[int | None], found: Iterable[int], where: str) -> Iterator[tuple[str, bool]]:
    for kind, wanted, count in zip(COLUMNS, expected, found, strict=True):
        if wanted is not None and wanted != count:
            yield f"expected {wanted} {kind} images{where}, found {count}", not isinstance(wanted, SecondHand)
