"""The fingerprint of a dataset: it identifies the files that were read, to the byte."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mddbench.data.names import composed
from mddbench.errors import InputError
from mddbench.progress import Reporter

SETTLED_NS = 2_000_000_000
"""The hash of a file that changed less than this many nanoseconds ago is not cached.

Such a file may change again without getting a new time.
"""
CHUNK = 2**20
"""The number of bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a manifest.

    Attributes:
        path: The path below the root, with '/'.
        size: The size in bytes.
        sha256: The SHA-256 of the content, in hex.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a dataset.

    Attributes:
        root: The folder that all files lie below.
        entries: The files, sorted by path.
    """

    root: Path
    entries: tuple[FileEntry, ...]

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over the text of the manifest, in hex. It is equal for equal trees, wherever they lie."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """Write the manifest as text.

        Returns:
            A line for each file: path, size and SHA-256, separated by tabs. Paths are in NFC, because systems differ.
        """
        entries = sorted(self.entries, key=lambda entry: composed(entry.path))
        return "".join(f"{composed(entry.path)}\t{entry.size}\t{entry.sha256}\n" for entry in entries)

    def of(self, file: Path) -> FileEntry:
        """Return the entry of a file. The path must be the one that the dataset's reader gave."""
        return self._by_name[str(file)]

    @cached_property
    def _by_name(self) -> dict[str, FileEntry]:
        start = _start(self.root)
        return {start + entry.path.replace("/", os.sep): entry for entry in self.entries}


Stamp = tuple[int, int, int]
"""The size of a file in bytes, and two times in nanoseconds.

They are the times of the last change of its content and of its entry in the file system.
"""


def manifest(root: Path, files: Iterable[Path], reporter: Reporter, hash_folder: Path | None = None) -> Manifest:
    """Make the manifest of some files. Each file counts once.

    An InputError is raised for a file that cannot be read.

    Args:
        root: The folder that all files lie below.
        files: The files.
        reporter: Receives progress.
        hash_folder: A folder that caches hashes. A file with unchanged size and times is then not hashed again.

    Returns:
        The manifest.
    """
    store = (
        None if hash_folder is None else hash_folder / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()}.json"
    )
    cached = _load(store, reporter)
    paths = {_below(root, file): file for file in files}
    stamps = {path: _stamp(file) for path, file in paths.items()}
    hashes = {path: cached[path][1] for path, stamp in stamps.items() if path in cached and cached[path][0] == stamp}
    not_cached = [path for path in paths if path not in hashes]
    now = time.time_ns()
    if not_cached:
        with ThreadPoolExecutor() as pool, reporter.task("hashing files", len(not_cached)) as task:
            new_hashes = pool.map(lambda path: file_sha256(paths[path]), not_cached)
            for path, sha256 in zip(not_cached, new_hashes, strict=True):
                hashes[path] = sha256
                task.advance()
        settled = {path: (stamp, hashes[path]) for path, stamp in stamps.items() if max(stamp[1:]) < now - SETTLED_NS}
        _save({**cached, **settled}, store)
    return Manifest(root, tuple(FileEntry(path, stamps[path][0], hashes[path]) for path in sorted(paths)))


def _below(root: Path, file: Path) -> str:
    """The file's path below the root, with '/'. For hundreds of thousands of files this is much faster than pathlib."""
    path, start = str(file), _start(root)
    return (path[len(start) :] if path.startswith(start) else str(file.relative_to(root))).replace(os.sep, "/")


def _start(root: Path) -> str:
    """The text with which the names of all files below a root begin."""
    text = str(root)
    return "" if text == "." else text if text.endswith(os.sep) else text + os.sep


def stamp_of(file: Path) -> Stamp:
    """Return the size and the times of a file, which change when it changes. OSError is raised if there is no file."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stamp(file: Path) -> Stamp:
    try:
        return stamp_of(file)
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None


def file_sha256(file: Path) -> str:
    """Compute the SHA-256 of a file, in hex. It is read in parts.

    Args:
        file: The file.

    Returns:
        The hash.

    Raises:
        InputError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None
    return digest.hexdigest()


def _load(store: Path | None, reporter: Reporter) -> dict[str, tuple[Stamp, str]]:
    """The cached stamps and hashes by path. There are none if the file is missing or damaged."""
    if store is None:
        return {}
    try:
        digest, _, content = store.read_bytes().partition(b"\n")
        if digest.decode() != hashlib.sha256(content).hexdigest():
            raise ValueError
        return {path: ((size, mtime, ctime), sha256) for path, size, mtime, ctime, sha256 in json.loads(content)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError):
        reporter.say(f"{store}: the remembered hashes are not as they were written; hashing the files anew")
        return {}


def _save(hashes: dict[str, tuple[Stamp, str]], store: Path | None) -> None:
    """Write the cache file: a line with the SHA-256 of the rest, then JSON."""
    if store is None:
        return
    content = json.dumps([[path, *stamp, sha256] for path, (stamp, sha256) in hashes.items()]).encode()
    partial = store.with_suffix(f".{os.getpid()}.part")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(partial, store)
    except OSError:  # without the cache only the next start takes longer
        with suppress(OSError):
            partial.unlink(missing_ok=True)
