"""The images of a category that a person should look at: the best and the worst found defect, and the worst false alarm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mddbench.data.dataset import Split
from mddbench.errors import InputError
from mddbench.metrics import counts


@dataclass(frozen=True)
class Panel:
    """One image with what a method made of it.

    role: 'best', 'worst' (defects) or 'normal' (the normal image with the highest score).
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


def choose_panels(category: str, split: Split, maps: NDArray[np.float32], scores: NDArray[np.float32]) -> list[Panel]:
    """At most three panels of a category. Defects are ranked by pixel AP within the image, or by score without masks."""
    defective = [index for index, sample in enumerate(split.samples) if sample.anomalous]
    if split.has_masks:  # a mask can vanish when it is made smaller; such a defect has no place to be found in
        defective = [index for index in defective if split.masks[index].any()] or defective
    normal = [index for index, sample in enumerate(split.samples) if not sample.anomalous]
    chosen: list[tuple[str, int]] = []
    if defective:
        quality = [_quality(split.masks[index], maps[index], scores[index], split.has_masks) for index in defective]
        chosen += [("best", defective[int(np.argmax(quality))]), ("worst", defective[int(np.argmin(quality))])]
    if normal:
        chosen.append(("normal", normal[int(np.argmax(scores[normal]))]))
    return [
        Panel(
            category=category,
            role=role,
            defect=split.samples[index].defect,
            name=split.samples[index].image.name,
            score=float(scores[index]),
            image=np.array(split.images[index]),
            mask=np.array(split.masks[index]),
            map=maps[index].astype(np.float16),
        )
        for role, index in chosen
    ]


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


def _quality(mask: NDArray[np.bool_], values: NDArray[np.float32], score: np.float32, has_masks: bool) -> float:
    if not has_masks:
        return float(score)
    found = counts.average_precision(counts.count(values.reshape(-1), np.asarray(mask).reshape(-1)))
    return -1.0 if np.isnan(found) else found
