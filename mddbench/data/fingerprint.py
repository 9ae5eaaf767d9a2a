"""A dataset's fingerprint: which files were read, to the byte."""

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
"""A file that changed this shortly before it was hashed may change again without a new time: its hash is not remembered."""
CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the manifest: path below the root with '/', size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a dataset below a root, sorted by path."""

    root: Path
    entries: tuple[FileEntry, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the manifest, in hex: equal for equal trees wherever they lie."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """A line for each file: path, size and SHA-256, between tabs. Paths in NFC, as systems differ."""
        entries = sorted(self.entries, key=lambda entry: composed(entry.path))
        return "".join(f"{composed(entry.path)}\t{entry.size}\t{entry.sha256}\n" for entry in entries)

    def of(self, file: Path) -> FileEntry:
        """The entry of a file that is named as its reader named it."""
        return self._by_name[str(file)]

    @cached_property
    def _by_name(self) -> dict[str, FileEntry]:
        start = _start(self.root)
        return {start + entry.path.replace("/", os.sep): entry for entry in self.entries}


Stamp = tuple[int, int, int]
"""Of a file: size, time of the last change of its content, and of its entry in the file system, in nanoseconds."""


def manifest(root: Path, files: Iterable[Path], reporter: Reporter, remembered: Path | None = None) -> Manifest:
    """The manifest of some files below a root, each counted once.

    remembered: a folder that keeps hashes from one time to the next; a file of the same size and times is not hashed again.
    Raises InputError for a file that cannot be read.
    """
    store = (
        None if remembered is None else remembered / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()}.json"
    )
    known = _load(store, reporter)
    paths = {_below(root, file): file for file in files}
    stamps = {path: _stamp(file) for path, file in paths.items()}
    entries = {path: known[path][1] for path, stamp in stamps.items() if path in known and known[path][0] == stamp}
    unknown = [path for path in paths if path not in entries]
    now = time.time_ns()
    if unknown:
        with ThreadPoolExecutor() as pool, reporter.task("hashing files", len(unknown)) as task:
            for path, sha256 in zip(unknown, pool.map(lambda path: _sha256(paths[path]), unknown), strict=True):
                entries[path] = sha256
                task.advance()
        settled = {path: (stamp, entries[path]) for path, stamp in stamps.items() if max(stamp[1:]) < now - SETTLED_NS}
        _save({**known, **settled}, store)
    return Manifest(root, tuple(FileEntry(path, stamps[path][0], entries[path]) for path in sorted(paths)))


def _below(root: Path, file: Path) -> str:
    """The file's path below the root with '/'; much faster than pathlib's for hundreds of thousands of files."""
    path, start = str(file), _start(root)
    return (path[len(start) :] if path.startswith(start) else str(file.relative_to(root))).replace(os.sep, "/")


def _start(root: Path) -> str:
    """How the names of files below a root begin."""
    text = str(root)
    return "" if text == "." else text if text.endswith(os.sep) else text + os.sep


def stamp_of(file: Path) -> Stamp:
    """What changes when a file does. Raises OSError if there is none."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _stamp(file: Path) -> Stamp:
    try:
        return stamp_of(file)
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None
    return digest.hexdigest()


def _load(store: Path | None, reporter: Reporter) -> dict[str, tuple[Stamp, str]]:
    """What is remembered; nothing, if there is no such file or it is not as it was written."""
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


def _save(known: dict[str, tuple[Stamp, str]], store: Path | None) -> None:
    """A line with the SHA-256 of all that follows, then JSON."""
    if store is None:
        return
    content = json.dumps([[path, *stamp, sha256] for path, (stamp, sha256) in known.items()]).encode()
    partial = store.with_suffix(f".{os.getpid()}.part")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(partial, store)
    except OSError:  # only a later start takes longer
        with suppress(OSError):
            partial.unlink(missing_ok=True)
