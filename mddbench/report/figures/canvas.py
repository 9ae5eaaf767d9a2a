"""What all plots share: a width that fits a page, axes, styles that stay apart in grey, files for the screen and for print."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mddbench.report.figures.fonts import spell_out, use_fonts

INK, ACCENT = "#3b6ea5", "#1b1b1b"
WIDTH = 7.0
"""Of a page's text in inches. No figure is wider, so that its letters keep their size in print."""
TICK, TEXT, KEY, HEAD = 7.0, 8.0, 7.5, 9.0
"""Sizes of letters in points: of ticks, of what names an axis or a panel, of a legend, of a title."""
DPI = 170
LETTER, IN_LINES = 0.6, 0.56
"""How wide a letter is, of its size: in a single word, and on average in a line of several."""
COLOURS = ("#12355b", "#b5471b", "#74b058", "#e0b000", "#6a2c70", "#6c7a89")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Six series differ in colour, lightness, line and marker; 36 in colour and line, and in colour and marker."""


def canvas(size: tuple[float, float], grid: tuple[int, int] = (1, 1), share_y: bool = False) -> tuple[Any, Any]:
    """A figure of so many inches, at most WIDTH wide, and its axes, row by row, with no more ticks than there is room for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    use_fonts()
    width, height = min(size[0], WIDTH), size[1]
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*grid, sharey=share_y, squeeze=False).reshape(-1)
    for axis in axes:
        for each, room in ((axis.xaxis, width / grid[1]), (axis.yaxis, height / grid[0])):
            each.set_major_locator(MaxNLocator(max(3, min(int(2.4 * room), 6)), steps=[1, 2, 5, 10]))
        axis.tick_params(labelsize=TICK)
        axis.grid(True, color="#ddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def balanced(count: int, most: int) -> tuple[int, int]:
    """(rows, columns) of a grid of so many panels, at most `most` beside each other, as even as it can be.

    >>> balanced(6, 5), balanced(30, 8)
    ((2, 3), (4, 8))
    """
    rows = max(1, -(-count // most))
    return rows, max(1, -(-count // rows))


def series(number: int) -> dict[str, Any]:
    """How the line of a series is drawn."""
    cycle, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": LINES[(place + cycle) % len(LINES)]}


def marks(number: int) -> dict[str, Any]:
    """How the points of a series are drawn."""
    cycle, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[(place + 2 * cycle) % len(MARKERS)], "linestyle": "none"}


def whole_numbers(axis: Any) -> None:
    """Let the ticks of an x or y axis stand at whole numbers only."""
    axis.get_major_locator().set_params(integer=True)


def logarithmic(axes: Any, which: str) -> None:
    """Make the 'x' or 'y' axis of some axes logarithmic, with plain numbers: 1, 10, 100 over more than two decades, else
    3 and 30, too.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 3.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Any, axes: Iterable[Any], order: Sequence[str] = ()) -> None:
    """Name below all panels, in a figure made so much higher, whatever has a label in one of them. order: of the
    labels; those that it lacks come last.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: order.index(label) if label in order else len(order))
    if not labels:
        return
    letters = figure.get_figwidth() * 72 / (IN_LINES * KEY)
    rows, columns = balanced(len(labels), max(1, int(letters / (max(map(len, labels)) + 7))))
    figure.set_figheight(figure.get_figheight() + 0.1 + rows * 1.5 * KEY / 72)
    drawn = figure.legend(
        [found[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=KEY,
        frameon=False,
        handlelength=2.6,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def title(figure: Any, text: str) -> None:
    """Head a figure for the screen; `save` leaves it out of print, where a caption says it."""
    room = int(figure.get_figwidth() * 72 / (IN_LINES * HEAD))
    figure.suptitle(textwrap.fill(text, max(room, 20)), fontsize=HEAD, parse_math=False)


def folded(text: str, inches: float, size: float) -> str:
    r"""A name in lines that are no wider than so many inches in letters of so many points, broken where words end, or else
    within one.

    >>> folded("immunohistochemistry slide", 1.0, 7)
    'immunohist-\nochemistry slide'
    """
    letters = max(4, int(inches * 72 / (LETTER * size)))
    words = [piece for word in text.split() for piece in _pieces(word, letters)]
    return "\n".join(textwrap.wrap(" ".join(words), letters, break_long_words=False, break_on_hyphens=False))


def _pieces(word: str, letters: int) -> list[str]:
    """A word, or as few and as even parts of it as fit, with hyphens."""
    if len(word) <= letters:
        return [word]
    step = -(-len(word) // -(-len(word) // (letters - 1)))
    parts = [word[at : at + step] for at in range(0, len(word), step)]
    return [*(f"{part}-" for part in parts[:-1]), parts[-1]]


def save(figure: Any, file: Path, vector: bool = True) -> None:
    """Write a figure as a picture and, if `vector`, beside it as a PDF with text as text and without the title, lower by it."""
    from matplotlib import rc_context

    file.parent.mkdir(parents=True, exist_ok=True)
    spell_out(figure)
    figure.savefig(file, metadata={"Software": None})
    if not vector:
        return
    text = figure.get_suptitle()
    if text:
        figure.suptitle("").set_in_layout(False)
        figure.set_figheight(figure.get_figheight() - 1.3 * HEAD / 72 * len(text.splitlines()))
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(file.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None})
