"""The paper's qualitative figure: the same defects as each method sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.report.figures.canvas import LETTER, TEXT, TICK, WIDTH, balanced, canvas, folded, save, title
from mddbench.report.figures.gallery import GAP, TILE, colours, resized
from mddbench.runs.panels import Panel

ROLE = "typical"
MOST = 8
"""Categories beside each other."""
LEFT = 1.2
"""Inches for the names of methods."""
SHARE = 0.55
"""Of the colours of a map over the grey image."""


def draw_qualitative(methods: Sequence[tuple[str, tuple[Panel, ...]]], dataset: str, file: Path) -> None:
    """Write a picture: a column a category's typical defect; image, ground truth, and each method's map over the image, from
    its lowest to its highest colour on a scale of its own for all categories. More than MOST categories stand in blocks.
    """
    chosen = {label: {panel.category: panel for panel in panels if panel.role == ROLE} for label, panels in methods}
    first = next(iter(chosen.values()))
    categories = [name for name, panel in first.items() if _is_shared(panel, name, chosen)]
    if not categories:
        return
    scales = {label: colours(panels) for label, panels in methods}
    blocks, columns = balanced(len(categories), MOST)
    names = ["image", "ground truth", *(folded(label, LEFT, TEXT) for label in chosen)]
    left = 0.1 + max(len(line) for name in names for line in name.split("\n")) * LETTER * TEXT / 72
    side = min((WIDTH - left) / columns, 1.1)
    heads = [folded(name.replace("_", " "), side + 0.06, TICK) for name in categories]
    above = 0.1 + 0.12 * max(head.count("\n") + 1 for head in heads)
    figure, axes = canvas((left + side * columns, 0.25 + blocks * (above + side * len(names))), (blocks, 1))
    for block, axis in enumerate(axes):
        part = slice(block * columns, (block + 1) * columns)
        shown = [first[name] for name in categories[part]]
        rows = [[panel.image for panel in shown]]
        rows.append([np.repeat(panel.mask[..., None], 3, axis=2) * np.uint8(255) for panel in shown])
        rows += [[_over(chosen[label][panel.category], scales[label]) for panel in shown] for label in chosen]
        axis.imshow(_tiles(rows, columns))
        axis.grid(False)
        axis.set_anchor("NW")  # so that the layout knows where the names begin
        axis.xaxis.tick_top()
        _label(axis.set_xticks, heads[part], TICK)
        _label(axis.set_yticks, names, TEXT)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    title(figure, f"{dataset}: the defect of median area of each category")
    save(figure, file)


def _is_shared(panel: Panel, category: str, chosen: dict[str, dict[str, Panel]]) -> bool:
    """Whether all methods show the same image of a category."""
    others = [panels.get(category) for panels in chosen.values()]
    return all(other is not None and (other.defect, other.name) == (panel.defect, panel.name) for other in others)


def _over(panel: Panel, scale: Any) -> NDArray[np.uint8]:
    heat = scale.to_rgba(panel.map.astype(np.float32), bytes=True)[..., :3].astype(np.float32)
    grey = panel.image.astype(np.float32).mean(axis=2, keepdims=True)
    return np.asarray(SHARE * heat + (1 - SHARE) * grey).astype(np.uint8)


def _tiles(rows: list[list[NDArray[np.uint8]]], columns: int) -> NDArray[np.uint8]:
    """All pictures as one, white where a row has fewer than so many."""
    step = TILE + GAP
    whole = np.full((len(rows) * step - GAP, columns * step - GAP, 3), 255, dtype=np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            whole[row * step : row * step + TILE, column * step : column * step + TILE] = resized(picture)
    return whole


def _label(set_ticks: Any, texts: list[str], size: float) -> None:
    set_ticks([(TILE + GAP) * place + TILE / 2 for place in range(len(texts))], texts, fontsize=size, parse_math=False)
