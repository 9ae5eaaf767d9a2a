"""Datasets that are written into the cache and not brought by the user: what lies there must be what was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock

from mddbench.data.fingerprint import manifest
from mddbench.errors import InputError
from mddbench.progress import SilentReporter

UNREAD = frozenset({"Thumbs.db", "desktop.ini"})
"""What file managers leave; hidden files are not read either."""
LIST = ".built.tsv"
"""In the dataset's folder: the manifest of all that was written."""


def built(build: Callable[[Path], None], folder: Path, remembered: Path) -> str:
    """Write a dataset into a folder of the cache, if it is not there as it was written; one process at a time.

    What is found damaged is put aside and not removed. remembered: the folder of hashes that `manifest` keeps. Returns a
    warning that says what was wrong, '' for nothing. Raises InputError if the cache cannot be written.
    """
    if not _fault(folder, remembered):
        return ""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            fault, aside = _fault(folder, remembered), None
            if fault and folder.exists():
                aside = Path(mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
                folder.replace(aside / folder.name)
            if fault:
                _write(build, folder)
    except OSError as refused:
        raise InputError(
            f"{folder.parent}: cannot be written ({refused.strerror}); give another by --cache-dir"
        ) from None
    return f"{folder}: {fault}; it was written anew, and what lay there is in {aside}" if aside else ""


def _write(build: Callable[[Path], None], folder: Path) -> None:
    partial = Path(mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        build(partial)
        (partial / LIST).write_text(_listed(partial, None), encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fault(folder: Path, remembered: Path) -> str:
    """What is wrong with a built dataset, '' for nothing."""
    if not folder.exists():
        return "not there"
    try:
        written = (folder / LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return f"no list of its files in {LIST} to compare them with"
    try:
        found = _listed(folder, remembered).splitlines()
    except (OSError, InputError) as fault:
        return str(fault)
    if found == written:
        return ""
    name = min(set(found) ^ set(written), default="").partition("\t")[0]
    there, listed = (any(line.startswith(f"{name}\t") for line in lines) for lines in (found, written))
    return f"{name} is {'not as it was written' if there and listed else 'missing' if listed else 'none of its files'}"


def _listed(folder: Path, remembered: Path | None) -> str:
    """Path, size and hash of every file below a folder that somebody could read as data."""
    found = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    files = [path for path in found if not path.name.startswith(".") and path.name not in UNREAD]
    return manifest(folder, files, SilentReporter(), remembered).text()
