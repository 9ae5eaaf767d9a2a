"""Reads files that say which images a dataset has: hostile until checked, and what they name must lie below the root."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mddbench.data.names import composed
from mddbench.data.samples import GOOD, Kind, Sample

DRIVE = re.compile("[A-Za-z]:")
MOST_FAULTS = 20
LARGEST = 2**28
"""Bytes; Real-IAD's largest split file is some megabytes."""


class SplitError(ValueError):
    """A split file that says something it must not. The message is one line without the file's name."""


def read_json(file: Path, root: Path) -> Any:
    """The content of a file below a root. Raises SplitError if it is no JSON."""
    try:
        return json.loads(_text(file, root))
    except ValueError as fault:
        raise SplitError(f"not valid JSON ({str(fault).splitlines()[0]})") from None
    except RecursionError:
        raise SplitError("nested too deeply") from None


def read_json_lines(file: Path, root: Path) -> Iterator[Any]:
    """The JSON value of each line that is not empty. Raises SplitError, naming the line."""
    for number, line in enumerate(_text(file, root).splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise SplitError(f"line {number} is not valid JSON") from None


def read_csv(file: Path, root: Path, header: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows under a header. Raises SplitError if the header is another or a row has other columns."""
    rows = csv.reader(_text(file, root).splitlines())
    found = tuple(next(rows, ()))
    if found != header:
        raise SplitError(f"expected the header {','.join(header)}, found {','.join(found)[:80]}")
    for row in rows:
        if row:
            if len(row) != len(header):
                raise SplitError(f"line {rows.line_num}: expected {len(header)} columns, found {len(row)}")
            yield dict(zip(header, row, strict=True))


def text_of(entry: Any, key: str) -> str:
    """A text that an entry must have. Raises SplitError if it has none."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str):
        raise SplitError(f"an entry has no text '{key}': {json.dumps(entry)[:100]}")
    return value


def list_of(content: Any, key: str) -> list[Any]:
    """A list that a file must have. Raises SplitError if it has none."""
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise SplitError(f"expected a list '{key}', found {type(value).__name__}")
    return value


class Collected:
    """Samples of a file's entries, and what is wrong with the others: a faulty entry hides no other."""

    def __init__(self, file: Path, advice: str = "") -> None:
        self.file, self.advice = file, advice
        self.samples: list[Sample] = []
        self.lines: list[str] = []

    @property
    def faults(self) -> list[str]:
        """A line each, of a few; then how many more there are."""
        more = len(self.lines) - MOST_FAULTS
        return [*self.lines[:MOST_FAULTS], *([f"{self.file}: {more} more entries are at fault"] if more > 0 else [])]

    def add(self, entries: Iterable[Any], sample_of: Callable[[Any], Sample]) -> None:
        """Make a sample of each entry."""
        for entry in self.each(entries):
            try:
                self.samples.append(sample_of(entry))
            except SplitError as fault:
                self.fail(fault)

    def fail(self, fault: SplitError) -> None:
        """Note what is wrong with an entry, or with the file."""
        self.lines.append(f"{self.file}: {fault}{self.advice}")

    def each(self, entries: Iterable[Any]) -> Iterator[Any]:
        """The entries up to where the file cannot be read on."""
        try:
            yield from entries
        except SplitError as fault:  # of the file, which ends here
            self.fail(fault)


class Below:
    """Makes paths that a file names into paths below a folder, and samples of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.start = folder, f"{folder}/"
        self.places = tuple(dict.fromkeys(_rooted(place) for place in (folder, folder.absolute(), folder.resolve())))
        self.known: dict[Path, dict[str, str]] = {}

    def path(self, name: str) -> Path:
        """Of a path with '/' or backslashes, which may be doubled, from the folder, or from the
        top, if it begins with the folder. Raises SplitError for one that leads out of the folder.
        """
        inner = name.replace("\\", "/")
        if inner.startswith("/") or DRIVE.match(inner):
            inner = self._inside(inner)
        parts = [part for part in inner.split("/") if part and part != "."]
        if ".." in parts or "\0" in name or inner.startswith("/") or DRIVE.match(inner):
            raise SplitError(f"path {name!r} leads out of the dataset's folder {self.folder}")
        if not parts:
            raise SplitError(f"path {name!r} names no file")
        return Path(self.start + "/".join(parts)) if inner.isascii() else self._there(parts)

    def _inside(self, name: str) -> str:
        """What of a path from the top lies below the folder; the path itself if it lies elsewhere."""
        plain = composed(re.sub("/+", "/", name))
        return next((plain[len(place) :] for place in self.places if plain.startswith(place)), name)

    def _there(self, parts: list[str]) -> Path:
        """The path as it is written on the disk, if there its letters are only composed in another way."""
        place = self.folder
        for part in parts:
            names = {} if part.isascii() else self._names(place)
            place = place / (names.get(part) or names.get(composed(part), part))
        return place

    def _names(self, folder: Path) -> dict[str, str]:
        """What lies in a folder, by its names and by the same with composed letters; looked at once."""
        if folder not in self.known:
            try:
                names = [entry.name for entry in folder.iterdir()]
            except OSError:
                names = []
            self.known[folder] = {composed(name): name for name in names} | {name: name for name in names}
        return self.known[folder]

    def holds(self, name: str) -> bool:
        """Whether a file of that name is there."""
        try:
            return self.path(name).exists()
        except (SplitError, OSError):
            return False

    def sample(self, image: str, category: str, split: Kind, defect: str, mask: str = "", item: str = "") -> Sample:
        """A sample; a mask of a normal image is not read. Raises SplitError for a training image with a defect."""
        if split == "train" and defect != GOOD:
            raise SplitError(f"training image {image!r} is labelled '{defect}'; training images are normal")
        masks = (self.path(mask),) if mask and defect != GOOD else ()
        return Sample(self.path(image), composed(category), split, composed(defect), masks, item)


def _rooted(folder: Path) -> str:
    """How paths below a folder begin, with '/'. What begins with it is below the folder or leads out by '..'."""
    return composed(folder.as_posix().rstrip("/")) + "/"


def _text(file: Path, root: Path) -> str:
    """The text of an ordinary file that lies below a root: a link out of it could lead anywhere, a pipe could never end."""
    try:
        real = file.resolve()
        if not real.is_relative_to(root.resolve()):
            raise SplitError(f"a symbolic link out of {root}; copy what it points to")
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SplitError("not an ordinary file")
            content = stream.read(LARGEST + 1)
    except (OSError, RuntimeError) as fault:  # RuntimeError: links in a circle
        raise SplitError(f"cannot be read ({getattr(fault, 'strerror', None) or fault})") from None
    if len(content) > LARGEST:
        raise SplitError(f"more than the {LARGEST} bytes allowed")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SplitError("not UTF-8 text") from None
