"""The heat-map gallery: what a method sees, category by category, on one colour scale for the whole dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.report.figures.canvas import ACCENT, LETTER, TEXT, TICK, WIDTH, canvas, folded, save, title
from mddbench.runs.panels import PANELS, PICTURE, Panel, load_panels
from mddbench.runs.records import RECORD, read_record

ROLES = {
    "best": "best found defect",
    "worst": "worst found defect",
    "normal": "worst false alarm (normal)",
}
TILE, GAP, LINE = 96, 4, 24
"""Pixels of a picture, between two, and of the words above one."""
HEADS, BAR = 0.65, 0.8
"""Inches for the titles, and for the scale and what lies between the columns."""


def draw_gallery(panels: tuple[Panel, ...], text: str, file: Path, vector: bool = True) -> None:
    """Write a picture: a row a category; for each role the image, its ground truth and its anomaly map. vector: a PDF, too."""
    categories = sorted({panel.category for panel in panels})
    by_place = {(panel.category, panel.role): panel for panel in panels}
    scale = colours(panels)
    names = [folded(category.replace("_", " "), 1.2, TICK) for category in categories]
    left = max(len(line) for name in names for line in name.split("\n")) * LETTER * TICK / 72
    strip = (WIDTH - left - BAR) / len(ROLES)
    height = strip * len(names) * (TILE + LINE) / (3 * TILE + 2 * GAP)
    figure, axes = canvas((WIDTH, HEADS + height), (1, len(ROLES)))
    for column, (axis, (role, name)) in enumerate(zip(axes, ROLES.items(), strict=True)):
        shown = [by_place.get((category, role)) for category in categories]
        axis.imshow(_strip(shown, scale))
        axis.grid(False)
        axis.set_anchor("NW")  # so that the layout knows where the names begin
        axis.set_title(f"{name}\nimage · ground truth · map", fontsize=TEXT)
        axis.set_xticks([])
        axis.set_yticks(
            [(TILE + LINE) * row + LINE + TILE / 2 for row in range(len(shown))],
            names if column == 0 else [""] * len(names),
            parse_math=False,
        )
        axis.tick_params(length=0)
        for row, panel in enumerate(shown):
            if panel is not None:
                told = f"{panel.defect.replace('_', ' ')}  {panel.score:.3g}"
                axis.text(0, (TILE + LINE) * row + LINE - 4, told, parse_math=False, fontsize=TICK, color=ACCENT)
        for spine in axis.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(scale, ax=list(axes), fraction=0.015, pad=0.01)
    bar.set_label("anomaly score, one scale for all", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TICK)
    title(figure, text)
    save(figure, file, vector)


def draw_cell(folder: Path) -> None:
    """Write the gallery of a finished cell into its folder, from the record and the panels there."""
    record = read_record(folder / RECORD)
    text = f"{record.label} on {record.dataset}, seed {record.seed}"
    draw_gallery(load_panels(folder / PANELS), text, folder / PICTURE, vector=False)


def colour_limits(panels: tuple[Panel, ...]) -> tuple[float, float]:
    """The 1st and 99.9th percentile of all finite scores shown: the same for every category."""
    values = np.concatenate([panel.map.astype(np.float32).reshape(-1) for panel in panels])
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1, dtype=np.float32)
    low, high = np.percentile(values, [1.0, 99.9])
    return float(low), float(high if high > low else low + 1.0)


def colours(panels: tuple[Panel, ...]) -> Any:
    """What gives each value of a map its colour."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(*colour_limits(panels)), "inferno")


def _strip(panels: list[Panel | None], scale: Any) -> NDArray[np.uint8]:
    """Rows of three tiles (image, ground truth, map) as one picture, room for words above each; an empty row where there is no
    panel.
    """
    strip = np.full((len(panels) * (TILE + LINE), 3 * TILE + 2 * GAP, 3), 255, dtype=np.uint8)
    for row, panel in enumerate(panels):
        if panel is None:
            continue
        heat = scale.to_rgba(panel.map.astype(np.float32), bytes=True)[..., :3]
        truth = np.repeat(panel.mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        for column, picture in enumerate((panel.image, truth, heat)):
            top, left = row * (TILE + LINE) + LINE, column * (TILE + GAP)
            strip[top : top + TILE, left : left + TILE] = resized(picture)
    return strip


def resized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BILINEAR))
