"""The paper's qualitative figure: the same defects as each method sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.panels import Panel
from mddbench.report.canvas import canvas, save
from mddbench.report.gallery import GAP, TILE, colour_limits, resized

ROLE = "typical"
SHARE = 0.55
"""Of the colours of a map over the grey image."""


def draw_qualitative(methods: Sequence[tuple[str, tuple[Panel, ...]]], dataset: str, file: Path) -> None:
    """Write a picture: a column a category's typical defect; image, ground truth, and each method's map over the image, from
    its lowest to its highest colour on a scale of its own for all categories.
    """
    chosen = {label: {panel.category: panel for panel in panels if panel.role == ROLE} for label, panels in methods}
    first = next(iter(chosen.values()))
    categories = [name for name, panel in first.items() if _is_shared(panel, name, chosen)]
    if not categories:
        return
    rows = [("image", [first[name].image for name in categories])]
    rows.append(
        ("ground truth", [np.repeat(first[name].mask[..., None], 3, axis=2) * np.uint8(255) for name in categories])
    )
    for label, panels in methods:
        scale = _colours(panels)
        rows.append((label, [_over(chosen[label][name], scale) for name in categories]))
    figure, axes = canvas((1.0 + 1.05 * len(categories), 0.6 + 1.05 * len(rows)))
    axis = axes[0]
    axis.imshow(_tiles([pictures for _, pictures in rows]), interpolation="nearest")
    axis.grid(False)
    axis.xaxis.tick_top()
    _label(axis.set_xticks, [name.replace("_", " ") for name in categories], 8)
    _label(axis.set_yticks, [label for label, _ in rows], 9)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    figure.suptitle(f"{dataset}: the defect of median area of each category", fontsize=10, parse_math=False)
    save(figure, file)


def _is_shared(panel: Panel, category: str, chosen: dict[str, dict[str, Panel]]) -> bool:
    """Whether all methods show the same image of a category."""
    others = [panels.get(category) for panels in chosen.values()]
    return all(other is not None and (other.defect, other.name) == (panel.defect, panel.name) for other in others)


def _colours(panels: tuple[Panel, ...]) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(*colour_limits(panels)), "inferno")


def _over(panel: Panel, scale: Any) -> NDArray[np.uint8]:
    heat = scale.to_rgba(panel.map.astype(np.float32), bytes=True)[..., :3].astype(np.float32)
    grey = panel.image.astype(np.float32).mean(axis=2, keepdims=True)
    return np.asarray(SHARE * heat + (1 - SHARE) * grey).astype(np.uint8)


def _tiles(rows: list[list[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """All pictures as one."""
    step = TILE + GAP
    whole = np.full((len(rows) * step - GAP, len(rows[0]) * step - GAP, 3), 255, dtype=np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            whole[row * step : row * step + TILE, column * step : column * step + TILE] = resized(picture)
    return whole


def _label(set_ticks: Any, texts: list[str], size: int) -> None:
    set_ticks([(TILE + GAP) * place + TILE / 2 for place in range(len(texts))], texts, fontsize=size, parse_math=False)
