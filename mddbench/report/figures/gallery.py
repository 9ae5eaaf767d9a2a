"""The heat-map gallery of a method: a few images of each category, on one colour scale for the whole dataset."""

from __future__ import annotations

from pathlib import Path

from mddbench.report.figures.canvas import ACCENT, LETTER, TEXT, TICK, WIDTH, canvas, folded, save, title
from mddbench.report.figures.tiles import FALSE_ALARM, ROLES, Grid, bare, colour_scale, coloured, ground_truth
from mddbench.runs.panels import PANELS, PICTURE, Panel, load_panels
from mddbench.runs.records import RECORD, read_record

HEADS = {"best": ROLES["best"], "worst": ROLES["worst"], FALSE_ALARM: f"{ROLES[FALSE_ALARM]} (normal)"}
"""Role -> title of its column."""
GRID = Grid(side=96, gap=4, line=24, top=24)
TITLES_HEIGHT, BAR_WIDTH = 0.65, 0.8
"""Inches for the titles, and for the colour bar with the space between the columns."""


def draw_gallery(panels: tuple[Panel, ...], text: str, file: Path, vector: bool = True) -> None:
    """Draw the gallery of one run: a row for each category, and for each role image, ground truth and anomaly map.

    Args:
        panels: The panels of the run.
        text: Title.
        file: The PNG to write.
        vector: True to write a PDF beside it.
    """
    categories = sorted({panel.category for panel in panels})
    by_cell = {(panel.category, panel.role): panel for panel in panels}
    scale = colour_scale(panels)
    names = [folded(category.replace("_", " "), 1.2, TICK) for category in categories]
    left = max(len(line) for name in names for line in name.split("\n")) * LETTER * TICK / 72
    strip = (WIDTH - left - BAR_WIDTH) / len(HEADS)
    height = strip * len(names) * (GRID.side + GRID.line) / (3 * GRID.side + 2 * GRID.gap)
    figure, axes = canvas((WIDTH, TITLES_HEIGHT + height), (1, len(HEADS)))
    for column, (axis, (role, name)) in enumerate(zip(axes, HEADS.items(), strict=True)):
        shown = [by_cell.get((category, role)) for category in categories]
        rows = [[panel.image, ground_truth(panel), coloured(panel, scale)] if panel else [] for panel in shown]
        axis.imshow(GRID.joined(rows, 3))
        bare(axis)
        axis.set_anchor("NW")  # the layout then knows where the names begin
        axis.set_title(f"{name}\nimage · ground truth · map", fontsize=TEXT)
        axis.set_xticks([])
        axis.set_yticks(GRID.row_centres(len(shown)), names if column == 0 else [""] * len(names), parse_math=False)
        for row, panel in enumerate(shown):
            if panel is not None:
                words = f"{panel.defect.replace('_', ' ')}  {panel.score:.3g}"
                axis.text(0, GRID.corner(row, 0)[0] - 4, words, parse_math=False, fontsize=TICK, color=ACCENT)
    bar = figure.colorbar(scale, ax=list(axes), fraction=0.015, pad=0.01)
    bar.set_label("anomaly score, one scale for all", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TICK)
    title(figure, text)
    save(figure, file, vector)


def draw_cell(folder: Path) -> None:
    """Draw the gallery of a finished cell into its folder, from the record and the panels in it."""
    record = read_record(folder / RECORD)
    text = f"{record.label} on {record.dataset}, seed {record.seed}"
    draw_gallery(load_panels(folder / PANELS), text, folder / PICTURE, vector=False)
