"""Figures of anomaly maps: the gallery of one method, and the same defects as each method sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mddbench.report.figures.canvas import canvas, save
from mddbench.report.figures.style import ACCENT, LETTER, TEXT, TICK, WIDTH, balanced, folded
from mddbench.report.figures.tiles import (
    FALSE_ALARM,
    ROLES,
    Grid,
    Picture,
    bare,
    colour_scale,
    coloured,
    ground_truth,
    with_masks,
)
from mddbench.runs.panels import PANELS, PICTURE, Panel, load_panels
from mddbench.runs.records import RECORD, read_record

COLUMNS = {"best": ROLES["best"], "worst": ROLES["worst"], FALSE_ALARM: f"{ROLES[FALSE_ALARM]} (normal)"}
"""Role -> title of its column in a gallery."""
GALLERY, COMPARISON = Grid(side=96, gap=4, line=24, top=24), Grid(side=96, gap=4, line=4)
TITLES_HEIGHT, BAR_WIDTH = 0.65, 0.8  # inches for the titles, and for the colour bar with the space between columns
NAMES_WIDTH = 1.2  # inches for the names of methods
MOST_COLUMNS = 8  # more categories stand in several blocks
MAP_SHARE = 0.55  # weight of a map's colours where it lies over the grey image


def draw_gallery(panels: tuple[Panel, ...], title: str, file: Path, vector: bool = True) -> None:
    """Draw the panels of one run, a category in each row, and for each role image, ground truth and anomaly map.

    All maps have one colour scale. Without any mask the ground truth is left out.

    Args:
        panels: The panels.
        title: Title of the figure.
        file: The PNG file.
        vector: True to write a PDF beside it.
    """
    categories = sorted({panel.category for panel in panels})
    by_cell = {(panel.category, panel.role): panel for panel in panels}
    scale = colour_scale(panels)
    names = [folded(category.replace("_", " "), 1.2, TICK) for category in categories]
    known = with_masks(panels)
    parts = ["image", *(["ground truth"] if known else []), "map"]
    strip = (WIDTH - _width(names, TICK) - BAR_WIDTH) / len(COLUMNS)
    height = strip * len(names) * (GALLERY.side + GALLERY.line) / (GALLERY.corner(0, len(parts))[1] - GALLERY.gap)
    figure, axes = canvas((WIDTH, TITLES_HEIGHT + height), (1, len(COLUMNS)))
    for column, (axis, (role, name)) in enumerate(zip(axes, COLUMNS.items(), strict=True)):
        shown = [by_cell.get((category, role)) for category in categories]
        truths = [[ground_truth(panel, panel.category in known)] if panel and known else [] for panel in shown]
        rows = [
            [panel.image, *truth, coloured(panel, scale)] if panel else []
            for panel, truth in zip(shown, truths, strict=True)
        ]
        _show(axis, GALLERY.joined(rows, len(parts)))
        axis.set_title(f"{name}\n{' · '.join(parts)}", fontsize=TEXT)
        axis.set_xticks([])
        labels = names if column == 0 else [""] * len(names)
        axis.set_yticks(GALLERY.centres(len(shown), len(parts))[0], labels, parse_math=False)
        for row, panel in enumerate(shown):
            if panel is not None:
                words = f"{panel.defect.replace('_', ' ')}  {panel.score:.3g}"
                axis.text(0, GALLERY.corner(row, 0)[0] - 4, words, parse_math=False, fontsize=TICK, color=ACCENT)
    bar = figure.colorbar(scale, ax=list(axes), fraction=0.015, pad=0.01)
    bar.set_label("anomaly score, one scale for all", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TICK)
    save(figure, file, title, vector)


def draw_cell(folder: Path) -> None:
    """Draw the gallery of a finished cell into its folder, from the record and the panels in it.

    Args:
        folder: Folder of the cell.
    """
    record = read_record(folder / RECORD)
    title = f"{record.label} on {record.dataset}, seed {record.seed}"
    draw_gallery(load_panels(folder / PANELS), title, folder / PICTURE, vector=False)


def draw_qualitative(methods: Sequence[tuple[str, tuple[Panel, ...]]], dataset: str, file: Path) -> None:
    """Draw the typical defect of each category in a column: image, ground truth, and each method's map over the image.

    Each method has one colour scale for all categories. Nothing is drawn if the methods share no image.
    Without any mask the ground truth is left out.

    Args:
        methods: Label and panels of each method.
        dataset: Name of the dataset, for the title.
        file: The PNG file; a PDF is written beside it.
    """
    by_method = {
        label: {panel.category: panel for panel in panels if panel.role == "typical"} for label, panels in methods
    }
    first = next(iter(by_method.values()))
    images = {
        name: {(panel.defect, panel.name) if (panel := panels.get(name)) else None for panels in by_method.values()}
        for name in first
    }
    categories = [name for name, shown in images.items() if len(shown) == 1]
    if not categories:
        return
    scales = {label: colour_scale(panels) for label, panels in methods}
    blocks, columns = balanced(len(categories), MOST_COLUMNS)
    known = with_masks(panel for _, panels in methods for panel in panels)
    names = ["image", *(["ground truth"] if known else []), *(folded(label, NAMES_WIDTH, TEXT) for label in by_method)]
    left = 0.1 + _width(names, TEXT)
    side = min((WIDTH - left) / columns, 1.1)
    heads = [folded(name.replace("_", " "), side + 0.06, TICK) for name in categories]
    above = 0.1 + 0.12 * max(head.count("\n") + 1 for head in heads)
    figure, axes = canvas((left + side * columns, 0.25 + blocks * (above + side * len(names))), (blocks, 1))
    for block, axis in enumerate(axes):
        in_block = slice(block * columns, (block + 1) * columns)
        shown = categories[in_block]
        rows = [[first[name].image for name in shown]]
        rows += [[ground_truth(first[name], name in known) for name in shown]] if known else []
        rows += [[_overlay(by_method[label][name], scales[label]) for name in shown] for label in by_method]
        _show(axis, COMPARISON.joined(rows, columns))
        axis.xaxis.tick_top()
        ys, xs = COMPARISON.centres(len(names), len(shown))
        axis.set_xticks(xs, heads[in_block], fontsize=TICK, parse_math=False)
        axis.set_yticks(ys, names, fontsize=TEXT, parse_math=False)
    chosen = "the defect of median area" if known else "a defect"
    save(figure, file, f"{dataset}: {chosen} of each category")


def _overlay(panel: Panel, scale: Any) -> Picture:
    """The map of a panel over its grey image."""
    grey = panel.image.astype(np.float32).mean(axis=2, keepdims=True)
    return np.asarray(MAP_SHARE * coloured(panel, scale).astype(np.float32) + (1 - MAP_SHARE) * grey).astype(np.uint8)


def _show(axis: Any, picture: Picture) -> None:
    axis.imshow(picture)
    bare(axis)
    axis.set_anchor("NW")  # the layout then knows where the names begin


def _width(names: list[str], size: float) -> float:
    """Width in inches of names in letters of so many points."""
    return max(len(line) for name in names for line in name.split("\n")) * LETTER * size / 72
