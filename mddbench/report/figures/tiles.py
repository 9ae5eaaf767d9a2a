"""Image tiles: maps in colour, outlines of masks, and many tiles in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mddbench.runs.panels import ANY, Panel

FALSE_ALARM = "normal"
ROLES = {  # `any`, every test image, comes last
    "worst": "worst found defect",
    FALSE_ALARM: "worst false alarm",
    "typical": "typical defect",
    "best": "best found defect",
    ANY: "every test image",
}
"""Role of a panel -> its name, in the order in which the page shows them."""
PALETTE = "inferno"
LINE, HALO = (70, 220, 255), (10, 20, 30)
"""Colours of an outline. They are visible on photographs and on every colour of a map."""
Picture = NDArray[np.uint8]  # (H, W, 3) in colour, or (H, W)


@dataclass(frozen=True)
class Grid:
    """The places of square tiles in one picture, in pixels.

    Attributes:
        side: Side of a tile.
        gap: Space between two columns.
        line: Space between two rows.
        top: Space above the first row.
    """

    side: int
    gap: int
    line: int
    top: int = 0

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the top and the left edge of a tile."""
        return self.top + row * (self.side + self.line), column * (self.side + self.gap)

    def centres(self, rows: int, columns: int) -> tuple[list[float], list[float]]:
        """Return the vertical centres of rows, and the horizontal centres of columns."""
        ys = [self.corner(row, 0)[0] + self.side / 2 for row in range(rows)]
        return ys, [self.corner(0, column)[1] + self.side / 2 for column in range(columns)]

    def joined(self, rows: Sequence[Sequence[Picture | None]], columns: int) -> Picture:
        """Join pictures into one, each as large as fits into a tile. What no picture covers stays clear.

        Args:
            rows: Pictures of each row; None for no tile.
            columns: Number of columns.

        Returns:
            (H, W, 4) picture.
        """
        height, width = self.corner(len(rows), columns)
        whole = np.zeros((height - self.line, width - self.gap, 4), dtype=np.uint8)
        for row, pictures in enumerate(rows):
            for column, picture in enumerate(pictures):
                if picture is not None:
                    top, left = self.corner(row, column)
                    tile = fitted(picture, self.side, picture.shape[1] / picture.shape[0], "BILINEAR")
                    below, beside = ((self.side - length) // 2 for length in tile.shape[:2])
                    place = whole[top + below :, left + beside :][: tile.shape[0], : tile.shape[1]]
                    place[..., :3], place[..., 3] = tile, 255
        return whole


def fitted(picture: Picture, side: int, aspect: float | None, method: Literal["BILINEAR", "BOX"]) -> Picture:
    """Resize a picture so that it fits into a square.

    Args:
        picture: (H, W) or (H, W, 3).
        side: Side of the square in pixels.
        aspect: Width of the result by its height; None for that of the picture.
        method: Filter of Pillow.

    Returns:
        The new picture. Its longer side is that of the square, and its shorter one at least a pixel.
    """
    shape = aspect or picture.shape[1] / picture.shape[0]
    width, height = (side, side / shape) if shape >= 1 else (side * shape, side)
    return resized(picture, max(1, round(width)), max(1, round(height)), method)


def resized(picture: Picture, width: int, height: int, method: Literal["BILINEAR", "BOX"]) -> Picture:
    """Resize a picture.

    Args:
        picture: (H, W) or (H, W, 3).
        width: New width in pixels.
        height: New height in pixels.
        method: Filter of Pillow.

    Returns:
        The new picture.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling[method]))


def colour_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Find the ends of one colour scale for all panels.

    Args:
        panels: The panels.

    Returns:
        The 1st and the 99.9th percentile of their finite scores.
    """
    values = np.concatenate([panel.map.astype(np.float32).reshape(-1) for panel in panels])
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1, dtype=np.float32)
    low, high = np.percentile(values, [1.0, 99.9])
    return float(low), float(high if high > low else low + 1.0)


def colour_scale(panels: Sequence[Panel]) -> Any:
    """Make one colour scale for all panels.

    Args:
        panels: The panels.

    Returns:
        The scale, as matplotlib uses it.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(*colour_limits(panels)), PALETTE)


def coloured(panel: Panel, scale: Any) -> Picture:
    """Draw the map of a panel in colour.

    Args:
        panel: The panel.
        scale: The colour scale, from `colour_scale`.

    Returns:
        (H, W, 3) picture.
    """
    return np.asarray(scale.to_rgba(panel.map.astype(np.float32), bytes=True)[..., :3])


def palette() -> Picture:
    """Return all colours of a scale from low to high, (256, 3)."""
    from matplotlib import colormaps

    return np.asarray(colormaps[PALETTE](np.arange(256), bytes=True)[:, :3], dtype=np.uint8)


def levels(panel: Panel, limits: tuple[float, float]) -> Picture:
    """Turn the scores of a map into indices of the palette.

    Args:
        panel: The panel.
        limits: Scores of the first and of the last colour.

    Returns:
        (H, W) indices from 0 to 255.
    """
    low, high = limits
    share = (panel.map.astype(np.float32) - low) / (high - low)
    return np.asarray(np.round(255 * np.clip(share, 0.0, 1.0)), dtype=np.uint8)


def colour_bar() -> Any:
    """Return the colours from 0 to 1, for a bar beside maps on scales of their own."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0.0, 1.0), PALETTE)


def outlined(picture: Picture, panel: Panel) -> Picture:
    """Return a picture of a panel in the shape of its file, with a line around its mask, dark on the outer side."""
    shown = picture.copy()
    shown[outline(panel.mask, 2, 3, diagonal=True)] = HALO
    shown[outline(panel.mask, 1, 2, diagonal=True)] = LINE
    return fitted(shown, max(shown.shape[:2]), panel.aspect, "BILINEAR")


def outline(mask: NDArray[np.bool_], inner: int, outer: int, diagonal: bool = False) -> NDArray[np.bool_]:
    """Find the pixels around a mask.

    Args:
        mask: (H, W) mask.
        inner: Distance that is excluded, from 1, in pixels.
        outer: Greatest distance in pixels.
        diagonal: True if a diagonal neighbour has distance 1, False for 2.

    Returns:
        (H, W) pixels whose distance from the mask is above `inner` and at most `outer`.
    """
    from scipy.ndimage import binary_dilation

    neighbours = np.ones((3, 3), dtype=bool) if diagonal else None
    near, far = (binary_dilation(mask, neighbours, iterations=pixels) for pixels in (inner, outer))
    return np.asarray(far & ~near)


def bare(axis: Any) -> None:
    """Remove the grid, the ticks' lines and the frame of an axis."""
    axis.grid(False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
