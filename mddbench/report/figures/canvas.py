"""Figures and axes: how a figure begins, how it gets a legend and a title, and how it is saved for screen and print."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mddbench.report.figures.fonts import spell_out, spelt, use_fonts
from mddbench.report.figures.style import DPI, GRID, IN_LINES, LETTER, TEXT, balanced, is_narrow, page_width

NARROWEST = 1.5  # inches of a panel, where there is more than one beside each other


def canvas(size: tuple[float, float], grid: tuple[int, int] = (1, 1), share: str = "") -> tuple[Any, Any]:
    """Create a figure with axes, which have no more ticks than there is room for.

    On a small screen panels of one row stand in as many rows as they need, and the figure is higher.

    Args:
        size: Width and height in inches. A width above that of the page is reduced to it.
        grid: Rows and columns of axes.
        share: 'x', 'y' or 'xy' for axes that all panels share.

    Returns:
        The figure, and its axes row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    use_fonts()
    (rows, columns), (width, height) = grid, (min(size[0], page_width()), size[1])
    count, columns = rows * columns, min(columns, max(1, int(width / NARROWEST)))
    rows, height = -(-count // columns), height * -(-count // columns) / rows
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(rows, columns, sharex="x" in share, sharey="y" in share, squeeze=False).reshape(-1)
    for axes in panes:
        for axis, room in ((axes.xaxis, width / columns), (axes.yaxis, height / rows)):
            axis.set_major_locator(MaxNLocator(max(3, min(int(2.0 * room), 6)), steps=[1, 2, 5, 10]))
        axes.tick_params(labelsize=TEXT)
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_facecolor("none")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panes[count:]:
        axes.set_visible(False)
    return figure, panes[:count]


def panels(
    count: int, most: int, margin: tuple[float, float], size: tuple[float, float], share: str = ""
) -> tuple[Any, Any]:
    """Create a figure with an even grid of panels.

    Args:
        count: Number of panels.
        most: Greatest number of columns.
        margin: Width and height of the space around all panels, in inches.
        size: Width and height of a panel in inches.
        share: 'x', 'y' or 'xy' for axes that all panels share.

    Returns:
        The figure, and the axes of the panels.
    """
    rows, columns = balanced(count, min(most, max(1, int(page_width() / NARROWEST))))
    figure, axes = canvas((margin[0] + size[0] * columns, margin[1] + size[1] * rows), (rows, columns), share)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def name_axes(axes: Sequence[Any], x_label: str = "", y_label: str = "") -> None:
    """Name the x axis of the lowest panel of each column, which then shows its ticks, and the y axes on the left.

    Args:
        axes: The panels of a figure, row by row.
        x_label: Name of the x axes.
        y_label: Name of the y axes.
    """
    columns = axes[0].get_subplotspec().get_gridspec().ncols
    for axis in axes[-columns:] if x_label else ():
        axis.set_xlabel(x_label, fontsize=TEXT, parse_math=False)
        axis.tick_params(labelbottom=True)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label, fontsize=TEXT)


def label_points(
    axis: Any, points: Sequence[tuple[float, float, str, str]], line: Sequence[tuple[float, float]]
) -> None:
    """Write the name of each point beside it, if there is room without another name, a point or a line in its way.

    Args:
        axis: The panel, whose data and limits are complete.
        points: x, y, name and colour of each point.
        line: The corners of a line.
    """
    from matplotlib.transforms import Bbox

    spell_out(axis.figure)
    axis.figure.draw_without_rendering()
    scale, frame = axis.figure.dpi / 72, axis.get_window_extent()
    places = axis.transData.transform([(x, y) for x, y, *_ in points])
    corners = [axis.transData.transform(corner) for corner in line]
    steps = [one + (other - one) * n / 20 for one, other in itertools.pairwise(corners) for n in range(21)]
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in places]
    taken += [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in steps]
    for (x, y), (*point, name, colour) in zip(places, points, strict=True):
        width, height = LETTER * TEXT * (len(name) + 1) * scale, 1.3 * TEXT * scale
        shifts = [
            *((5 * scale, -height / 2), (-5 * scale - width, -height / 2)),
            *((-width / 2, 5 * scale), (-width / 2, -5 * scale - height)),
            *((5 * scale, 2 * scale), (5 * scale, -2 * scale - height)),
            *((-5 * scale - width, 2 * scale), (-5 * scale - width, -2 * scale - height)),
        ]
        boxes = [Bbox.from_bounds(x + across, y + up, width, height) for across, up in shifts]
        free = [not any(box.overlaps(other) for other in taken) for box in boxes]
        inside = [box.x0 >= frame.x0 and box.x1 <= frame.x1 + 2 for box in boxes]
        choice = next((number for number in range(len(boxes)) if free[number] and inside[number]), None)
        if choice is not None:
            taken.append(boxes[choice])
            place = {"textcoords": "offset points", "xytext": [shift / scale for shift in shifts[choice]]}
            text = axis.annotate(
                spelt(name), point, fontsize=TEXT, color=colour, annotation_clip=False, va="bottom", **place
            )
            text.set(parse_math=False, in_layout=False)


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
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 3.0), numticks=6))
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
    letters = figure.get_figwidth() * 72 / (IN_LINES * TEXT)
    rows, columns = balanced(len(labels), max(1, int(letters / (max(map(len, labels)) + 7))))
    figure.set_figheight(figure.get_figheight() + 0.1 + rows * 1.5 * TEXT / 72)
    style = {"loc": "outside lower center", "fontsize": TEXT, "frameon": False, "handlelength": 2.6}
    for text in figure.legend([handles[label] for label in labels], labels, ncols=columns, **style).get_texts():
        text.set_parse_math(False)


def forms_of(file: Path) -> tuple[Path, Path, Path, Path]:
    """Return the files of a figure by that of its PNG: PNG and PDF, and SVG for a page and for a small screen."""
    return (file, *(file.with_suffix(suffix) for suffix in (".pdf", ".svg", ".narrow.svg")))  # type: ignore[return-value]


def save(figure: Any, file: Path, title: str = "", vector: bool = True, on_page: bool = True) -> None:
    """Write a figure for screen and print; while figures are drawn for a small screen, write that form alone.

    PDF and SVG keep text as text. They have no title, because a caption says it, and are lower by the title's height.
    The SVG names it as its title.

    Args:
        figure: The figure.
        file: The PNG file.
        title: Title of the PNG; '' for none.
        vector: True to write a PDF beside it.
        on_page: True to write an SVG, too.
    """
    from matplotlib import rc_context

    png, pdf, svg, narrow = forms_of(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    spell_out(figure)
    title = spelt(title)
    if not is_narrow():
        height = figure.get_figheight()
        if title:
            room = int(figure.get_figwidth() * 72 / (IN_LINES * TEXT))
            heading = figure.suptitle(textwrap.fill(title, max(room, 20)), fontsize=TEXT, parse_math=False)
            figure.set_figheight(height + 1.3 * TEXT / 72 * len(heading.get_text().splitlines()))
        figure.savefig(png, metadata={"Software": None})
        if title:
            figure.suptitle("").set_in_layout(False)
            figure.set_figheight(height)
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": file.stem}):
        if vector and not is_narrow():
            figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
            figure.set_layout_engine("none")  # the SVG is laid out as the PDF is
        if vector and on_page:
            own = {"Date": None, "Creator": None, "Title": title}
            figure.savefig(narrow if is_narrow() else svg, metadata=own, facecolor="none")
