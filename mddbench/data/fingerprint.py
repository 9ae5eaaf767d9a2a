"""A dataset's fingerprint: what was read, to the byte."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mddbench.data.samples import Tree
from mddbench.errors import InputError
from mddbench.progress import Reporter


@dataclass(frozen=True)
class FileEntry:
    """A file of the manifest: path below the root with '/', size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


def manifest(tree: Tree, reporter: Reporter) -> tuple[FileEntry, ...]:
    """Every image and mask file of the tree, sorted by path. Raises InputError for a file that cannot be read."""
    files = {path for sample in tree.samples for path in (sample.image, sample.mask) if path is not None}
    entries = []
    with ThreadPoolExecutor() as pool, reporter.task("hashing files", len(files)) as task:
        for entry in pool.map(lambda path: _entry(tree.root, path), files):
            entries.append(entry)
            task.advance()
    return tuple(sorted(entries, key=lambda entry: entry.path))


def fingerprint(entries: tuple[FileEntry, ...]) -> str:
    """SHA-256 over the manifest, in hex: equal for equal trees wherever they lie."""
    lines = "".join(f"{entry.path}\t{entry.size}\t{entry.sha256}\n" for entry in entries)
    return hashlib.sha256(lines.encode()).hexdigest()


def _entry(root: Path, path: Path) -> FileEntry:
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None
    return FileEntry(path.relative_to(root).as_posix(), len(content), hashlib.sha256(content).hexdigest())
