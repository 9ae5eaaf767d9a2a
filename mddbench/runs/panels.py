"""The images of a category that a person should look at: the best and the worst found defect, the worst false alarm, and a
typical defect, which is the same for all methods.
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
PLACES = ("offsets", "scales")
"""Where each map lies in half precision; files of before have none, and their maps are as they are."""


PANELS, PICTURE = "panels.npz", "gallery.png"
"""Their file, and the picture of them, in a cell's folder and among a run's artifacts."""


@dataclass(frozen=True)
class Panel:
    """One image with what a method made of it.

    role: 'best', 'worst' (defects), 'typical' (the defect of median area, whatever the method) or 'normal' (the normal image
    with the highest score).
    image (H, W, 3) uint8; mask (H, W) bool; map (H, W) float32; score: the image score.
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
    """Chooses at most four panels of a category while its images pass by; keeps no map but theirs.

    Defects are ranked by pixel AP within the image, or by score without masks; of equals the first is taken.
    """

    def __init__(self, category: str, split: Split) -> None:
        self.category, self.split = category, split
        self.best: dict[str, tuple[float, int, float, NDArray[np.float32]]] = {}
        defective = {index for index, sample in enumerate(split.samples) if sample.anomalous}
        if split.has_masks:  # a mask can vanish when it is made smaller; such a defect has no place to be found in
            defective = {index for index in defective if split.masks[index].any()} or defective
        self.defective = defective
        areas = {index: int(split.masks[index].sum()) if split.has_masks else 0 for index in sorted(defective)}
        by_area = sorted(areas, key=lambda index: areas[index])
        self.typical = by_area[(len(by_area) - 1) // 2] if by_area else None

    def see(self, index: int, values: NDArray[np.float32], score: float) -> None:
        """Consider the image at `index` of the split. values: its map (H, W)."""
        if index in self.defective:
            quality = score
            if self.split.has_masks:
                found = average_precision(steps_of_items(values.reshape(-1), self.split.masks[index].reshape(-1)))
                quality = -1.0 if np.isnan(found) else found
            self._keep("best", quality, index, values, score)
            self._keep("worst", -quality, index, values, score)
            if index == self.typical:
                self._keep("typical", 0.0, index, values, score)
        elif not self.split.samples[index].anomalous:
            self._keep("normal", score, index, values, score)

    def panels(self) -> list[Panel]:
        """What was chosen: best, worst, typical, normal, those that there are."""
        return [self._panel(role) for role in ("best", "worst", "typical", "normal") if role in self.best]

    def _keep(self, role: str, merit: float, index: int, values: NDArray[np.float32], score: float) -> None:
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
    """Write panels as one compressed .npz of plain arrays, each map in half precision: (map - offset) * 2^k."""
    texts = [[panel.category, panel.role, panel.defect, panel.name] for panel in panels]
    places = [_place(panel.map) for panel in panels]
    np.savez_compressed(
        file,
        texts=np.array(texts, dtype=np.str_).reshape(len(panels), 4),
        scores=np.array([panel.score for panel in panels]),
        images=np.array([panel.image for panel in panels]),
        masks=np.array([panel.mask for panel in panels]),
        maps=np.array([to_half(panel.map, *place) for panel, place in zip(panels, places, strict=True)]),
        offsets=np.array([offset for offset, _ in places]),
        scales=np.array([scale for _, scale in places]),
    )


def load_panels(file: Path) -> tuple[Panel, ...]:
    """Read what `save_panels` wrote; no pickle is loaded. Raises InputError for a broken file."""
    with refusing(file, "panels", "run the cell again"):
        arrays = read_npz(file, ARRAYS, PLACES)
        if not any(len(array) for array in arrays.values()):
            return ()
        arrays = {"offsets": np.zeros(len(arrays["maps"])), "scales": np.ones(len(arrays["maps"])), **arrays}
        _check(arrays)
        rows = zip(*(arrays[name] for name in (*ARRAYS, *PLACES)), strict=True)
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
    category, role, defect, name = map(str, texts)
    restored = from_half(values, float(offset), float(scale))
    return Panel(category, role, defect, name, float(score), image, mask, restored)


def _place(values: NDArray[np.float32]) -> tuple[float, float]:
    """Offset and scale of a map in half precision. The offset is the lowest score where all lie far from 0, else 0."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    offset = low if high - low < max(abs(low), abs(high)) / 4 else 0.0
    reach = max(abs(low - offset), abs(high - offset))
    return offset, finest_scale(reach, 1.0) if reach else 1.0


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays are such as `save_panels` writes."""
    demand("texts", arrays["texts"], "U", (None, 4))
    count = len(arrays["texts"])
    demand("images", arrays["images"], "u", (count, None, None, 3))
    height, width = arrays["images"].shape[1:3]
    demand("masks", arrays["masks"], "b", (count, height, width))
    demand("maps", arrays["maps"], "f", (count, height, width))
    for name in ("scores", *PLACES):
        demand(name, arrays[name], "f", (count,))
    if arrays["images"].dtype != np.uint8 or not arrays["maps"].size:
        raise ValueError(f"images are {arrays['images'].dtype} of {height} x {width} pixels")
    if np.isnan(arrays["maps"]).any() or np.isnan(arrays["scores"]).any():
        raise ValueError("a map or score holds NaN")
    if not np.isfinite(arrays["offsets"]).all() or not (np.isfinite(arrays["scales"]) & (arrays["scales"] > 0)).all():
        raise ValueError("a scale or an offset is no such number")
