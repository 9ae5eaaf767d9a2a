"""Which fonts draw the texts of pictures, and what becomes of signs that none of them knows."""

from __future__ import annotations

from functools import cache
from typing import Any

FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK KR",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Hiragino Sans",
    "PingFang SC",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
    "Unifont",
)
"""Of those that a machine has, the first that knows a sign draws it."""


def use_fonts() -> None:
    """Let all text be drawn by those of FONTS that this machine has."""
    import matplotlib as mpl

    mpl.rcParams["font.family"] = list(_installed())


def spell_out(figure: Any) -> None:
    """Replace the signs in a figure's texts that no font here knows by their numbers: names stay apart, and nothing warns."""
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_majorticklabels()]
            if any(spelt(label) != label for label in labels):  # a tick's text is set anew whenever it is drawn
                axis.set_ticks(axis.get_majorticklocs(), [spelt(label) for label in labels])
    for text in figure.findobj(Text):
        if spelt(text.get_text()) != text.get_text():
            text.set_text(spelt(text.get_text()))


def spelt(text: str) -> str:
    """A text with what no font here knows as its number in Unicode.

    >>> spelt("Motor")
    'Motor'
    """
    return text if text.isascii() else "".join(sign if _is_known(sign) else f"\\u{ord(sign):04x}" for sign in text)


@cache
def _installed() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    there = {entry.name for entry in fontManager.ttflist}
    return tuple(name for name in FONTS if name in there)


@cache
def _is_known(sign: str) -> bool:
    """Whether one of the fonts can draw a sign, or it needs none."""
    return sign.isascii() or any(ord(sign) in _signs(name) for name in _installed())


@cache
def _signs(name: str) -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(name)).get_charmap())
