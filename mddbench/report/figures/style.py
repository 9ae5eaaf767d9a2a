"""Sizes, colours and styles that all figures share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mddbench.metrics.names import MAD

SHOWN = (MAD.key, "i_auroc", "aupro", "p_ap")
"""The metrics that a figure shows, one panel each, where all are defined. The tables have all."""
INK, ACCENT, NORMAL = "#3b6ea5", "#1b1b1b", "#9db7d5"
GRID, BAND, SHADE, QUIET = "#dddddd", "#f3f3f3", "#bbbbbb", "#888888"
"""Of lines behind the data, of every other row, of a range, and of what is said aside."""
WIDTH = 7.0  # of a printed page's text in inches; no figure is wider, so that its letters keep their size in print
PHONE = 3.35  # of a small screen, in inches
TEXT = 8.0  # points: all letters of all figures
DPI = 170
LETTER, IN_LINES = 0.6, 0.56  # width of a letter per point: in a single word, and on average in a line of words
_width: ContextVar[float] = ContextVar("width", default=WIDTH)
COLOURS = ("#12355b", "#b5471b", "#74b058", "#e0b000", "#6a2c70", "#6c7a89")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def page_width() -> float:
    """Return the width in inches that a figure may have where it is drawn now."""
    return _width.get()


def is_narrow() -> bool:
    """Return True while figures are drawn for a small screen."""
    return page_width() < WIDTH


@contextmanager
def narrow_page() -> Iterator[None]:
    """Draw figures for a small screen."""
    token = _width.set(PHONE)
    try:
        yield
    finally:
        _width.reset(token)


def shown_metrics(defined: Sequence[str]) -> tuple[str, ...]:
    """Choose the metrics that a figure shows, one panel each.

    >>> shown_metrics(["i_auroc", "i_ap", "i_f1max"])
    ('i_auroc', 'i_ap', 'i_f1max')

    Args:
        defined: Keys of the metrics that are defined.

    Returns:
        SHOWN if there is a mAD, else as many of the defined metrics at most.
    """
    return SHOWN if MAD.key in defined or not defined else tuple(defined[: len(SHOWN)])


def series(number: int) -> dict[str, Any]:
    """Choose the style of a line. Six lines differ in colour, lightness and dashes, and 36 in colour and dashes.

    Args:
        number: Number of the line, from 0.

    Returns:
        Arguments of matplotlib's `plot`.
    """
    cycle, index = divmod(number, len(COLOURS))
    return {"color": COLOURS[index], "linestyle": LINES[(index + cycle) % len(LINES)]}


def marks(number: int) -> dict[str, Any]:
    """Choose the style of a marker. Six differ in colour, lightness and shape, and 36 in colour and shape.

    Args:
        number: Number of the series, from 0.

    Returns:
        Arguments of matplotlib's `plot`.
    """
    cycle, index = divmod(number, len(COLOURS))
    return {"color": COLOURS[index], "marker": MARKERS[(index + 2 * cycle) % len(MARKERS)], "linestyle": "none"}


def balanced(count: int, most: int) -> tuple[int, int]:
    """Return the rows and columns of an even grid for `count` panels, with at most `most` columns.

    >>> balanced(6, 5), balanced(30, 8)
    ((2, 3), (4, 8))
    """
    rows = max(1, -(-count // most))
    return rows, max(1, -(-count // rows))


def folded(text: str, inches: float, size: float) -> str:
    r"""Return a name in lines that fit a width, in letters of `size` points. Lines end between words if they can.

    >>> folded("immunohistochemistry slide", 1.0, 7)
    'immunohist-\nochemistry slide'
    """
    letters = max(4, int(inches * 72 / (LETTER * size)))
    words = [piece for word in text.split() for piece in _pieces(word, letters)]
    return "\n".join(textwrap.wrap(" ".join(words), letters, break_long_words=False, break_on_hyphens=False))


def _pieces(word: str, letters: int) -> list[str]:
    """The word, or as few pieces of even length as fit, with hyphens."""
    if len(word) <= letters:
        return [word]
    step = -(-len(word) // -(-len(word) // (letters - 1)))
    pieces = [word[start : start + step] for start in range(0, len(word), step)]
    return [*(f"{piece}-" for piece in pieces[:-1]), pieces[-1]]
