"""Figures and axes: how a figure begins, how it gets a legend and a title, and how it is saved for screen and print."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mddbench.report.figures.fonts import spell_out, use_fonts
from mddbench.report.figures.style import DPI, HEAD, IN_LINES, KEY, TICK, WIDTH, balanced


def canvas(size: tuple[float, float], grid: tuple[int, int] = (1, 1), share_y: bool = False) -> tuple[Any, Any]:
    """Create a figure with axes, which have no more ticks than there is room for.

    Args:
        size: Width and height in inches. A width above WIDTH is reduced to it.
        grid: Rows and columns of axes.
        share_y: True if all axes share one y axis.

    Returns:
        The figure, and its axes row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    use_fonts()
    width, height = min(size[0], WIDTH), size[1]
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(*grid, sharey=share_y, squeeze=False).reshape(-1)
    for axes in panes:
        for axis, room in ((axes.xaxis, width / grid[1]), (axes.yaxis, height / grid[0])):
            axis.set_major_locator(MaxNLocator(max(3, min(int(2.4 * room), 6)), steps=[1, 2, 5, 10]))
        axes.tick_params(labelsize=TICK)
        axes.grid(True, color="#ddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panes


def panels(
    count: int, most: int, margin: tuple[float, float], size: tuple[float, float], share_y: bool = False
) -> tuple[Any, Any, int]:
    """Create a figure with an even grid of panels.

    Args:
        count: Number of panels.
        most: Greatest number of columns.
        margin: Width and height of the space around all panels, in inches.
        size: Width and height of a panel in inches.
        share_y: True if all panels share one y axis.

    Returns:
        The figure, the axes of the panels, and the number of columns.
    """
    rows, columns = balanced(count, most)
    figure, axes = canvas((margin[0] + size[0] * columns, margin[1] + size[1] * rows), (rows, columns), share_y)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count], columns


def logarithmic(axes: Any, which: str) -> None:
    """Make an axis logarithmic. Ticks are 1, 10, 100 over more than two decades, else 1, 3, 10, 30.

    Args:
        axes: The panel.
        which: 'x' or 'y'.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 3.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Any, axes: Iterable[Any], order: Sequence[str] = ()) -> None:
    """Add one legend below all panels. The figure grows by its height.

    Args:
        figure: The figure.
        axes: The panels whose labels are shown, each label once.
        order: Labels that come first, in this order.
    """
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = sorted(handles, key=lambda label: order.index(label) if label in order else len(order))
    if not labels:
        return
    letters = figure.get_figwidth() * 72 / (IN_LINES * KEY)
    rows, columns = balanced(len(labels), max(1, int(letters / (max(map(len, labels)) + 7))))
    figure.set_figheight(figure.get_figheight() + 0.1 + rows * 1.5 * KEY / 72)
    style = {"loc": "outside lower center", "fontsize": KEY, "frameon": False, "handlelength": 2.6}
    for text in figure.legend([handles[label] for label in labels], labels, ncols=columns, **style).get_texts():
        text.set_parse_math(False)


def save(figure: Any, file: Path, title: str = "", vector: bool = True) -> None:
    """Write a figure for screen and print.

    The PDF keeps text as text. It has no title, because a caption says it, and it is lower by the title's height.

    Args:
        figure: The figure.
        file: The PNG file.
        title: Title of the PNG; '' for none.
        vector: True to write a PDF beside it.
    """
    from matplotlib import rc_context

    if title:
        room = int(figure.get_figwidth() * 72 / (IN_LINES * HEAD))
        figure.suptitle(textwrap.fill(title, max(room, 20)), fontsize=HEAD, parse_math=False)
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
