"""Names of files that other people made: which of them are text, and how each of them is shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

ODD = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""The Unicode categories that a name must not have.

They are control characters, surrogates (bytes that are not UTF-8), and line and paragraph separators.
"""
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them. They can make one name look like another."""


def is_text(name: str) -> bool:
    """Return True if a name can be printed unchanged. Spaces and the characters of all scripts are text."""
    return (name.isascii() and name.isprintable()) or not any(map(_is_odd, name))


def shown(line: str) -> str:
    r"""Escape the characters of a line that are not text, such as those that move a terminal's cursor.

    Args:
        line: Any text.

    Returns:
        The line, safe to print.

    Example:
        >>> print(shown(f"red{chr(27)}[31m"))
        red\x1b[31m
    """
    return line if is_text(line) else "".join(ascii(sign)[1:-1] if _is_odd(sign) else sign for sign in line)


def composed(name: str) -> str:
    """Return a name in the Unicode form NFC, because systems write the same letters in two different ways."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def lookalikes(paths: Iterable[Path]) -> Iterator[str]:
    """Find paths in the same folder whose names differ only in how their letters are composed.

    Args:
        paths: The paths.

    Yields:
        One line for each path whose name looks like that of an earlier one.
    """
    first_paths: dict[tuple[str, str], Path] = {}
    for path in paths:
        first = first_paths.setdefault((str(path.parent), composed(path.name)), path)
        if first != path:
            yield (
                f"{path}: its name ({path.name!a}) differs from {first.name!a} beside it only in "
                "how its letters are composed (Unicode NFC, NFD); rename or remove one"
            )


def _is_odd(sign: str) -> bool:
    return sign in TURNING or unicodedata.category(sign) in ODD
