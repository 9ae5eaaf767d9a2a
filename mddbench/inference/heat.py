"""Heat maps: an image at its own size, with its anomaly map over it in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mddbench.errors import InputError
from mddbench.report.figures.tiles import colour_limits, palette
from mddbench.runs.panels import PANELS, load_panels

STRONGEST = 0.75
"""Opacity of the colour at the upper end of the scale. At the lower end the image itself is seen."""


class HeatPainter:
    """Paints all images of a model on one colour scale, so that equal colours mean equal scores.

    Attributes:
        low: Score at which the colour begins to show.
        high: Score of the strongest colour.
    """

    def __init__(self, low: float, high: float) -> None:
        """Choose the scale.

        Args:
            low: Score at which the colour begins to show.
            high: Score of the strongest colour.
        """
        self.low, self.high = low, high
        self.colours = palette().astype(np.float32)

    @classmethod
    def of_cell(cls, folder: Path) -> HeatPainter:
        """Take the scale of a cell's own pictures.

        Args:
            folder: Folder of the cell.

        Returns:
            The painter.

        Raises:
            InputError: If the cell has no panels.
        """
        panels = load_panels(folder / PANELS) if (folder / PANELS).exists() else ()
        if not panels:
            raise InputError(f"{folder / PANELS}: missing, but it holds the colour scale; give --no-heat")
        return cls(*colour_limits(panels))

    def paint(self, image: NDArray[np.uint8], values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Lay an anomaly map over its image.

        Args:
            image: (H, W, 3) uint8, at its own size.
            values: (h, w) anomaly map, which is enlarged bilinearly to (H, W).

        Returns:
            (H, W, 3) uint8.
        """
        height, width = image.shape[:2]
        share = np.clip((enlarged(values, (height, width)) - self.low) / (self.high - self.low), 0.0, 1.0)
        opacity = STRONGEST * share[..., None]
        colour = self.colours[np.round(255 * share).astype(np.uint8)]
        return np.asarray(np.round((1 - opacity) * image + opacity * colour), dtype=np.uint8)


def enlarged(values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate an anomaly map bilinearly to the size of its image.

    Args:
        values: (h, w) anomaly map.
        size: (H, W), the height and the width in pixels.

    Returns:
        (H, W) float32.
    """
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
