"""Draws small images in the layouts of datasets, for trying a reader, a disk or a cluster before the real images are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mddbench.data.counts import mark_fabricated
from mddbench.data.samples import Counts, DatasetSource, Published
from mddbench.errors import InputError

FEW = (10, 5, 8)
"""Training, normal test and defective test images of a category in a small tree."""
CATEGORIES = ("bolt", "nut")
"""What a dataset without categories of its own gets."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """Draws the images of one category, each from a seed of its own. size: (width, height) in pixels, from 24 on."""

    category: int
    size: tuple[int, int]

    def image(self, number: int, defective: bool = False) -> tuple[Pixels, Pixels]:
        """(H, W, 3) colours and the (H, W) mask of 0 and 255 of the defect that was drawn into them."""
        generator = np.random.default_rng([self.category, number])
        width, height = self.size
        rows, columns = np.mgrid[:height, :width]
        waves = np.sin(columns * (0.2 + 0.03 * (self.category % 7)) + generator.uniform(0, 6)) + np.cos(rows * 0.3)
        hue = np.array([90 + 37 * self.category % 80, 90 + 61 * self.category % 80, 90 + 89 * self.category % 80])
        pixels = hue + 12 * waves[..., None] + generator.normal(0, 4, (height, width, 1))
        mask = np.zeros((height, width), dtype=np.uint8)
        if defective:
            y, x = generator.uniform(0.3, 0.7, 2) * (height, width)
            radii = generator.uniform(0.1, 0.2, 2) * min(height, width)
            inside = ((rows - y) / radii[0]) ** 2 + ((columns - x) / radii[1]) ** 2 <= 1
            pixels[inside] += 70 if generator.random() < 0.5 else -70
            mask[inside] = 255
        return pixels.clip(0, 255).astype(np.uint8), mask


@dataclass(frozen=True)
class Style:
    """How the files of a category in MVTec-AD's layout look. suffixes: taken in turn; mask_ending: behind an image's stem;
    masks_per_image: in a folder for each image, if more than one; validation: how many of the training images lie there.
    """

    defects: tuple[str, ...]
    normal: str = "good"
    mode: str = "RGB"
    size: tuple[int, int] = (48, 48)
    suffixes: tuple[str, ...] = (".png",)
    mask_ending: str = "_mask"
    mask_suffix: str = ".png"
    masks_per_image: int = 1
    validation: int = 0


def write_category(folder: Path, index: int, numbers: tuple[int, int, int], style: Style) -> None:
    """Draw a category in MVTec-AD's layout. index: decides how it looks; numbers: of images, as in `Counts`."""
    train, good, defective = numbers
    drawing = Drawing(index, style.size)
    for number in range(train + good):
        part = "validation" if number < style.validation else "train" if number < train else "test"
        name = f"{number:03d}{style.suffixes[number % len(style.suffixes)]}"
        save(drawing.image(number)[0], folder / part / style.normal / name, style.mode)
    for number in range(defective):
        defect = style.defects[number % len(style.defects)]
        name = f"{number:03d}{style.suffixes[number % len(style.suffixes)]}"
        pixels, mask = drawing.image(train + good + number, defective=True)
        save(pixels, folder / "test" / defect / name, style.mode)
        truth = folder / "ground_truth" / defect
        if style.masks_per_image == 1:
            save(mask, truth / f"{number:03d}{style.mask_ending}{style.mask_suffix}")
            continue
        for piece_number, rows in enumerate(np.array_split(np.arange(len(mask)), style.masks_per_image)):
            piece = np.zeros_like(mask)
            piece[rows] = mask[rows] - np.uint8(piece_number)  # a value of its own for each kind of defect
            piece[mask == 0] = 0
            save(piece, truth / f"{number:03d}" / f"{piece_number:03d}.png")


def fabricate(dataset: str, source: DatasetSource, root: Path, full: bool) -> Counts:
    """Write a tree of drawn images in a dataset's layout and mark it as such: with few images of each category, or as many as
    the dataset has. Returns how many.

    Raises InputError if the dataset needs none or the folder is not empty.
    """
    if source.fabricate is None:
        raise InputError(f"{dataset}: there is nothing to fabricate; it is drawn anyway, or its file does not say how")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: expected an empty folder, or none; choose another")
    counts = published_counts(source) if full else dict.fromkeys(_categories(source), FEW)
    root.mkdir(parents=True, exist_ok=True)
    mark_fabricated(root, dataset, counts)  # first: a tree that is broken off is marked, too
    source.fabricate(root, counts)
    return counts


def published_counts(source: DatasetSource) -> Counts:
    """As many images as the dataset has; what is known in all only is shared out evenly."""
    names = _categories(source)
    published = source.published or Published("")
    counts: Counts = {}
    for position, name in enumerate(names):
        known = published.categories.get(name, (None, None, None))
        train, good, defective = (
            number
            if number is not None
            else few
            if total is None
            else total // len(names) + (position < total % len(names))
            for number, total, few in zip(known, published.all, FEW, strict=True)
        )
        counts[name] = (train, good, defective)
    return counts


def save(pixels: Pixels, path: Path, mode: str | None = None) -> None:
    """Write an image file, and its folder. mode: of Pillow, if it is not what the array's shape says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


def interpolated(mask: Pixels) -> Pixels:
    """A mask as a smaller release has it: with a grey rim, so that more than the defect is above zero."""
    height, width = mask.shape
    half = Image.fromarray(mask).resize((width // 2, height // 2), Image.Resampling.BOX)
    return np.asarray(half.resize((width, height), Image.Resampling.BILINEAR))


def _categories(source: DatasetSource) -> tuple[str, ...]:
    return tuple(source.published.categories) if source.published and source.published.categories else CATEGORIES
