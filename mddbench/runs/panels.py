"""Chooses the images of a category that a person should look at.

These are the defects that were found best and worst, the worst false alarm, and a typical defect.
The typical defect is the same for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.arrays import demand, finest_scale, from_half, read_npz, refusing, to_half
from mddbench.data.dataset import Split
from mddbench.metrics.steps import average_precision, steps_of_items

ARRAYS = ("texts", "scores", "images", "masks", "maps")
SCALING_ARRAYS = ("offsets", "scales")
"""Offset and scale of each map in half precision. Older files have none, and their maps are not scaled."""
PANELS, PICTURE = "panels.npz", "gallery.png"
"""Names of the file of panels and of their picture, in a cell's folder and among a run's artifacts."""


@dataclass(frozen=True)
class Panel:
    """One image and the scores that a method gave it.

    Attributes:
        category: Name of the category.
        role: 'best' or 'worst' for the defects that were found best and worst.
            'typical' for the defect of median area, or the middle one if there are no masks. It does not depend on the
            method.
            'normal' for the normal image with the highest score.
        defect: Kind of defect.
        name: File name of the image.
        score: Image score.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True on the defect.
        map: (H, W) float32 anomaly map.
    """

    category: str
    role: str
    defect: str
    name: str
    score: float
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    map: NDArray[np.float32]


class PanelChoice:
    """Chooses at most four panels of a category while its images are evaluated. It keeps no other maps.

    Defects are ranked by the pixel AP within the image, or by the image score if there are no masks.
    Of equal images the first is chosen.

    Attributes:
        category: Name of the category.
        split: The test images of the category.
        best: Role -> merit, index, image score and map of the best candidate so far.
        defective: Indices of the defective images. Those with an empty mask are left out if there are others.
        typical: Index of the typical defect; None if there is no defect.
    """

    def __init__(self, category: str, split: Split) -> None:
        """Begin without any candidates.

        Args:
            category: Name of the category.
            split: The test images of the category.
        """
        self.category, self.split = category, split
        self.best: dict[str, tuple[float, int, float, NDArray[np.float32]]] = {}
        defective = {index for index, sample in enumerate(split.samples) if sample.anomalous}
        if split.has_masks:  # a mask can become empty when it is made smaller, and such a defect cannot be found
            defective = {index for index in defective if split.masks[index].any()} or defective
        self.defective = defective
        areas = {index: int(split.masks[index].sum()) if split.has_masks else 0 for index in sorted(defective)}
        by_area = sorted(areas, key=lambda index: areas[index])
        self.typical = by_area[(len(by_area) - 1) // 2] if by_area else None

    def see(self, index: int, values: NDArray[np.float32], score: float) -> None:
        """Consider an image as a candidate.

        Args:
            index: Index of the image in the split.
            values: (H, W) anomaly map of the image.
            score: Image score.
        """
        if index in self.defective:
            quality = score
            if self.split.has_masks:
                pixel_ap = average_precision(steps_of_items(values.reshape(-1), self.split.masks[index].reshape(-1)))
                quality = -1.0 if np.isnan(pixel_ap) else pixel_ap
            self._keep("best", quality, index, values, score)
            self._keep("worst", -quality, index, values, score)
            if index == self.typical:
                self._keep("typical", 0.0, index, values, score)
        elif not self.split.samples[index].anomalous:
            self._keep("normal", score, index, values, score)

    def panels(self) -> list[Panel]:
        """Return the panels of the images that were chosen.

        Returns:
            The panels in the order best, worst, typical, normal. A role without a fitting image is left out.
        """
        return [self._panel(role) for role in ("best", "worst", "typical", "normal") if role in self.best]

    def _keep(self, role: str, merit: float, index: int, values: NDArray[np.float32], score: float) -> None:
        """Keep an image for a role if it has more merit than the candidate so far."""
        if role not in self.best or merit > self.best[role][0]:
            self.best[role] = merit, index, score, np.array(values, dtype=np.float32)

    def _panel(self, role: str) -> Panel:
        _, index, score, values = self.best[role]
        return Panel(
            category=self.category,
            role=role,
            defect=self.split.samples[index].defect,
            name=self.split.samples[index].image.name,
            score=score,
            image=np.array(self.split.images[index]),
            mask=np.array(self.split.masks[index]),
            map=values,
        )


def save_panels(panels: tuple[Panel, ...], file: Path) -> None:
    """Write panels as one compressed .npz file of plain arrays.

    Maps are stored in half precision: (map - offset) * 2^k.

    Args:
        panels: The panels.
        file: The file.
    """
    texts = [[panel.category, panel.role, panel.defect, panel.name] for panel in panels]
    scalings = [_scaling(panel.map) for panel in panels]
    np.savez_compressed(
        file,
        texts=np.array(texts, dtype=np.str_).reshape(len(panels), 4),
        scores=np.array([panel.score for panel in panels]),
        images=np.array([panel.image for panel in panels]),
        masks=np.array([panel.mask for panel in panels]),
        maps=np.array([to_half(panel.map, *scaling) for panel, scaling in zip(panels, scalings, strict=True)]),
        offsets=np.array([offset for offset, _ in scalings]),
        scales=np.array([scale for _, scale in scalings]),
    )


def load_panels(file: Path) -> tuple[Panel, ...]:
    """Read a file of `save_panels`. No pickled objects are loaded.

    An InputError is raised for a broken file.

    Args:
        file: The file.

    Returns:
        The panels.
    """
    with refusing(file, "panels", "run the cell again"):
        arrays = read_npz(file, ARRAYS, SCALING_ARRAYS)
        if not any(len(array) for array in arrays.values()):
            return ()
        arrays = {"offsets": np.zeros(len(arrays["maps"])), "scales": np.ones(len(arrays["maps"])), **arrays}
        _check(arrays)
        rows = zip(*(arrays[name] for name in (*ARRAYS, *SCALING_ARRAYS)), strict=True)
        return tuple(_panel(*row) for row in rows)


def _panel(
    texts: NDArray[np.str_],
    score: float,
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    values: NDArray[np.float16],
    offset: float,
    scale: float,
) -> Panel:
    """Create a panel from its entry in each array."""
    category, role, defect, name = map(str, texts)
    restored = from_half(values, float(offset), float(scale))
    return Panel(category, role, defect, name, float(score), image, mask, restored)


def _scaling(values: NDArray[np.float32]) -> tuple[float, float]:
    """Choose offset and scale of a map. The offset is the lowest score if all scores lie far from 0, otherwise 0."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    offset = low if high - low < max(abs(low), abs(high)) / 4 else 0.0
    reach = max(abs(low - offset), abs(high - offset))
    return offset, finest_scale(reach, 1.0) if reach else 1.0


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays have the form that `save_panels` writes."""
    demand("texts", arrays["texts"], "U", (None, 4))
    count = len(arrays["texts"])
    demand("images", arrays["images"], "u", (count, None, None, 3))
    height, width = arrays["images"].shape[1:3]
    demand("masks", arrays["masks"], "b", (count, height, width))
    demand("maps", arrays["maps"], "f", (count, height, width))
    for name in ("scores", *SCALING_ARRAYS):
        demand(name, arrays[name], "f", (count,))
    if arrays["images"].dtype != np.uint8 or not arrays["maps"].size:
        raise ValueError(f"images are {arrays['images'].dtype} of {height} x {width} pixels")
    if np.isnan(arrays["maps"]).any() or np.isnan(arrays["scores"]).any():
        raise ValueError("a map or score holds NaN")
    if not np.isfinite(arrays["offsets"]).all() or not (np.isfinite(arrays["scales"]) & (arrays["scales"] > 0)).all():
        raise ValueError("a scale or an offset is no such number")
