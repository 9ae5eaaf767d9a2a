"""The paper's qualitative figure: the same defects as each method sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mddbench.report.figures.canvas import LETTER, TEXT, TICK, WIDTH, balanced, canvas, folded, save, title
from mddbench.report.figures.tiles import Grid, Picture, bare, colour_scale, coloured, ground_truth
from mddbench.runs.panels import Panel

ROLE = "typical"
MOST_COLUMNS = 8
NAMES_WIDTH = 1.2
"""Inches for the names of methods."""
MAP_SHARE = 0.55
"""Weight of a map's colours where it lies over the grey image."""
GRID = Grid(side=96, gap=4, line=4)


def draw_qualitative(methods: Sequence[tuple[str, tuple[Panel, ...]]], dataset: str, file: Path) -> None:
    """Draw the typical defect of each category: the image, its ground truth, and the map of each method over the image.

    A column is a category. More than MOST_COLUMNS categories stand in several blocks. Each method has one colour scale for
    all categories. Nothing is drawn if the methods share no image.

    Args:
        methods: Label and panels of each method.
        dataset: Its name, for the title.
        file: The PNG to write.
    """
    by_method = {label: {panel.category: panel for panel in panels if panel.role == ROLE} for label, panels in methods}
    first = next(iter(by_method.values()))
    categories = [name for name, panel in first.items() if _is_shared(panel, name, by_method)]
    if not categories:
        return
    overlays = {label: _overlay(panels) for label, panels in methods}
    blocks, columns = balanced(len(categories), MOST_COLUMNS)
    names = ["image", "ground truth", *(folded(label, NAMES_WIDTH, TEXT) for label in by_method)]
    left = 0.1 + max(len(line) for name in names for line in name.split("\n")) * LETTER * TEXT / 72
    side = min((WIDTH - left) / columns, 1.1)
    heads = [folded(name.replace("_", " "), side + 0.06, TICK) for name in categories]
    above = 0.1 + 0.12 * max(head.count("\n") + 1 for head in heads)
    figure, axes = canvas((left + side * columns, 0.25 + blocks * (above + side * len(names))), (blocks, 1))
    for block, axis in enumerate(axes):
        in_block = slice(block * columns, (block + 1) * columns)
        shown = categories[in_block]
        rows = [[first[name].image for name in shown], [ground_truth(first[name]) for name in shown]]
        rows += [[overlays[label](by_method[label][name]) for name in shown] for label in by_method]
        axis.imshow(GRID.joined(rows, columns))
        bare(axis)
        axis.set_anchor("NW")  # the layout then knows where the names begin
        axis.xaxis.tick_top()
        axis.set_xticks(GRID.column_centres(len(shown)), heads[in_block], fontsize=TICK, parse_math=False)
        axis.set_yticks(GRID.row_centres(len(names)), names, fontsize=TEXT, parse_math=False)
    title(figure, f"{dataset}: the defect of median area of each category")
    save(figure, file)


def _is_shared(panel: Panel, category: str, by_method: dict[str, dict[str, Panel]]) -> bool:
    """True if all methods show the same image of a category."""
    shown = [panels.get(category) for panels in by_method.values()]
    return all(each is not None and (each.defect, each.name) == (panel.defect, panel.name) for each in shown)


def _overlay(panels: tuple[Panel, ...]) -> Callable[[Panel], Picture]:
    """A function that draws the map of a panel over its grey image, on one colour scale for all panels."""
    scale = colour_scale(panels)

    def draw(panel: Panel) -> Picture:
        colours = coloured(panel, scale).astype(np.float32)
        grey = panel.image.astype(np.float32).mean(axis=2, keepdims=True)
        return np.asarray(MAP_SHARE * colours + (1 - MAP_SHARE) * grey).astype(np.uint8)

    return draw
