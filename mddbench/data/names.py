"""Names as they come from files that somebody else made: which are text, and how any of them is shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

ODD = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that a name must not have: control signs, halves of pairs (bytes that are no UTF-8), line separators."""
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that turn the direction of what follows, and make a name look like another."""


def is_text(name: str) -> bool:
    """Whether a name can be printed as it is; spaces and signs of all scripts are text."""
    return (name.isascii() and name.isprintable()) or not any(map(_is_odd, name))


def shown(line: str) -> str:
    r"""A line as a terminal may be given it: what could move its cursor, or is no text, is spelt out.

    >>> print(shown(f"red{chr(27)}[31m"))
    red\x1b[31m
    """
    return line if is_text(line) else "".join(ascii(sign)[1:-1] if _is_odd(sign) else sign for sign in line)


def composed(name: str) -> str:
    """A name with its letters in one sign each where Unicode has one (NFC): systems write one and the same name in two ways."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def twins(paths: Iterable[Path]) -> Iterator[str]:
    """A line for each path whose name differs from that of an earlier one beside it only in how its letters are composed."""
    seen: dict[tuple[str, str], Path] = {}
    for path in paths:
        first = seen.setdefault((str(path.parent), composed(path.name)), path)
        if first != path:
            yield (
                f"{path}: its name ({path.name!a}) differs from {first.name!a} beside it only in how its letters are composed "
                "(Unicode NFC, NFD); rename or remove one"
            )


def _is_odd(sign: str) -> bool:
    return sign in TURNING or unicodedata.category(sign) in ODD
