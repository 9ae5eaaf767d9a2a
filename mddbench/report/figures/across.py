"""The figure of how each category's defects are ranked against each category's normal images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mddbench.metrics.pooled import count_pairs
from mddbench.report.figures.canvas import canvas, save
from mddbench.report.figures.style import TEXT, folded, is_narrow, page_width
from mddbench.report.figures.tiles import PALETTE, bare
from mddbench.runs.evidence import Evidence

SIDE, LARGEST = 0.5, 4.4
"""Inches of a cell, and of the whole matrix at most."""
BESIDE, NARROW_BESIDE, BELOW = 2.6, 1.9, 1.5
"""Inches for the names and the colour bar beside the matrix, and for the title and the names above and below it."""
NUMBER, DARK = 0.24, "#101010"
"""Inches of a cell that has room for a number, and the colour of numbers on bright cells, in light and dark pages."""
MOST_NUMBERS = 15
"""With more categories the cells have no room for numbers."""
CHANCE = 50.0
"""Percent. The colours begin here, the same for all methods; what is below chance is black."""


def draw_across(label: str, dataset: str, runs: Sequence[Sequence[Evidence]], file: Path) -> None:
    """Draw the matrix of AUROC: defective images of the category of a row, normal images of that of a column.

    The values are means over the runs that have the first one's categories. Cells without a pair of images are white.
    There is no figure of one category alone, or without a pair.

    Args:
        label: Label of the method.
        dataset: Name of the dataset, for the title.
        runs: For each run the scores of each category.
        file: The PNG file; a PDF is written beside it.
    """
    categories = [part.category for part in runs[0]]
    alike = [run for run in runs if [part.category for part in run] == categories]
    matrix = np.mean([count_pairs([(part.scores, part.labels) for part in run]).matrix for run in alike], axis=0)
    if len(categories) < 2 or np.isnan(matrix).all():
        return
    percent = 100 * matrix
    beside = NARROW_BESIDE if is_narrow() else BESIDE
    side = min(SIDE, min(LARGEST, page_width() - beside) / len(categories))
    extent = len(categories) * side
    figure, axes = canvas((extent + beside, extent + BELOW))
    axis = axes[0]
    shown = axis.imshow(percent, PALETTE, vmin=CHANCE, vmax=100.0)
    bare(axis)
    names = [folded(category.replace("_", " "), 1.2, TEXT) for category in categories]
    axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_xlabel("normal images of", fontsize=TEXT)
    axis.set_ylabel("defective images of", fontsize=TEXT)
    if len(categories) <= MOST_NUMBERS and side >= NUMBER:
        for row, column in np.argwhere(np.isfinite(percent)):
            value = percent[row, column]
            ink = DARK if value > (CHANCE + 100.0) / 2 else "white"
            axis.text(column, row, f"{value:.0f}", color=ink, fontsize=TEXT, ha="center", va="center")
    bar = figure.colorbar(shown, ax=axis, fraction=0.05, pad=0.03, extend="min")
    bar.set_label("AUROC [%]", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    seeds = "1 seed" if len(alike) == 1 else f"mean over {len(alike)} seeds"
    save(figure, file, f"{label} on {dataset}: AUROC between categories, {seeds}")
