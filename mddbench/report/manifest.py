"""The list of files that a report wrote into its folder. No other file in it is ever removed or overwritten."""

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
ADVICE = "move it, render elsewhere (`mddbench report --to DIR`), or overwrite it (`mddbench report --replace`)"


class Manifest:
    """The files of a folder that a report wrote.

    Attributes:
        folder: The folder of the report.
        file: The list on disk.
        hashes: Name of a file -> the SHA-256 that it may have. A file that is being drawn has none, so that what an
            interrupted report leaves in its place counts as the report's.
    """

    def __init__(self, folder: Path) -> None:
        """Read the list of a folder; a damaged list is an InputError."""
        self.folder, self.file = folder, folder / MANIFEST
        self.hashes = _read(self.file)

    @property
    def files(self) -> set[Path]:
        """The files in the list."""
        return {self.folder / name for name in self.hashes}

    def refuse_others(self) -> None:
        """Raise InputError if the folder holds files and no list."""
        if self.file.exists() or not self.folder.exists():
            return
        paths = [path for path in self.folder.iterdir() if path.is_dir() or not path.name.startswith(".")]
        others = sorted(path.name for path in paths)
        if others:
            raise InputError(
                f"{self.folder}: it holds {len(others)} files or folders that no report wrote, '{others[0]}' for one; {ADVICE}"
            )

    def claim(self, contents: Mapping[Path, str | None], replace: bool) -> None:
        """Add files to the list before they are written.

        Args:
            contents: Name below the folder -> text of the file, None if it is not known yet.
            replace: True to overwrite files that no report wrote, or that were changed since.

        Raises:
            InputError: If `replace` is False and there are such files, or files and no list. Nothing is written then.
        """
        if not replace:
            self.refuse_others()
            names = sorted(name.as_posix() for name in contents)
            foreign = [name for name in names if (self.folder / name).exists() and not self._is_unchanged(name)]
            if foreign:
                reason = "changed since a report wrote it" if foreign[0] in self.hashes else "not written by a report"
                more = f" (and {len(foreign) - 1} more)" if foreign[1:] else ""
                raise InputError(f"{self.folder / foreign[0]}: {reason}{more}; {ADVICE}")
        for name, text in contents.items():
            before = self.hashes.get(name.as_posix(), [])
            self.hashes[name.as_posix()] = [*before, _sha256(text.encode())] if text is not None else []
        self._write()

    def forget(self, keep: Iterable[Path], kind: Callable[[Path], bool] = lambda _: True) -> None:
        """Remove the files of an earlier report that are not in `keep` and of which `kind` is true.

        A file that was changed since then leaves the list and stays in the folder.

        Args:
            keep: Names of the files to keep, below the folder.
            kind: True for the files that may be removed.
        """
        names_to_keep = {name.as_posix() for name in keep}
        for name in [name for name in self.hashes if name not in names_to_keep and kind(Path(name))]:
            if self._is_unchanged(name):
                (self.folder / name).unlink(missing_ok=True)
            del self.hashes[name]

    def finish(self, names: Iterable[Path]) -> None:
        """Store the hashes of files after they were written. A claimed file that does not exist leaves the list.

        Args:
            names: Names of the files, below the folder.
        """
        for name in {name.as_posix() for name in names}:
            self.hashes.pop(name, None)
            if (self.folder / name).is_file():
                self.hashes[name] = [_sha256((self.folder / name).read_bytes())]
        self._write()

    def _is_unchanged(self, name: str) -> bool:
        """True if a file is as a report left it."""
        file, hashes = self.folder / name, self.hashes.get(name)
        if not hashes:
            return hashes is not None
        return file.is_file() and _sha256(file.read_bytes()) in hashes

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"written_by": "mddbench report", "version": VERSION, "files": dict(sorted(self.hashes.items()))}
        partial = self.file.with_name(f"{MANIFEST}.part")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.file)


def _read(file: Path) -> dict[str, list[str]]:
    if not file.exists():
        return {}
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        files = {name: [str(sha256) for sha256 in hashes] for name, hashes in content["files"].items()}
        if content["version"] != VERSION or not all(map(_is_below, files)):
            raise ValueError("a name that leads out of the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{file}: not the list of files that a report keeps; move the folder away and render the report anew"
        ) from None
    return files


def _is_below(name: Any) -> bool:
    """True if a name is a relative path that does not lead out of the folder."""
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and name != MANIFEST


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
