"""The heat-map gallery: what a method sees, category by category, on one colour scale for the whole dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.panels import Panel, load_panels
from mddbench.records import read_record
from mddbench.report.canvas import save

ROLES = {
    "best": "best found defect",
    "worst": "worst found defect",
    "normal": "normal image with the highest score",
}
TILE, GAP = 96, 4


def draw_gallery(panels: tuple[Panel, ...], title: str, file: Path, vector: bool = True) -> None:
    """Write a picture: a row a category; for each role the image, its ground truth and its anomaly map. vector: a PDF, too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    categories = sorted({panel.category for panel in panels})
    by_place = {(panel.category, panel.role): panel for panel in panels}
    low, high = colour_limits(panels)
    scale = ScalarMappable(Normalize(low, high), "inferno")
    strips = [_strip([by_place.get((category, role)) for category in categories], scale) for role in ROLES]

    figure = Figure(figsize=(11.5, 1.0 + 1.06 * len(categories)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, len(ROLES), squeeze=False)[0]
    for column, (axis, strip, role) in enumerate(zip(axes, strips, ROLES, strict=True)):
        axis.imshow(strip, interpolation="nearest")
        axis.set_title(f"{ROLES[role]}\nimage · ground truth · map", fontsize=9)
        axis.set_xticks([])
        axis.tick_params(length=0, labelsize=8)
        centres = [(TILE + GAP) * row + TILE / 2 for row in range(len(categories))]
        labels = [name.replace("_", " ") if column == 0 else "" for name in categories]
        axis.set_yticks(centres, labels, parse_math=False)
        for row, category in enumerate(categories):
            panel = by_place.get((category, role))
            if panel is not None:
                text = f"{panel.defect.replace('_', ' ')}  {panel.score:.3g}"
                axis.text(
                    2,
                    (TILE + GAP) * row + 3,
                    text,
                    parse_math=False,
                    fontsize=6,
                    va="top",
                    color="white",
                    bbox={"color": "#000a", "pad": 1},
                )
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.colorbar(scale, ax=list(axes), fraction=0.015, pad=0.01, label="anomaly score, one scale for all")
    figure.suptitle(title, fontsize=11, parse_math=False)
    save(figure, file, vector)


def draw_cell(folder: Path) -> None:
    """Write the gallery of a finished cell into its folder, from the record and the panels there."""
    record = read_record(folder / "record.json")
    title = f"{record.label} on {record.dataset}, seed {record.seed}"
    draw_gallery(load_panels(folder / "panels.npz"), title, folder / "gallery.png", vector=False)


def colour_limits(panels: tuple[Panel, ...]) -> tuple[float, float]:
    """The 1st and 99.9th percentile of all maps shown: the same for every category."""
    values = np.concatenate([panel.map.astype(np.float32).reshape(-1) for panel in panels])
    low, high = np.percentile(values, [1.0, 99.9])
    return float(low), float(high if high > low else low + 1.0)


def _strip(panels: list[Panel | None], scale: Any) -> NDArray[np.uint8]:
    """Rows of three tiles (image, ground truth, map) as one picture; an empty row where there is no panel."""
    height = len(panels) * (TILE + GAP) - GAP
    canvas = np.full((height, 3 * TILE + 2 * GAP, 3), 255, dtype=np.uint8)
    for row, panel in enumerate(panels):
        if panel is None:
            continue
        heat = scale.to_rgba(panel.map.astype(np.float32), bytes=True)[..., :3]
        truth = np.repeat(panel.mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        for column, picture in enumerate((panel.image, truth, heat)):
            top, left = row * (TILE + GAP), column * (TILE + GAP)
            canvas[top : top + TILE, left : left + TILE] = resized(picture)
    return canvas


def resized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BILINEAR))
