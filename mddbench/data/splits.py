"""Reads files that say which images a dataset has: hostile until checked, and what they name must lie below the root."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mddbench.data.samples import GOOD, Kind, Sample

LARGEST = 2**28
"""Bytes; Real-IAD's largest split file is some megabytes."""


class SplitError(ValueError):
    """A split file that says something it must not. The message is one line without the file's name."""


def read_json(file: Path) -> Any:
    """The file's content. Raises SplitError if it is no JSON."""
    try:
        return json.loads(_text(file))
    except ValueError as fault:
        raise SplitError(f"not valid JSON ({str(fault).splitlines()[0]})") from None
    except RecursionError:
        raise SplitError("nested too deeply") from None


def read_json_lines(file: Path) -> Iterator[Any]:
    """The JSON value of each line that is not empty. Raises SplitError, naming the line."""
    for number, line in enumerate(_text(file).splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise SplitError(f"line {number} is not valid JSON") from None


def read_csv(file: Path, header: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows under a header. Raises SplitError if the header is another or a row has other columns."""
    rows = csv.reader(_text(file).splitlines())
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


class Below:
    """Makes paths that a file names into paths below a folder, and samples of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.start = folder, f"{folder}/"

    def path(self, name: str) -> Path:
        """A relative path with '/', which may be doubled. Raises SplitError for one that leads out of the folder."""
        parts = [part for part in name.split("/") if part and part != "."]
        if "\\" in name:
            raise SplitError(f"path {name!r} has '\\'; expected folders parted by '/'")
        if not parts:
            raise SplitError(f"path {name!r} names no file")
        if name.startswith("/") or ".." in parts or "\0" in name or ":" in parts[0]:
            raise SplitError(f"path {name!r} leads out of the dataset's folder")
        return Path(self.start + "/".join(parts))

    def sample(self, image: str, category: str, split: Kind, defect: str, mask: str = "", item: str = "") -> Sample:
        """A sample; a mask of a normal image is not read. Raises SplitError for a training image with a defect."""
        if split == "train" and defect != GOOD:
            raise SplitError(f"training image {image!r} is labelled '{defect}'; training images are normal")
        masks = (self.path(mask),) if mask and defect != GOOD else ()
        return Sample(self.path(image), category, split, defect, masks, item)


def _text(file: Path) -> str:
    """The text of an ordinary file: no link, which could lead anywhere, and no pipe, which could never end."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SplitError("not an ordinary file")
            content = stream.read(LARGEST + 1)
    except OSError as fault:
        is_link = fault.errno == errno.ELOOP
        reason = "a symbolic link; copy what it points to" if is_link else f"cannot be read ({fault.strerror})"
        raise SplitError(reason) from None
    if len(content) > LARGEST:
        raise SplitError(f"more than the {LARGEST} bytes allowed")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SplitError("not UTF-8 text") from None
