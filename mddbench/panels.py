"""The images of a category that a person should look at: the best and the worst found defect, the worst false alarm, and a
typical defect, which is the same for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mddbench.data.dataset import Split
from mddbench.errors import InputError
from mddbench.metrics.steps import average_precision, steps_of_items


@dataclass(frozen=True)
class Panel:
    """One image with what a method made of it.

    role: 'best', 'worst' (defects), 'typical' (the defect of median area, whatever the method) or 'normal' (the normal image
    with the highest score).
    image (H, W, 3) uint8; mask (H, W) bool; map (H, W) float16; score: the image score.
    """

    category: str
    role: str
    defect: str
    name: str
    score: float
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    map: NDArray[np.float16]


class PanelChoice:
    """Chooses at most four panels of a category while its images pass by; keeps no map but theirs.

    Defects are ranked by pixel AP within the image, or by score without masks; of equals the first is taken.
    """

    def __init__(self, category: str, split: Split) -> None:
        self.category, self.split = category, split
        self.best: dict[str, tuple[float, int, float, NDArray[np.float16]]] = {}
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
            self.best[role] = merit, index, score, values.astype(np.float16)

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
    """Write panels as one compressed .npz of plain arrays."""
    texts = [[panel.category, panel.role, panel.defect, panel.name] for panel in panels]
    np.savez_compressed(
        file,
        texts=np.array(texts, dtype=np.str_).reshape(len(panels), 4),
        scores=np.array([panel.score for panel in panels]),
        images=np.array([panel.image for panel in panels]),
        masks=np.array([panel.mask for panel in panels]),
        maps=np.array([panel.map for panel in panels]),
    )


def load_panels(file: Path) -> tuple[Panel, ...]:
    """Read what `save_panels` wrote; no pickle is loaded. Raises InputError for a broken file."""
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ("texts", "scores", "images", "masks", "maps")}
    except (OSError, ValueError, KeyError, BadZipFile) as fault:
        raise InputError(f"{file}: cannot be read as panels ({type(fault).__name__}); run the cell again") from None
    return tuple(
        Panel(str(category), str(role), str(defect), str(name), float(score), image, mask, values)
        for (category, role, defect, name), score, image, mask, values in zip(*arrays.values(), strict=True)
    )
