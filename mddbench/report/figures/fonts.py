"""The fonts of figures, and the replacement of characters that no installed font has."""

from __future__ import annotations

from functools import cache
from typing import Any

FONTS = (
    *("DejaVu Sans", "Noto Sans"),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans"),  # Chinese, Japanese, Korean
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),  # Chinese
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),  # Chinese, Japanese, Korean on Windows
    *("Hiragino Sans", "PingFang SC"),  # Japanese, Chinese on macOS
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Arial Unicode MS", "Unifont"),
)
"""In this order: the first installed font that has a character draws it."""


def use_fonts() -> None:
    """Make matplotlib draw all text with those of FONTS that are installed."""
    import matplotlib as mpl

    mpl.rcParams["font.family"] = list(_installed())


def spell_out(figure: Any) -> None:
    """Replace all characters in a figure's texts that no installed font has by their numbers in Unicode.

    Names stay different from each other, and matplotlib does not warn.

    Args:
        figure: The figure, complete.
    """
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_majorticklabels()]
            known = [spelt(label) for label in labels]
            if known != labels:  # matplotlib sets the text of a tick anew at each drawing
                axis.set_ticks(axis.get_majorticklocs(), known)
    for text in figure.findobj(Text):
        text.set_text(spelt(text.get_text()))


def spelt(text: str) -> str:
    """Return a text with each character that no installed font has as its number in Unicode.

    >>> spelt("Motor")
    'Motor'

    Args:
        text: The text.

    Returns:
        The text in characters that can be drawn.
    """
    return text if text.isascii() else "".join(sign if _is_known(sign) else f"\\u{ord(sign):04x}" for sign in text)


@cache
def _installed() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    names = {entry.name for entry in fontManager.ttflist}
    return tuple(name for name in FONTS if name in names)


@cache
def _is_known(sign: str) -> bool:
    """True if an installed font has a character, or if every font has it."""
    return sign.isascii() or any(ord(sign) in _characters(name) for name in _installed())


@cache
def _characters(font: str) -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(font)).get_charmap())
