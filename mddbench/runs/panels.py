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
from mddbench.data.images import aspect_of
from mddbench.metrics.steps import average_precision, steps_of_items

ARRAYS = ("texts", "scores", "images", "masks", "maps")
LATER_ARRAYS = ("offsets", "scales", "aspects")
"""Offset and scale of each map in half precision, and the shape of the image. Older files lack some."""
CHOSEN, ANY = ("best", "worst", "typical", "normal"), "any"
"""The roles of chosen images, and that of every image."""
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
            'any' for every test image, where all are kept.
        defect: Kind of defect.
        name: File name of the image.
        score: Image score.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True on the defect.
        map: (H, W) float32 anomaly map.
        aspect: Width of the image file by its height; None if that is not known.
    """

    category: str
    role: str
    defect: str
    name: str
    score: float
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    map: NDArray[np.float32]
    aspect: float | None = None


class PanelChoice:
    """Chooses at most four panels of a category while its images are evaluated. It keeps no other maps.

    Defects are ranked by the pixel AP within the image, or by the image score if there are no masks.
    Of equal images the first is chosen.

    If all images are kept, each is a panel of the role 'any', too, and all maps stay in memory.

    Attributes:
        category: Name of the category.
        split: The test images of the category.
        every: Index, image score and map of each image so far; None if they are not kept.
        best: Role -> merit, index, image score and map of the best candidate so far.
        defective: Indices of the defective images. Those with an empty mask are left out if there are others.
        typical: Index of the typical defect; None if there is no defect.
    """

    def __init__(self, category: str, split: Split, all_images: bool = False) -> None:
        """Begin without any candidates.

        Args:
            category: Name of the category.
            split: The test images of the category.
            all_images: True to keep all images.
        """
        self.category, self.split = category, split
        self.every: list[tuple[int, float, NDArray[np.float32]]] | None = [] if all_images else None
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
        if self.every is not None:
            self.every.append((index, score, np.array(values, dtype=np.float32)))
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
            The panels in the order best, worst, typical, normal. A role without a fitting image is left out. Then all
            images, if they are kept.
        """
        chosen = [self._panel(role, *self.best[role][1:]) for role in CHOSEN if role in self.best]
        return [*chosen, *(self._panel(ANY, *image) for image in self.every or ())]

    def _keep(self, role: str, merit: float, index: int, values: NDArray[np.float32], score: float) -> None:
        """Keep an image for a role if it has more merit than the candidate so far."""
        if role not in self.best or merit > self.best[role][0]:
            self.best[role] = merit, index, score, np.array(values, dtype=np.float32)

    def _panel(self, role: str, index: int, score: float, values: NDArray[np.float32]) -> Panel:
        return Panel(
            category=self.category,
            role=role,
            defect=self.split.samples[index].defect,
            name=self.split.samples[index].image.name,
            score=score,
            image=np.array(self.split.images[index]),
            mask=np.array(self.split.masks[index]),
            map=values,
            aspect=aspect_of(self.split.samples[index].image),
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
        aspects=np.array([np.nan if panel.aspect is None else panel.aspect for panel in panels]),
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
        arrays = read_npz(file, ARRAYS, LATER_ARRAYS)
        if not any(len(array) for array in arrays.values()):
            return ()
        count = len(arrays["maps"])
        absent = {"offsets": np.zeros(count), "scales": np.ones(count), "aspects": np.full(count, np.nan)}
        arrays = {**absent, **arrays}
        _check(arrays)
        scaled = zip(arrays["maps"], arrays["offsets"], arrays["scales"], strict=True)
        maps = [from_half(values, float(offset), float(scale)) for values, offset, scale in scaled]
        rows = zip(
            *(arrays[name] for name in ("texts", "scores", "images", "masks")), maps, arrays["aspects"], strict=True
        )
        return tuple(
            Panel(*_texts(texts), float(score), image, mask, values, None if np.isnan(aspect) else float(aspect))
            for texts, score, image, mask, values, aspect in rows
        )


def _texts(texts: NDArray[np.str_]) -> tuple[str, str, str, str]:
    """The category, the role, the kind of defect and the file's name of a panel."""
    category, role, defect, name = map(str, texts)
    return category, role, defect, name


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
    for name in ("scores", *LATER_ARRAYS):
        demand(name, arrays[name], "f", (count,))
    if arrays["images"].dtype != np.uint8 or not arrays["maps"].size:
        raise ValueError(f"images are {arrays['images'].dtype} of {height} x {width} pixels")
    if np.isnan(arrays["maps"]).any() or np.isnan(arrays["scores"]).any():
        raise ValueError("a map or score holds NaN")
    if not np.isfinite(arrays["offsets"]).all() or not (np.isfinite(arrays["scales"]) & (arrays["scales"] > 0)).all():
        raise ValueError("a scale or an offset is no such number")
    if (arrays["aspects"] <= 0).any() or np.isinf(arrays["aspects"]).any():
        raise ValueError("an image without width or height")
