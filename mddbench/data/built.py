"""Datasets that mddbench itself writes into the cache. They are checked at each use, and written again if damaged."""

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
"""Files that file managers create. They are not read as data, and neither are hidden files."""
LIST = ".built.tsv"
"""The name of a file in the dataset's folder: the manifest of all files that were written."""


def ensure_built(build: Callable[[Path], None], folder: Path, hash_folder: Path) -> str:
    """Write a dataset into a folder of the cache, unless it is there and unchanged. Only one process does so at a time.

    A damaged dataset is moved aside and not removed.

    Args:
        build: Writes the dataset into an empty folder.
        folder: The dataset's folder.
        hash_folder: The folder in which `manifest` caches the hashes of files.

    Returns:
        A warning that says what was wrong, or '' if nothing was.

    Raises:
        InputError: If the cache cannot be written.
    """
    if not _fault(folder, hash_folder):
        return ""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            fault, aside = _fault(folder, hash_folder), None
            if fault and folder.exists():
                aside = Path(mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
                folder.replace(aside / folder.name)
            if fault:
                _write(build, folder)
    except OSError as error:
        raise InputError(
            f"{folder.parent}: cannot be written ({error.strerror}); give another by --cache-dir"
        ) from None
    return f"{folder}: {fault}; it was written anew, and what lay there is in {aside}" if aside else ""


def _write(build: Callable[[Path], None], folder: Path) -> None:
    """Write the dataset and its list of files into a temporary folder, and rename that."""
    partial = Path(mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        build(partial)
        (partial / LIST).write_text(_file_list(partial, None), encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fault(folder: Path, hash_folder: Path) -> str:
    """What is wrong with a written dataset, or '' if nothing is."""
    if not folder.exists():
        return "not there"
    try:
        written = (folder / LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return f"no list of its files in {LIST} to compare them with"
    try:
        present = _file_list(folder, hash_folder).splitlines()
    except (OSError, InputError) as fault:
        return str(fault)
    if present == written:
        return ""
    name = min(set(present) ^ set(written), default="").partition("\t")[0]
    is_present, is_listed = (any(line.startswith(f"{name}\t") for line in lines) for lines in (present, written))
    if is_present and is_listed:
        return f"{name} is not as it was written"
    return f"{name} is {'missing' if is_listed else 'none of its files'}"


def _file_list(folder: Path, hash_folder: Path | None) -> str:
    """Path, size and hash of every file below a folder that could be read as data."""
    paths = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    files = [path for path in paths if not path.name.startswith(".") and path.name not in UNREAD]
    return manifest(folder, files, SilentReporter(), hash_folder).text()
