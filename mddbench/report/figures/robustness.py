"""The figures of changed test images: methods by changes in colour, and lines over the levels of each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.data.changes import CHANGES
from mddbench.metrics.names import LABELS
from mddbench.report.figures.canvas import canvas, legend, name_axes, panels, save
from mddbench.report.figures.style import TEXT, folded, is_narrow, marks, page_width, series
from mddbench.report.figures.tiles import PALETTE, bare
from mddbench.report.rows.groups import counted_seeds
from mddbench.report.rows.shifted import ALARM, ShiftedRow, ShiftedRows

HIGH, BESIDE, NARROW_BESIDE, BELOW = 0.24, 1.9, 1.2, 1.3
"""Inches of a row; for the names and the colour bar beside it; and for the names of changes below all rows."""
PANEL = (1.65, 1.45)
"""Inches of the panel of a change."""
NUMBER, DARK = 0.3, "#101010"
"""Inches of a cell that has room for a number, and the colour of numbers on bright cells."""


def draw_robustness(found: ShiftedRows, dataset: str, file: Path) -> None:
    """Draw the matrix of methods and changes: the loss of quality in points, and the rate of false alarms if there is one.

    A cell is the mean over the levels of the change, and over seeds.

    Args:
        found: The rows, at least one.
        dataset: Name of the dataset, for the title.
        file: The PNG file; a PDF is written beside it.
    """
    quality = found.quality
    quantities = [(f"{LABELS[quality]} lost [points]", _matrix(found, lambda row: _lost(row, found, quality)))]
    if found.has_alarms:
        quantities.append(("false alarms [%]", _matrix(found, lambda row: _alarms(row, found))))
    rows = len(found.rows)
    height = len(quantities) * (rows * HIGH + 0.5) + BELOW
    figure, axes = canvas((7.0, height), (len(quantities), 1))
    for place, (axis, (label, matrix)) in enumerate(zip(axes, quantities, strict=True)):
        _draw_matrix(figure, axis, matrix, label)
        names = [folded(row.group.label, _beside(), TEXT) for row in found.rows]
        axis.set_yticks(range(rows), names, parse_math=False)
        heads = [CHANGES[change].label for change in found.changes] if place == len(quantities) - 1 else []
        axis.set_xticks(
            range(len(heads)), heads, rotation=90 if is_narrow() else 40, ha="center" if is_narrow() else "right"
        )
    save(figure, file, f"{dataset}: changed test images, means over levels and {_seeds(found)}")


def draw_levels(found: ShiftedRows, dataset: str, alarms: bool, file: Path) -> None:
    """Draw a panel for each change: a line for each method over the levels, from the images as they are.

    Args:
        found: The rows, at least one.
        dataset: Name of the dataset, for the title.
        alarms: True for the rate of false alarms, False for quality.
        file: The PNG file; a PDF is written beside it.
    """
    if alarms and not found.has_alarms:
        return
    key = ALARM if alarms else found.quality
    label = "false alarms [%]" if alarms else f"{LABELS[key]} [%]"
    figure, axes = panels(len(found.changes), 4, (0.5, 0.3), PANEL, share="y")
    for axis, (change, points) in zip(axes, found.changes.items(), strict=True):
        places = [None, *points]
        for number, row in enumerate(found.rows):
            ys = [100 * mean(row.values(point, key)) for point in places]
            axis.plot(range(len(places)), ys, linewidth=1.2, **series(number))
            axis.plot(range(len(places)), ys, label=row.group.label, markersize=3.5, **marks(number))
        amounts = [f"{CHANGES[change].amount(level):g}" for _, level in points]
        axis.set_xticks(range(len(places)), ["none", *amounts])
        head = f"{CHANGES[change].label}\n[{CHANGES[change].unit}]"
        axis.set_xlabel(head, fontsize=TEXT, parse_math=False)
    name_axes(axes, "", label)
    legend(figure, axes, [row.group.label for row in found.rows])
    what = "false alarms" if alarms else LABELS[key]
    save(figure, file, f"{dataset}: {what} over the levels of each change, {_seeds(found)}")


def _matrix(found: ShiftedRows, values: Callable[[ShiftedRow], Sequence[float]]) -> NDArray[np.float64]:
    """Return (methods, changes) values in percent."""
    return 100 * np.array([values(row) for row in found.rows], dtype=np.float64)


def _lost(row: ShiftedRow, found: ShiftedRows, quality: str) -> list[float]:
    clean = mean(row.values(None, quality))
    return [clean - mean(row.means(points, quality)) for points in found.changes.values()]


def _alarms(row: ShiftedRow, found: ShiftedRows) -> list[float]:
    return [mean(row.means(points, ALARM)) for points in found.changes.values()]


def _draw_matrix(figure: Any, axis: Any, matrix: NDArray[np.float64], label: str) -> None:
    """Draw one matrix with its colour bar. Colours begin at 0; what is below is black."""
    highest = max(float(np.nanmax(matrix, initial=0.0)), 1.0)
    shown = axis.imshow(matrix, PALETTE, vmin=0.0, vmax=highest, aspect="auto")
    bare(axis)
    if (page_width() - _beside() - 1.0) / matrix.shape[1] >= NUMBER:
        for row, column in np.argwhere(np.isfinite(matrix)):
            ink = DARK if matrix[row, column] > highest / 2 else "white"
            axis.text(column, row, f"{matrix[row, column]:.1f}", color=ink, fontsize=TEXT, ha="center", va="center")
    axis.set_title(label, loc="left", fontsize=TEXT)
    figure.colorbar(shown, ax=axis, fraction=0.05, pad=0.02).ax.tick_params(labelsize=TEXT)


def _beside() -> float:
    return NARROW_BESIDE if is_narrow() else BESIDE


def _seeds(found: ShiftedRows) -> str:
    return counted_seeds([row.runs for row in found.rows])
