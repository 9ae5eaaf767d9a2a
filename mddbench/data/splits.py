"""Reads files that say which images a dataset has.

They are hostile until they are checked. The files that they name must lie below the root.
"""

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
from mddbench.data.samples import GOOD, Sample, SplitName

DRIVE = re.compile("[A-Za-z]:")
MOST_FAULTS = 20
"""The number of faults of a split file that are reported."""
LARGEST = 2**28
"""The largest size of a split file in bytes. Real-IAD's largest one has some megabytes."""


class SplitError(ValueError):
    """A split file has invalid content. The message is one line without the file's name."""


def read_json(file: Path, root: Path) -> Any:
    """Read a JSON file.

    Args:
        file: The file, which must lie below the root.
        root: The dataset's folder.

    Returns:
        The JSON value.

    Raises:
        SplitError: If the file cannot be read, or if it is no JSON.
    """
    text = _text(file, root)
    try:
        return json.loads(text)
    except ValueError as fault:
        raise SplitError(f"not valid JSON ({str(fault).splitlines()[0]})") from None
    except RecursionError:
        raise SplitError("nested too deeply") from None


def read_json_lines(file: Path, root: Path) -> Iterator[Any]:
    """Read a file with one JSON value per line. Empty lines are skipped.

    Args:
        file: The file, which must lie below the root.
        root: The dataset's folder.

    Yields:
        The JSON value of each line.

    Raises:
        SplitError: If the file cannot be read, or if a line is no JSON. The message names the line.
    """
    for number, line in enumerate(_text(file, root).splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise SplitError(f"line {number} is not valid JSON") from None


def read_csv(file: Path, root: Path, header: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Read a CSV file.

    Args:
        file: The file, which must lie below the root.
        root: The dataset's folder.
        header: The names of the columns that the first line must have.

    Yields:
        Each row as a mapping from column to text.

    Raises:
        SplitError: If the file cannot be read, if it has another header, if a field is too long, or if a row has another
            number of columns.
    """
    # Python 3.10's csv module refuses NUL. A lone surrogate stands for it, which UTF-8 text cannot contain.
    reader = csv.reader(_text(file, root).replace("\0", "\udc00").splitlines())
    rows = ([field.replace("\udc00", "\0") for field in row] for row in reader)
    try:
        columns = tuple(next(rows, ()))
        if columns != header:
            raise SplitError(f"expected the header {','.join(header)}, found {','.join(columns)[:80]}")
        for row in rows:
            if row:
                if len(row) != len(header):
                    raise SplitError(f"line {reader.line_num}: expected {len(header)} columns, found {len(row)}")
                yield dict(zip(header, row, strict=True))
    except csv.Error as fault:
        raise SplitError(f"line {reader.line_num}: not valid CSV ({fault})") from None


def read_columns(file: Path, root: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Read a file whose lines are texts with blanks between them. It has no header. Empty lines are skipped.

    Args:
        file: The file, which must lie below the root.
        root: The dataset's folder.
        columns: The names of the columns.

    Yields:
        Each line as a mapping from column to text.

    Raises:
        SplitError: If the file cannot be read, or if a line has another number of columns.
    """
    for number, line in enumerate(_text(file, root).splitlines(), 1):
        texts = line.split()
        if texts:
            if len(texts) != len(columns):
                raise SplitError(f"line {number}: expected {len(columns)} columns, found {len(texts)}")
            yield dict(zip(columns, texts, strict=True))


def text_of(entry: Any, key: str) -> str:
    """Get a text that an entry must have.

    Args:
        entry: The entry, any JSON value.
        key: The key of the text.

    Returns:
        The text.

    Raises:
        SplitError: If the entry has no such text.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str):
        raise SplitError(f"an entry has no text '{key}': {json.dumps(entry)[:100]}")
    return value


def list_of(content: Any, key: str) -> list[Any]:
    """Get a list that a file must have.

    Args:
        content: The content of the file, any JSON value.
        key: The key of the list.

    Returns:
        The list.

    Raises:
        SplitError: If the file has no such list.
    """
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise SplitError(f"expected a list '{key}', found {type(value).__name__}")
    return value


class SplitFile:
    """The samples of a split file's entries, and its faults. A faulty entry does not hide the others.

    Attributes:
        file: The split file.
        advice: The text at the end of each fault.
        samples: The samples so far.
        all_faults: All faults so far, one line each.
    """

    def __init__(self, file: Path, advice: str = "") -> None:
        self.file, self.advice = file, advice
        self.samples: list[Sample] = []
        self.all_faults: list[str] = []

    @property
    def faults(self) -> list[str]:
        """The first MOST_FAULTS faults, one line each, and a line that says how many more there are."""
        more = len(self.all_faults) - MOST_FAULTS
        summary = [f"{self.file}: {more} more entries are at fault"] if more > 0 else []
        return [*self.all_faults[:MOST_FAULTS], *summary]

    def add(self, entries: Iterable[Any], sample_of: Callable[[Any], Sample | None]) -> None:
        """Make a sample of each entry.

        Args:
            entries: The entries.
            sample_of: Makes a sample of an entry, or returns None for an entry that is not used.
                It raises SplitError for a faulty one.
        """
        for entry in self.readable(entries):
            try:
                sample = sample_of(entry)
            except SplitError as fault:
                self.fail(fault)
            else:
                self.samples += [sample] if sample is not None else []

    def fail(self, fault: SplitError) -> None:
        """Record a fault of an entry or of the file."""
        self.all_faults.append(f"{self.file}: {fault}{self.advice}")

    def readable(self, entries: Iterable[Any]) -> Iterator[Any]:
        """Yield the entries up to the position at which the file cannot be read further."""
        try:
            yield from entries
        except SplitError as fault:  # a fault of the file ends it
            self.fail(fault)


class ImageFolder:
    """A folder with the images and masks that a split file names. It turns the names into paths and samples.

    Attributes:
        folder: The folder.
        start: The text with which all paths below the folder begin.
        full_starts: The same for the forms in which the folder's path may be written, with '/'.
        listings: For each folder that was listed, the real names of its entries, by their names in any form.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.start = folder, f"{folder}/"
        forms = (folder, folder.absolute(), folder.resolve())
        self.full_starts = tuple(dict.fromkeys(_with_slash(form) for form in forms))
        self.listings: dict[Path, dict[str, str]] = {}

    def path(self, name: str) -> Path:
        """Turn a file's name into a path.

        Args:
            name: A path with '/' or backslashes, which may be doubled. It is relative to the folder, or absolute if it
                begins with the folder's path.

        Returns:
            The path below the folder.

        Raises:
            SplitError: If the path leads out of the folder, or if it names no file.
        """
        inner = name.replace("\\", "/")
        if inner.startswith("/") or DRIVE.match(inner):
            inner = self._relative(inner)
        parts = [part for part in inner.split("/") if part and part != "."]
        if ".." in parts or "\0" in name or inner.startswith("/") or DRIVE.match(inner):
            raise SplitError(f"path {name!r} leads out of the dataset's folder {self.folder}")
        if not parts:
            raise SplitError(f"path {name!r} names no file")
        return Path(self.start + "/".join(parts)) if inner.isascii() else self._on_disk(parts)

    def _relative(self, name: str) -> str:
        """An absolute path made relative to the folder, or unchanged if it lies elsewhere."""
        plain = composed(re.sub("/+", "/", name))
        return next((plain[len(start) :] for start in self.full_starts if plain.startswith(start)), name)

    def _on_disk(self, parts: list[str]) -> Path:
        """The path as it is written on the disk, where letters may be composed in another way."""
        path = self.folder
        for part in parts:
            names = {} if part.isascii() else self._listing(path)
            path = path / (names.get(part) or names.get(composed(part), part))
        return path

    def _listing(self, folder: Path) -> dict[str, str]:
        """The names of a folder's entries, by these names and by their composed forms. Each folder is listed once."""
        if folder not in self.listings:
            try:
                names = [entry.name for entry in folder.iterdir()]
            except OSError:
                names = []
            self.listings[folder] = {composed(name): name for name in names} | {name: name for name in names}
        return self.listings[folder]

    def holds(self, name: str) -> bool:
        """Return True if a file of this name exists in the folder."""
        try:
            return self.path(name).exists()
        except (SplitError, OSError):
            return False

    def sample(
        self, image: str, category: str, split: SplitName, defect: str, mask: str = "", item: str = ""
    ) -> Sample:
        """Make a sample of an entry's values. The mask of a normal image is not read.

        Args:
            image: The name of the image file, as for `path`.
            category: The name of the category.
            split: The split.
            defect: The kind of defect; 'good' for none.
            mask: The name of the mask file, as for `path`; '' for none.
            item: The item that the image shows; '' for none.

        Returns:
            The sample.

        Raises:
            SplitError: If a training image has a defect, or if a name is no path below the folder.
        """
        if split == "train" and defect != GOOD:
            raise SplitError(f"training image {image!r} is labelled '{defect}'; training images are normal")
        masks = (self.path(mask),) if mask and defect != GOOD else ()
        return Sample(self.path(image), composed(category), split, composed(defect), masks, item)


def _with_slash(folder: Path) -> str:
    """The text with which paths below a folder begin, with '/'. Other paths that begin with it lead out by '..'."""
    return composed(folder.as_posix().rstrip("/")) + "/"


def _text(file: Path, root: Path) -> str:
    """The text of an ordinary file below a root. A link out of it could lead anywhere, and a pipe could never end."""
    try:
        real = file.resolve()
        if not real.is_relative_to(root.resolve()):
            raise SplitError(f"a symbolic link out of {root}; copy what it points to")
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SplitError("not an ordinary file")
            content = stream.read(LARGEST + 1)
    except (OSError, RuntimeError) as fault:  # RuntimeError: links that form a circle
        raise SplitError(f"cannot be read ({getattr(fault, 'strerror', None) or fault})") from None
    if len(content) > LARGEST:
        raise SplitError(f"more than the {LARGEST} bytes allowed")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SplitError("not UTF-8 text") from None
