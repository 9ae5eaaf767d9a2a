"""The contact sheet of a dataset: some images of each category, with the outlines of their masks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from mddbench.data.images import MaskRule, decode_image, native_mask, resize_mask
from mddbench.data.samples import Sample, Tree
from mddbench.errors import InputError
from mddbench.report.figures.fonts import spell_out, use_fonts
from mddbench.report.figures.tiles import Grid, Picture, bare, outline

GRID = Grid(side=128, gap=6, line=6)
DEFECTS = 4
OUTLINE = (255, 0, 200)
HEADS = ("training", "test, normal", *(f"test, defect {number + 1}" for number in range(DEFECTS)))


def draw_contact_sheet(tree: Tree, rule: MaskRule, title: str, file: Path) -> list[str]:
    """Draw a row for each category: a training image, a normal test image, and defects of as many kinds as fit.

    Images are resized to squares, as a model sees them. The mask of a defect is drawn as an outline.

    Args:
        tree: The files of the dataset.
        rule: Which part of a mask is defect.
        title: Title of the figure.
        file: The file, whose suffix is its format.

    Returns:
        A line for each file that cannot be decoded. Its tile is grey.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = {category: list(_chosen(tree, category)) for category in tree.categories}
    use_fonts()
    figure = Figure(figsize=(1.35 * len(HEADS) + 1.6, 0.9 + 1.36 * len(samples)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    faults: list[str] = []
    tiles: list[list[Picture | None]] = [[None] * len(HEADS) for _ in samples]
    for row, chosen in enumerate(samples.values()):
        for column, sample in enumerate(chosen):
            if sample is None:
                continue
            top, left = GRID.corner(row, column)
            try:
                tiles[row][column], note = _tile(sample, rule)
            except InputError as fault:
                tiles[row][column], note = np.full((GRID.side, GRID.side, 3), 200, dtype=np.uint8), ", cannot be read"
                faults.append(str(fault))
            if column > 1 or "read" in note:
                text = sample.defect.replace("_", " ") + note
                box = {"color": "#000a", "pad": 1}
                axis.text(left + 2, top + 3, text, parse_math=False, fontsize=6, va="top", color="white", bbox=box)
    axis.imshow(GRID.joined(tiles, len(HEADS)), interpolation="nearest")
    bare(axis)
    names = [name.replace("_", " ") for name in samples]
    ys, xs = GRID.centres(len(names), len(HEADS))
    axis.set_yticks(ys, names, parse_math=False, fontsize=8)
    axis.xaxis.tick_top()
    axis.set_xticks(xs, HEADS, fontsize=8)
    figure.suptitle(title, fontsize=10, parse_math=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    spell_out(figure)
    figure.savefig(file, bbox_inches="tight", pad_inches=0.08)
    return faults


def _chosen(tree: Tree, category: str) -> Iterator[Sample | None]:
    """The samples of a row: a training image, a normal one, then defects, one of each kind in turn."""
    members = [sample for sample in tree.samples if sample.category == category]
    yield next((sample for sample in members if sample.split == "train"), None)
    yield next((sample for sample in members if sample.split == "test" and not sample.anomalous), None)
    kinds: dict[str, list[Sample]] = {}
    for sample in members:
        if sample.anomalous:
            kinds.setdefault(sample.defect, []).append(sample)
    turns = [sample for turn in zip_longest(*kinds.values()) for sample in turn if sample is not None]
    yield from turns[:DEFECTS]


def _tile(sample: Sample, rule: MaskRule) -> tuple[Picture, str]:
    """The image with the outline of its defect, drawn on the pixels around it, and a note about the mask."""
    pixels, native = decode_image(sample.image, GRID.side)
    if not sample.masks:
        return pixels, "" if rule.labels else ", no mask"
    mask = resize_mask(native_mask(sample.masks, native, rule), GRID.side)
    shown: Picture = pixels.copy()
    shown[outline(mask, 1, 2)] = OUTLINE
    return shown, "" if mask.any() else ", too small for this sheet"
