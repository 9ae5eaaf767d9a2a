"""Draws small images in the layouts of datasets.

With them a reader, a disk or a cluster can be tried before the real images are available.
"""

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
"""The numbers of training, normal test and defective test images of each category in a small tree."""
CATEGORIES = ("bolt", "nut")
"""The categories for a dataset that has none of its own."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """Draws the images of one category. Each image has its own seed.

    Attributes:
        category: The number of the category, which determines how its images look.
        size: The (width, height) of the images in pixels, each at least 24.
    """

    category: int
    size: tuple[int, int]

    def image(self, number: int, defective: bool = False) -> tuple[Pixels, Pixels]:
        """Draw one image.

        Args:
            number: The number of the image, a part of its seed.
            defective: True to draw a defect into it.

        Returns:
            The image (H, W, 3) uint8, and the mask (H, W) uint8 of its defect: 0 or 255.
        """
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
    """The properties of a category's files in MVTec-AD's layout.

    Attributes:
        defects: The kinds of defects, taken in turn.
        normal: The name of the folders of normal images.
        mode: The mode of the images, as in Pillow.
        size: The (width, height) of the images in pixels.
        suffixes: The suffixes of the image files, taken in turn.
        mask_ending: The text after an image's stem in the name of its mask.
        mask_suffix: The suffix of the mask files.
        masks_per_image: The number of masks of each defective image. Several masks lie in a folder for each image.
        validation: The number of training images that lie in the folder `validation`.
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
    """Draw a category in MVTec-AD's layout.

    Args:
        folder: The category's folder.
        index: The number of the category, which determines how its images look.
        numbers: The numbers of training, normal test and defective test images.
        style: The properties of the files.
    """
    train, good, defective = numbers
    drawing = Drawing(index, style.size)
    for number in range(train + good):
        split = "validation" if number < style.validation else "train" if number < train else "test"
        name = f"{number:03d}{style.suffixes[number % len(style.suffixes)]}"
        save(drawing.image(number)[0], folder / split / style.normal / name, style.mode)
    for number in range(defective):
        defect = style.defects[number % len(style.defects)]
        name = f"{number:03d}{style.suffixes[number % len(style.suffixes)]}"
        pixels, mask = drawing.image(train + good + number, defective=True)
        save(pixels, folder / "test" / defect / name, style.mode)
        mask_folder = folder / "ground_truth" / defect
        if style.masks_per_image == 1:
            save(mask, mask_folder / f"{number:03d}{style.mask_ending}{style.mask_suffix}")
            continue
        for piece_number, rows in enumerate(np.array_split(np.arange(len(mask)), style.masks_per_image)):
            piece = np.zeros_like(mask)
            piece[rows] = mask[rows] - np.uint8(piece_number)  # each mask has its own value
            piece[mask == 0] = 0
            save(piece, mask_folder / f"{number:03d}" / f"{piece_number:03d}.png")


def fabricate(dataset: str, source: DatasetSource, root: Path, full: bool) -> Counts:
    """Write a tree of drawn images in a dataset's layout, and mark it as fabricated.

    Args:
        dataset: The name of the dataset.
        source: The description of the dataset.
        root: The folder of the tree.
        full: True for as many images as the dataset has, False for few images of each category.

    Returns:
        The numbers of images of each category.

    Raises:
        InputError: If the source has no function `fabricate`, or if the folder is not empty.
    """
    if source.fabricate is None:
        raise InputError(f"{dataset}: there is nothing to fabricate; it is drawn anyway, or its file does not say how")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: expected an empty folder, or none; choose another")
    counts = published_counts(source) if full else dict.fromkeys(_categories(source), FEW)
    root.mkdir(parents=True, exist_ok=True)
    mark_fabricated(root, dataset, counts)  # first, so that an incomplete tree is marked, too
    source.fabricate(root, counts)
    return counts


def published_counts(source: DatasetSource) -> Counts:
    """Choose numbers of images that are as large as those of the dataset.

    Where only the total of all categories is known, it is distributed evenly. Where nothing is known, FEW is taken.

    Args:
        source: The description of the dataset.

    Returns:
        The numbers of images of each category.
    """
    names = _categories(source)
    published = source.published or Published("")
    counts: Counts = {}
    for position, name in enumerate(names):
        known_counts = published.categories.get(name, (None, None, None))
        train, good, defective = (
            number
            if number is not None
            else few
            if total is None
            else total // len(names) + (position < total % len(names))
            for number, total, few in zip(known_counts, published.all, FEW, strict=True)
        )
        counts[name] = (train, good, defective)
    return counts


def save(pixels: Pixels, path: Path, mode: str | None = None) -> None:
    """Write an image file. Its folder is created if it is missing.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
        path: The file.
        mode: The mode to which the image is converted, as in Pillow. None for the mode that follows from the shape.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


def interpolated(mask: Pixels) -> Pixels:
    """Interpolate a mask as in a smaller release of a dataset.

    It gets a grey rim, so that more pixels than the defect are above zero.

    Args:
        mask: (H, W) uint8.

    Returns:
        (H, W) uint8.
    """
    height, width = mask.shape
    half = Image.fromarray(mask).resize((width // 2, height // 2), Image.Resampling.BOX)
    return np.asarray(half.resize((width, height), Image.Resampling.BILINEAR))


def _categories(source: DatasetSource) -> tuple[str, ...]:
    return tuple(source.published.categories) if source.published and source.published.categories else CATEGORIES
