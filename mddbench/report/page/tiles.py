"""The pictures of the HTML report's gallery, small enough that hundreds of them fit into one file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.steps import average_precision, steps_of_items
from mddbench.report.figures.gallery import colour_limits
from mddbench.report.page.page import Gallery, Scale, Shown
from mddbench.runs.panels import Panel

FALSE_ALARM = "normal"
ROLES = {
    "worst": "worst found defect",
    FALSE_ALARM: "worst false alarm",
    "typical": "typical defect",
    "best": "best found defect",
}
"""The roles of panels in words, in the order in which a gallery shows them; one that is not here comes last, as it is."""
WIDTH = 192
"""Of a picture in pixels, at most."""
QUALITY = 80
"""Of WebP, of 100."""
COLOURS = "inferno"
LINE, HALO = (70, 220, 255), (10, 20, 30)
"""The colours of an outline: seen on photographs and on every colour of a map."""


def gallery_of(panels: Sequence[Panel], dataset: str, method: str) -> Gallery:
    """The panels of one method on one dataset as a gallery, all maps on one colour scale."""
    if not panels:
        return Gallery()
    limits = colour_limits(tuple(panels))
    colours = _colours()
    alarms = [panel.score for panel in panels if panel.role == FALSE_ALARM]
    lowest, highest = min(alarms, default=0.0), max(alarms, default=0.0)
    shown = []
    for panel in panels:
        quality = _quality(panel)
        if panel.role == FALSE_ALARM:  # scores of two methods do not compare, their places among each one's own do
            rank = (highest - panel.score) / (highest - lowest) if highest > lowest else 0.0
        else:
            rank = 1.0 if quality is None else quality
        shown.append(
            Shown(
                dataset=dataset,
                method=method,
                category=panel.category,
                role=ROLES.get(panel.role, panel.role),
                defect=panel.defect,
                name=panel.name,
                score=panel.score,
                image=_webp(_small(panel.image)),
                truth=_outline(panel.mask) if panel.mask.any() else b"",
                heat=_webp(colours[_small(_levels(panel.map, limits))]),
                rank=rank,
                quality=quality,
            )
        )
    return Gallery(_ordered(shown), (Scale(dataset, method, *limits),), _bar(colours))


def merged(galleries: Iterable[Gallery]) -> Gallery:
    """Galleries of several methods and datasets as one, worst cases first."""
    full = [gallery for gallery in galleries if gallery.shown]
    return Gallery(
        _ordered(tile for gallery in full for tile in gallery.shown),
        tuple(scale for gallery in full for scale in gallery.scales),
        full[0].bar if full else b"",
    )


def _ordered(shown: Iterable[Shown]) -> tuple[Shown, ...]:
    """By role, then by rank."""
    places = {label: place for place, label in enumerate(ROLES.values())}
    return tuple(sorted(shown, key=lambda one: (places.get(one.role, len(places)), one.rank, one.category, one.method)))


def _quality(panel: Panel) -> float | None:
    """Pixel AP within the image, as defects are ranked; None without a defect or a mask."""
    if not panel.mask.any() or panel.mask.all():
        return None
    steps = steps_of_items(panel.map.astype(np.float32).reshape(-1), panel.mask.reshape(-1))
    return float(average_precision(steps))


def _colours() -> NDArray[np.uint8]:
    """(256, 3) colours, low to high."""
    from matplotlib import colormaps

    colours: Any = colormaps[COLOURS](np.arange(256), bytes=True)
    return np.asarray(colours[:, :3], dtype=np.uint8)


def _levels(values: NDArray[np.floating[Any]], limits: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = limits
    share = (values.astype(np.float32) - low) / (high - low)
    return np.asarray(np.round(255 * np.clip(share, 0.0, 1.0)), dtype=np.uint8)


def _size(height: int, width: int) -> tuple[int, int]:
    """Width and height of a small picture; never larger than it was."""
    shown = min(width, WIDTH)
    return shown, max(1, round(height * shown / width))


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(_size(*picture.shape[:2]), Image.Resampling.BOX))


def _webp(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()


def _outline(mask: NDArray[np.bool_]) -> bytes:
    """PNG: a line around each region of a mask, a pixel away from it and dark on its outer side; clear elsewhere."""
    from PIL import Image
    from scipy.ndimage import binary_dilation

    covered = _small(mask.astype(np.uint8) * 255) >= 128
    if not covered.any():  # a region of a few pixels vanished when it was made smaller
        covered = _small(mask.astype(np.uint8) * 255) > 0
    square = np.ones((3, 3), dtype=bool)
    near, line, halo = (binary_dilation(covered, square, iterations=pixels) for pixels in (1, 2, 3))
    picture = Image.fromarray(np.where(line & ~near, 1, np.where(halo & ~line, 2, 0)).astype(np.uint8))
    picture.putpalette([0, 0, 0, *LINE, *HALO])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=0, optimize=True, bits=2)
    return file.getvalue()


def _bar(colours: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(colours[None]).save(file, "PNG", optimize=True)
    return file.getvalue()
