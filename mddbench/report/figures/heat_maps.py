"""Figures of anomaly maps: the gallery of one method, and the same defects as each method sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mddbench.report.figures.canvas import canvas, save
from mddbench.report.figures.style import ACCENT, LETTER, TEXT, WIDTH, balanced, folded, is_narrow, page_width
from mddbench.report.figures.tiles import (
    FALSE_ALARM,
    ROLES,
    Grid,
    Picture,
    bare,
    colour_bar,
    colour_scale,
    coloured,
    outlined,
)
from mddbench.runs.panels import PANELS, PICTURE, Panel, load_panels
from mddbench.runs.records import RECORD, read_record

COLUMNS = {"best": ROLES["best"], "worst": ROLES["worst"], FALSE_ALARM: f"{ROLES[FALSE_ALARM]} (normal)"}
"""Role -> title of its column in a gallery."""
GALLERY, COMPARISON = Grid(side=96, gap=4, line=24, top=24), Grid(side=96, gap=4, line=4)
TITLES_HEIGHT, BAR_WIDTH = 0.65, 0.8  # inches for the titles, and for the colour bar with the space between columns
NAMES_WIDTH = 1.2  # inches for the names of methods
NARROWEST_TILE, BAR_HEIGHT = 0.68, 0.6  # inches of a column of tiles, and of the colour bar with its names


def draw_gallery(panels: tuple[Panel, ...], title: str, file: Path, vector: bool = True) -> None:
    """Draw the panels of one run, a category in each row, and for each role the image and its map, with outlines.

    All maps have one colour scale.

    Args:
        panels: The panels.
        title: Title of the figure.
        file: The PNG file.
        vector: True to write PDF and SVG beside it.
    """
    categories = sorted({panel.category for panel in panels})
    by_cell = {(panel.category, panel.role): panel for panel in panels}
    scale = colour_scale(panels)
    names = [folded(category.replace("_", " "), 1.2, TEXT) for category in categories]
    strip = (WIDTH - _width(names, TEXT) - BAR_WIDTH) / len(COLUMNS)
    height = strip * len(names) * (GALLERY.side + GALLERY.line) / (GALLERY.corner(0, 2)[1] - GALLERY.gap)
    figure, axes = canvas((WIDTH, TITLES_HEIGHT + height), (1, len(COLUMNS)))
    for column, (axis, (role, name)) in enumerate(zip(axes, COLUMNS.items(), strict=True)):
        shown = [by_cell.get((category, role)) for category in categories]
        rows = [
            [outlined(panel.image, panel), outlined(coloured(panel, scale), panel)] if panel else [] for panel in shown
        ]
        _show(axis, GALLERY.joined(rows, 2))
        axis.set_title(name, fontsize=TEXT)
        axis.set_xticks([])
        labels = names if column == 0 else [""] * len(names)
        axis.set_yticks(GALLERY.centres(len(shown), 2)[0], labels, parse_math=False)
        for row, panel in enumerate(shown):
            if panel is not None:
                words = f"{panel.defect.replace('_', ' ')}  {panel.score:.3g}"
                axis.text(0, GALLERY.corner(row, 0)[0] - 4, words, parse_math=False, fontsize=TEXT, color=ACCENT)
    bar = figure.colorbar(scale, ax=list(axes), fraction=0.015, pad=0.01)
    bar.set_label("anomaly score, one scale for all", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    save(figure, file, title, vector, on_page=False)


def draw_cell(folder: Path) -> None:
    """Draw the gallery of a finished cell into its folder, from the record and the panels in it.

    Args:
        folder: Folder of the cell.
    """
    record = read_record(folder / RECORD)
    title = f"{record.label} on {record.shown_dataset}, seed {record.seed}"
    draw_gallery(load_panels(folder / PANELS), title, folder / PICTURE, vector=False)


def draw_qualitative(methods: Sequence[tuple[str, tuple[Panel, ...]]], dataset: str, file: Path) -> None:
    """Draw the typical defect of each category in a column: the image, and each method's map, with the mask's outline.

    Each method has one colour scale for all categories. Its ends stand beside its name, and a bar shows the colours.
    Nothing is drawn if the methods share no image.

    Args:
        methods: Label and panels of each method.
        dataset: Name of the dataset, for the title.
        file: The PNG file; PDF and SVG are written beside it.
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
    width = NAMES_WIDTH if is_narrow() else 1.3 * NAMES_WIDTH
    ends = [f"{scale.norm.vmin:.4g} to {scale.norm.vmax:.4g}" for scale in scales.values()]
    labels = [folded(label, width, TEXT) for label in by_method]
    names = ["image", *(f"{label}\n{end}" for label, end in zip(labels, ends, strict=True))]
    left = 0.3 + _width(names, TEXT)
    blocks, columns = balanced(len(categories), max(1, int((page_width() - left) / NARROWEST_TILE)))
    side = min((page_width() - left) / columns, 1.1)
    heads = [folded(name.replace("_", " "), side + 0.06, TEXT) for name in categories]
    above = 0.1 + 0.13 * max(head.count("\n") + 1 for head in heads)
    height = blocks * (above + side * len(names))
    figure, axes = canvas((left + side * columns, BAR_HEIGHT + height), (blocks, 1))
    figure.set_layout_engine("compressed")
    for block, axis in enumerate(axes):
        in_block = slice(block * columns, (block + 1) * columns)
        shown = categories[in_block]
        rows = [[outlined(first[name].image, first[name]) for name in shown]]
        rows += [
            [outlined(coloured(by_method[label][name], scales[label]), first[name]) for name in shown]
            for label in by_method
        ]
        _show(axis, COMPARISON.joined(rows, columns))
        axis.xaxis.tick_top()
        ys, xs = COMPARISON.centres(len(names), len(shown))
        axis.set_xticks(xs, heads[in_block], parse_math=False)
        axis.set_yticks(ys, names, parse_math=False)
    bar = figure.colorbar(colour_bar(), ax=list(axes), location="bottom", aspect=30, shrink=0.6, pad=0.02)
    bar.set_ticks([0, 1], labels=["low", "high"])
    bar.ax.tick_params(labelsize=TEXT, length=0)
    known = any(panel.mask.any() for panel in first.values())
    chosen = "the defect of median area" if known else "a defect"
    save(
        figure,
        file,
        f"{dataset}: {chosen} of each category{', outlined' if known else ''}; scores of low and high below names",
    )


def _show(axis: Any, picture: Picture) -> None:
    axis.imshow(picture)
    bare(axis)
    axis.set_anchor("NW")  # the layout then knows where the names begin


def _width(names: list[str], size: float) -> float:
    """Width in inches of names in letters of so many points."""
    return max(len(line) for name in names for line in name.split("\n")) * LETTER * size / 72
