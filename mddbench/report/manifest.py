"""What a report wrote into its folder: nothing else there is ever removed or overwritten."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mddbench.errors import InputError
from mddbench.runs.records import REPORT_FILES

MANIFEST = REPORT_FILES
VERSION = 1
Content = str | None
"""Of a file that is about to be written: its text, None if that is not known before."""


class Manifest:
    """The files of a report's folder that a report wrote, each with the hashes that it may have. A file that is being drawn has
    none: what an interrupted report leaves in its place counts as the report's.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError if the folder's list is there and is none."""
        self.folder, self.file = folder, folder / MANIFEST
        self.hashes = _read(self.file)

    @property
    def files(self) -> set[Path]:
        """The files that the list names."""
        return {self.folder / name for name in self.hashes}

    def refuse_others(self) -> None:
        """Raise InputError if the folder holds files and no list."""
        others = sorted(path.name for path in _visible(self.folder)) if not self.file.exists() else []
        if others:
            raise InputError(
                f"{self.folder}: it holds {len(others)} files or folders that no report wrote, '{others[0]}' for one; {ADVICE}"
            )

    def claim(self, contents: Mapping[Path, Content], replace: bool) -> None:
        """Note that files below the folder are about to be written.

        replace: whatever is there may be overwritten. Raises InputError, before anything is written, if the folder holds files
        and no report, or if one of the names is a file that is not as a report wrote it.
        """
        if not replace:
            self.refuse_others()
            self._refuse_changed(sorted(name.as_posix() for name in contents))
        for name, text in contents.items():
            before = self.hashes.get(name.as_posix(), [])
            self.hashes[name.as_posix()] = [*before, _hash_of(text.encode())] if text is not None else []
        self._write()

    def forget(self, keep: Iterable[Path], kind: Callable[[Path], bool] = lambda _: True) -> None:
        """Remove what an earlier report wrote and this one does not, unless somebody has changed it since.

        keep: files below the folder; kind: which others may go.
        """
        kept = {name.as_posix() for name in keep}
        for name in [name for name in self.hashes if name not in kept and kind(Path(name))]:
            if self._is_ours(name):
                (self.folder / name).unlink(missing_ok=True)
            del self.hashes[name]

    def finish(self, names: Iterable[Path]) -> None:
        """Note what has been written. A claimed file that was not is no part of the report."""
        for name in {name.as_posix() for name in names}:
            found = _hash(self.folder / name)
            self.hashes.pop(name, None)
            if found is not None:
                self.hashes[name] = [found]
        self._write()

    def _refuse_changed(self, names: list[str]) -> None:
        foreign = [name for name in names if (self.folder / name).exists() and not self._is_ours(name)]
        if foreign:
            what = "changed since a report wrote it" if foreign[0] in self.hashes else "not written by a report"
            more = f" (and {len(foreign) - 1} more)" if foreign[1:] else ""
            raise InputError(f"{self.folder / foreign[0]}: {what}{more}; {ADVICE}")

    def _is_ours(self, name: str) -> bool:
        """Whether a file is as a report left it."""
        return name in self.hashes and (not self.hashes[name] or _hash(self.folder / name) in self.hashes[name])

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"written_by": "mddbench report", "version": VERSION, "files": dict(sorted(self.hashes.items()))}
        partial = self.file.with_name(f"{MANIFEST}.part")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.file)


ADVICE = "move it, render elsewhere (`mddbench report --to DIR`), or overwrite it (`mddbench report --replace`)"


def _read(file: Path) -> dict[str, list[str]]:
    if not file.exists():
        return {}
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        files = {name: [str(each) for each in hashes] for name, hashes in content["files"].items()}
        if content["version"] != VERSION or not all(map(_is_below, files)):
            raise ValueError("a name that leads out of the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{file}: not the list of files that a report keeps; move the folder away and render the report anew"
        ) from None
    return files


def _is_below(name: Any) -> bool:
    """Whether a name is a relative path that leads nowhere else."""
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and name != MANIFEST


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, hidden files apart; raises NotADirectoryError if it is a file."""
    return (
        [path for path in folder.iterdir() if path.is_dir() or not path.name.startswith(".")] if folder.exists() else []
    )


def _hash(file: Path) -> str | None:
    return _hash_of(file.read_bytes()) if file.is_file() else None


def _hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
