"""The images that somebody asks about: files, folders, patterns, or paths from standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mddbench.data.listing import IMAGE_SUFFIXES
from mddbench.data.own import is_own
from mddbench.errors import InputError

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Source:
    """An image to look at.

    Attributes:
        path: Its file.
        name: Name of its results: its path below the folder that was given, else its file name, without the ending.
            A number follows where several images have the same one.
    """

    path: Path
    name: PurePosixPath


def find_images(given: Sequence[str], lines: Iterable[str] = ()) -> Iterator[Source]:
    """Find the images, in the order in which they were given. Within a folder they are sorted by their paths.

    Images are found while others are scored, so that neither many files nor an endless stream of paths fills the memory.
    An InputError is raised if a pattern fits no file, or a folder holds no image.

    Args:
        given: Files, folders, patterns such as 'photos/*.png', or '-' for `lines`.
        lines: Paths of files or folders, one a line.

    Yields:
        Each image. A file that does not exist is yielded, too; reading it says so.
    """
    names: set[PurePosixPath] = set()
    for source in _find(given, lines):
        name, number = source.name, 1
        while name in names:
            number += 1
            name = source.name.with_name(f"{source.name.name}-{number}")
        names.add(name)
        yield Source(source.path, name)


def count_images(given: Sequence[str]) -> int | None:
    """Count the images, for a progress bar.

    Args:
        given: As for `find_images`.

    Returns:
        Their number; None if they come from standard input, which can be read only once.
    """
    return None if STANDARD_INPUT in given else sum(1 for _ in _find(given, ()))


def folders_inside(given: Sequence[str], folder: Path) -> list[str]:
    """Return those of the given folders that are a folder, or lie in it."""
    whole = folder.resolve()
    return [text for text in given if Path(text).is_dir() and Path(text).resolve().is_relative_to(whole)]


def _find(given: Sequence[str], lines: Iterable[str]) -> Iterator[Source]:
    """Find the images, with names that may be the same."""
    for text in given:
        if text == STANDARD_INPUT:
            for line in lines:
                if line.strip():
                    yield from _below(Path(line.rstrip("\r\n")))
        elif not Path(text).exists() and glob.has_magic(text):
            paths = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - the pattern may be absolute
            if not paths:
                raise InputError(f"{text}: no file fits this pattern")
            for path in paths:
                yield from _below(Path(path))
        else:
            yield from _below(Path(text))


def _below(path: Path) -> Iterator[Source]:
    """Yield a file itself, or the images in a folder and the folders below it."""
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # reading the file says why
        is_folder = False
    if not is_folder:
        yield Source(path, PurePosixPath(path.stem or path.name))
        return
    found = False
    for file in _walk(path):
        found = True
        yield Source(file, PurePosixPath(file.relative_to(path).with_suffix("").as_posix()))
    if not found:
        raise InputError(
            f"{path}: no image in this folder; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the images of a folder, sorted. Hidden ones, and folders that mddbench wrote, are left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as fault:
        raise InputError(f"{folder}: cannot be read ({fault.strerror})") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if not is_own(path):
                yield from _walk(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            yield path
