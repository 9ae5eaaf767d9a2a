"""Checks the files of a tree without opening them: whether they exist, where they lie, and what they are."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mddbench.data.images import MAX_BYTES
from mddbench.data.names import is_text, lookalikes
from mddbench.data.samples import Sample, Tree

MISSING = "missing"
"""The fault of a file that does not exist."""


def file_faults(tree: Tree) -> Iterator[str]:
    """Check all files that a tree names.

    Args:
        tree: The tree.

    Yields:
        One line for each faulty file. It is missing, named twice, no ordinary file, or outside the root;
        or its name is no text. Missing files of one category share a line.
    """
    files = _Files(tree.root)
    missing: dict[str, list[Path]] = {}
    for source in tree.sources:
        if fault := files.fault(source):
            yield f"{source}: not there" if fault == MISSING else fault
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
        repeated, times = Counter(names).most_common(1)[0]
        yield f"{repeated}: one image is named {times} times; each may be in one split once"


def names_alike(tree: Tree) -> Iterator[str]:
    """Find files and folders of a tree that lie together and whose names differ only in how letters are composed.

    Args:
        tree: The tree.

    Yields:
        One line for each such file or folder.
    """
    yield from lookalikes(dict.fromkeys(_not_ascii(tree)))


def _not_ascii(tree: Tree) -> Iterator[Path]:
    """The files of a tree whose paths below the root are not plain ASCII, and such folders above them."""
    start = len(str(tree.root))
    for sample in tree.samples:
        for path in (sample.image, *sample.masks):
            name = str(path)
            if not name.isascii() and not name[start:].isascii():
                yield path
                yield from (folder for folder in path.parents if not str(folder)[start:].isascii())


def readable(tree: Tree) -> tuple[Sample, ...]:
    """Select the samples whose files have no fault that is visible without opening them.

    Args:
        tree: The tree.

    Returns:
        The samples, in the same order.
    """
    if not tree.faults:
        return tree.samples
    files = _Files(tree.root)
    return tuple(s for s in tree.samples if not any(files.fault(path) for path in (s.image, *s.masks)))


def leads_out(inner: Path, root: Path) -> bool:
    """Check whether a symbolic link leads out of a root.

    Args:
        inner: A path below the root.
        root: The root.

    Returns:
        True if the resolved path lies outside the resolved root.
    """
    return not inner.resolve().is_relative_to(root.resolve())


class _Files:
    """Checks files below a root. Each folder is checked once.

    Attributes:
        root: The root.
        start: The length of the root's name; a file's name below the root begins there.
        outward_links: For each checked folder, the link above it that leads out of the root, or None.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.start = root, len(str(root))
        self.outward_links: dict[str, Path | None] = {str(root): None}

    def fault(self, path: Path) -> str:
        """Return what is wrong with a file below the root: '' for nothing, MISSING if it does not exist."""
        name = str(path)
        if not is_text(name[self.start :]):
            odd = next((folder for folder in reversed(path.parents) if not is_text(str(folder)[self.start :])), path)
            return f"{str(odd)!a}: the name is not printable UTF-8 text; rename it"
        try:
            return self._fault_of_existing(path, name)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except (OSError, ValueError, RuntimeError) as fault:  # RuntimeError: links that form a circle
            return f"{name}: cannot be looked at ({getattr(fault, 'strerror', None) or fault})"

    def _fault_of_existing(self, path: Path, name: str) -> str:
        status = path.lstat()
        is_link = stat.S_ISLNK(status.st_mode)
        link = path if is_link and leads_out(path, self.root) else self._outward_link(name.rpartition(os.sep)[0])
        if link is not None:
            return (
                f"{link}: a symbolic link out of {self.root}; copy what it points to, or give the folder that holds all"
            )
        status = path.stat() if is_link else status
        if not stat.S_ISREG(status.st_mode):
            return f"{path}: not an ordinary file; remove it"
        if status.st_size > MAX_BYTES:
            return f"{path}: {status.st_size} bytes is more than the {MAX_BYTES} allowed"
        return ""

    def _outward_link(self, name: str) -> Path | None:
        """The link that leads out of the root, at a folder or above it, or None."""
        if name not in self.outward_links:
            folder = Path(name)
            is_outward = folder.is_symlink() and leads_out(folder, self.root)
            self.outward_links[name] = folder if is_outward else self._outward_link(str(folder.parent))
        return self.outward_links[name]
