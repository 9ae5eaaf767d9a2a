"""The contact sheet of a dataset: what its images look like, and where its masks lie, category by category."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.data.images import MaskRule, decode_image, native_mask, resize_mask
from mddbench.data.samples import Sample, Tree
from mddbench.errors import InputError
from mddbench.report.figures.fonts import spell_out, use_fonts

TILE, GAP = 128, 6
DEFECTS = 4
OUTLINE = (255, 0, 200)
HEADS = ("training", "test, normal", *(f"test, defect {number + 1}" for number in range(DEFECTS)))

Picture = NDArray[np.uint8]


def draw_contact_sheet(tree: Tree, rule: MaskRule, title: str, file: Path) -> list[str]:
    """Write a picture: a row a category, a training image, a normal test image, and defects of as many kinds as fit, with the
    outline of their masks, all squeezed to squares as a model sees them. Returns a line for each file that
    cannot be decoded, whose place stays grey.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {category: list(_chosen(tree, category)) for category in tree.categories}
    use_fonts()
    figure = Figure(figsize=(1.35 * len(HEADS) + 1.6, 0.9 + 1.36 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    height, width = (TILE + GAP) * len(rows) - GAP, (TILE + GAP) * len(HEADS) - GAP
    told: list[str] = []
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    for row, samples in enumerate(rows.values()):
        for column, sample in enumerate(samples):
            if sample is not None:
                top, left = row * (TILE + GAP), column * (TILE + GAP)
                try:
                    pixels, note = _tile(sample, rule)
                except InputError as fault:
                    pixels, note = np.full((TILE, TILE, 3), 200, dtype=np.uint8), ", cannot be read"
                    told.append(str(fault))
                sheet[top : top + TILE, left : left + TILE] = pixels
                if column > 1 or "read" in note:
                    text = sample.defect.replace("_", " ") + note
                    box = {"color": "#000a", "pad": 1}
                    axis.text(left + 2, top + 3, text, parse_math=False, fontsize=6, va="top", color="white", bbox=box)
    axis.imshow(sheet, interpolation="nearest")
    centres = [(TILE + GAP) * place + TILE / 2 for place in range(max(len(rows), len(HEADS)))]
    axis.set_yticks(centres[: len(rows)], [name.replace("_", " ") for name in rows], parse_math=False, fontsize=8)
    axis.xaxis.tick_top()
    axis.set_xticks(centres[: len(HEADS)], HEADS, fontsize=8)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    spell_out(figure)
    figure.savefig(file, bbox_inches="tight", pad_inches=0.08)
    return told


def _chosen(tree: Tree, category: str) -> Iterator[Sample | None]:
    """The samples of a row: training, normal, then defects, one of each kind in turn."""
    mine = [sample for sample in tree.samples if sample.category == category]
    yield next((sample for sample in mine if sample.split == "train"), None)
    yield next((sample for sample in mine if sample.split == "test" and not sample.anomalous), None)
    kinds: dict[str, list[Sample]] = {}
    for sample in mine:
        if sample.anomalous:
            kinds.setdefault(sample.defect, []).append(sample)
    ranked = [(number, place, s) for place, k in enumerate(kinds.values()) for number, s in enumerate(k[:DEFECTS])]
    yield from [sample for _, _, sample in sorted(ranked, key=lambda each: each[:2])][:DEFECTS]


def _tile(sample: Sample, rule: MaskRule) -> tuple[Picture, str]:
    """(TILE, TILE, 3) with the outline of the defect, drawn on the pixels around it; and what is to be said of the mask."""
    from scipy import ndimage

    pixels, native = decode_image(sample.image, TILE)
    if not sample.masks:
        return pixels, ", no mask"
    mask = resize_mask(native_mask(sample.masks, native, rule), TILE)
    outline = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_dilation(mask, iterations=1)
    shown: Picture = pixels.copy()
    shown[outline] = OUTLINE
    return shown, "" if mask.any() else ", too small for this sheet"
