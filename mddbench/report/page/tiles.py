"""The heat maps of the page, small enough that hundreds of them fit into one file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mddbench.metrics.steps import average_precision, steps_of_items
from mddbench.report.figures.tiles import (
    FALSE_ALARM,
    HALO,
    LINE,
    ROLES,
    Picture,
    colour_limits,
    fitted,
    levels,
    outline,
    palette,
)
from mddbench.report.page.page import Gallery, Scale, Tile
from mddbench.runs.panels import ANY, Panel

WIDTH = 192  # of the longer side of a picture in pixels, at most
WEBP = {"quality": 80, "method": 4}  # quality 80 of 100


def gallery_of(panels: Sequence[Panel], dataset: str, method: str) -> Gallery:
    """Make the gallery of one method on one dataset, with all maps on one colour scale.

    Args:
        panels: Panels of one run.
        dataset: Name of the dataset.
        method: Label of the method.

    Returns:
        The gallery; an empty one without panels.
    """
    if not panels:
        return Gallery()
    limits, colours = colour_limits(panels), palette()
    places = {id(panel): place for place, panel in enumerate(sorted(panels, key=lambda panel: -panel.score))}
    tiles = []
    for panel in panels:
        quality = _quality(panel)
        rank = 1.0 if quality is None else quality
        if panel.role in (FALSE_ALARM, ANY):  # scores of two methods do not compare; their places do
            rank = places[id(panel)] / len(panels)
        tiles.append(
            Tile(
                dataset=dataset,
                method=method,
                category=panel.category,
                role=ROLES.get(panel.role, panel.role),
                defect=panel.defect,
                name=panel.name,
                score=panel.score,
                image=_encoded(Image.fromarray(_small(panel.image, panel.aspect)), "WEBP", **WEBP),
                truth=_outline(panel.mask, panel.aspect) if panel.mask.any() else b"",
                heat=_encoded(Image.fromarray(colours[_small(levels(panel, limits), panel.aspect)]), "WEBP", **WEBP),
                rank=rank,
                quality=quality,
            )
        )
    bar = _encoded(Image.fromarray(colours[None]), "PNG", optimize=True)
    return Gallery(_ordered(tiles), (Scale(dataset, method, *limits),), bar)


def merged(galleries: Iterable[Gallery]) -> Gallery:
    """Merge the galleries of several methods and datasets, worst cases first.

    Args:
        galleries: The galleries.

    Returns:
        One gallery of all tiles.
    """
    full = [gallery for gallery in galleries if gallery.tiles]
    return Gallery(
        _ordered(tile for gallery in full for tile in gallery.tiles),
        tuple(scale for gallery in full for scale in gallery.scales),
        full[0].bar if full else b"",
    )


def _ordered(tiles: Iterable[Tile]) -> tuple[Tile, ...]:
    """The tiles by role, then by rank. Roles without a name in ROLES come last."""
    order = {name: number for number, name in enumerate(ROLES.values())}
    return tuple(
        sorted(tiles, key=lambda tile: (order.get(tile.role, len(order)), tile.rank, tile.category, tile.method))
    )


def _quality(panel: Panel) -> float | None:
    """Pixel AP within the image, by which defects are ranked; None without a defect or a mask."""
    if not panel.mask.any() or panel.mask.all():
        return None
    steps = steps_of_items(panel.map.astype(np.float32).reshape(-1), panel.mask.reshape(-1))
    return float(average_precision(steps))


def _small(picture: Picture, aspect: float | None) -> Picture:
    """The picture in the shape of its file, no longer than WIDTH."""
    return fitted(picture, min(max(picture.shape[:2]), WIDTH), aspect, "BOX")


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _outline(mask: NDArray[np.bool_], aspect: float | None) -> bytes:
    """PNG: a line around each region of a mask, one pixel away from it, with a dark outer side on a clear ground."""
    share = _small(mask.astype(np.uint8) * 255, aspect)
    covered = share >= 128
    if not covered.any():  # a region of a few pixels vanished when the mask was made smaller
        covered = share > 0
    line, halo = outline(covered, 1, 2, diagonal=True), outline(covered, 2, 3, diagonal=True)
    picture = Image.fromarray(np.where(line, 1, np.where(halo, 2, 0)).astype(np.uint8))
    picture.putpalette([0, 0, 0, *LINE, *HALO])
    return _encoded(picture, "PNG", transparency=0, optimize=True, bits=2)
