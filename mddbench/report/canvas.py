"""What all plots share: axes, styles that stay apart in grey, and files for the screen and for print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INK, ACCENT = "#3b6ea5", "#1b1b1b"
SERIES = (
    ("#12355b", "-", "o"),
    ("#b5471b", "--", "s"),
    ("#6aa84f", ":", "^"),
    ("#a64d79", "-.", "D"),
    ("#e0a400", (0, (5, 1)), "v"),
    ("#7a8793", (0, (3, 1, 1, 1)), "P"),
)
"""Colour, line and marker of a series: of different lightness, and no two with the same line and marker."""


def canvas(size: tuple[float, float], grid: tuple[int, int] = (1, 1), share_y: bool = False) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*grid, sharey=share_y, squeeze=False).reshape(-1)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.grid(True, color="#ddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def series(number: int) -> dict[str, Any]:
    """How the line of a series is drawn."""
    colour, line, _ = SERIES[number % len(SERIES)]
    return {"color": colour, "linestyle": line}


def marks(number: int) -> dict[str, Any]:
    """How the points of a series are drawn."""
    colour, _, marker = SERIES[number % len(SERIES)]
    return {"color": colour, "marker": marker, "linestyle": "none"}


def logarithmic(axes: Any, which: str) -> None:
    """Make the 'x' or 'y' axis of some axes logarithmic, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Any, file: Path, vector: bool = True) -> None:
    """Write a figure as a picture and, if `vector`, beside it as a PDF with text as text."""
    from matplotlib import rc_context

    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})
    if not vector:
        return
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(file.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None})
