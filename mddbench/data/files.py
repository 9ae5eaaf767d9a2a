"""Looks at the files of a tree without opening them: whether they are there, where they lie, and what they are."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mddbench.data.images import MAX_BYTES
from mddbench.data.names import is_text, twins
from mddbench.data.samples import Sample, Tree

MISSING = "missing"


def file_faults(tree: Tree) -> Iterator[str]:
    """Files that are named and not there, or twice, are no files, lie elsewhere, or have names that are no text."""
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
        twice, times = Counter(names).most_common(1)[0]
        yield f"{twice}: one image is named {times} times; each may be in one split once"


def names_alike(tree: Tree) -> Iterator[str]:
    """Files, and folders on the way to them, that lie together and whose names differ only in how letters are composed."""
    yield from twins(dict.fromkeys(_not_plain(tree)))


def _not_plain(tree: Tree) -> Iterator[Path]:
    start = len(str(tree.root))
    for sample in tree.samples:
        for path in (sample.image, *sample.masks):
            name = str(path)
            if not name.isascii() and not name[start:].isascii():
                yield path
                yield from (folder for folder in path.parents if not str(folder)[start:].isascii())


def readable(tree: Tree) -> tuple[Sample, ...]:
    """The samples whose files have no fault that can be seen from outside."""
    if not tree.faults:
        return tree.samples
    files = _Files(tree.root)
    return tuple(s for s in tree.samples if not any(files.fault(path) for path in (s.image, *s.masks)))


def leads_out(inner: Path, root: Path) -> bool:
    """Whether a folder that was named as one below a root lies elsewhere."""
    return not inner.resolve().is_relative_to(root.resolve())


class _Files:
    """Looks at files below a root; at each folder once."""

    def __init__(self, root: Path) -> None:
        self.root, self.start = root, len(str(root))
        self.known: dict[str, Path | None] = {str(root): None}

    def fault(self, path: Path) -> str:
        """What is wrong with a file below the root, '' for nothing, MISSING if it is not there."""
        name = str(path)
        if not is_text(name[self.start :]):
            odd = next((folder for folder in reversed(path.parents) if not is_text(str(folder)[self.start :])), path)
            return f"{str(odd)!a}: the name is not printable UTF-8 text; rename it"
        try:
            return self._found(path, name)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except (OSError, ValueError, RuntimeError) as fault:  # RuntimeError: links in a circle
            return f"{name}: cannot be looked at ({getattr(fault, 'strerror', None) or fault})"

    def _found(self, path: Path, name: str) -> str:
        found = path.lstat()
        is_link = stat.S_ISLNK(found.st_mode)
        link = path if is_link and leads_out(path, self.root) else self._link(name.rpartition(os.sep)[0])
        if link is not None:
            return (
                f"{link}: a symbolic link out of {self.root}; copy what it points to, or give the folder that holds all"
            )
        found = path.stat() if is_link else found
        if not stat.S_ISREG(found.st_mode):
            return f"{path}: not an ordinary file; remove it"
        return (
            f"{path}: {found.st_size} bytes is more than the {MAX_BYTES} allowed" if found.st_size > MAX_BYTES else ""
        )

    def _link(self, name: str) -> Path | None:
        """The link on the way to a folder that leads out of the root, None if there is none."""
        if name not in self.known:
            folder = Path(name)
            out = folder.is_symlink() and leads_out(folder, self.root)
            self.known[name] = folder if out else self._link(str(folder.parent))
        return self.known[name]
