"""Tables inside a text file, such as a README, between the marks `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mddbench.errors import InputError

BLOCK = re.compile(r"(?s)(<!-- table: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)")


def filled(file: Path, tables: Mapping[str, str]) -> str:
    """Fill the marked tables of a text file, and return its text.

    An InputError is also raised if the file cannot be read.

    Args:
        file: The file.
        tables: Name of a table -> its Markdown.

    Returns:
        The text with its tables as they follow from the records.

    Raises:
        InputError: If the file has no mark, or names a table that is not in `tables`.
    """
    text = _read(file)
    names = [match["name"] for match in BLOCK.finditer(text)]
    if not names:
        raise InputError(f"{file}: no marked table there; expected <!-- table: NAME --> and <!-- end --> around one")
    unknown = [name for name in names if name not in tables]
    if unknown:
        raise InputError(f"{file}: no table '{unknown[0]}'; the records give {', '.join(tables)}")
    return BLOCK.sub(lambda match: f"{match[1]}{tables[match['name']].strip()}\n{match[3]}", text)


def fill_in(file: Path, tables: Mapping[str, str]) -> None:
    """Fill the marked tables of a file. It stays unchanged if the disk is full or the process is killed.

    Args:
        file: The file.
        tables: Name of a table -> its Markdown.
    """
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(filled(file, tables), encoding="utf-8")
    os.replace(partial, file)


def fill_differences(file: Path, tables: Mapping[str, str]) -> list[str]:
    """Compare a file with the file with its tables filled.

    Args:
        file: The file.
        tables: Name of a table -> its Markdown.

    Returns:
        Lines of a diff; none if they agree.
    """
    stored, wanted = _read(file).splitlines(), filled(file, tables).splitlines()
    return list(difflib.unified_diff(stored, wanted, str(file), "from the records", lineterm=""))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{file}: cannot be read ({getattr(fault, 'strerror', fault)})") from None
