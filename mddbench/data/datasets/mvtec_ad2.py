"""MVTec AD 2: 8 categories, with light that changes and with test images whose labels only MVTec's server knows.

The public test images are the test split here. Those of `test_private` and `test_private_mixed` have no labels: they are
scored for the server (`mddbench server-archive`), and nothing else reads them.
The validation images are normal. By default thresholds are set on them (`calibration: validation`).

A name ends in the light in which the image was taken: regular, underexposed, overexposed, shift_1 to shift_3.
In `test_private_mixed` the light is not told.

Source: Heckler-Kram et al., The MVTec AD 2 Dataset, arXiv 2503.21622. The numbers of private images are those that MVTec's
script for uploads expects. The other numbers were not found at a source that can be cited.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mddbench.data.fabricate import Drawing, save
from mddbench.data.hidden import HiddenSplit
from mddbench.data.listing import base_of
from mddbench.data.samples import Counts, DatasetSource, Published, Tree
from mddbench.data.tree import Layout, read_tree

# fmt: off
PRIVATE = {
    "can": 321, "fabric": 314, "fruit_jelly": 255, "rice": 277, "sheet_metal": 142, "vial": 276, "wallplugs": 232,
    "walnuts": 228,
}
"""The number of images in each of the two private splits of a category."""
# fmt: on
ENDINGS = {"test_private": "regular", "test_private_mixed": "mixed"}
"""The private splits, and how the names of their images end."""
LIGHTS = ("regular", "underexposed", "overexposed", "shift_1", "shift_2", "shift_3")
LIGHT = re.compile(r"\d+_(.+)")
ARCHIVE = "mvtec_ad_2"
LAYOUT = """\
ROOT/<category>/
  train/good/000_regular.png, ...
  validation/good/*.png                thresholds are set on them
  test_public/{good,bad}/000_overexposed.png, ...
  test_public/ground_truth/bad/000_overexposed_mask.png, ...
  test_private/000_regular.png, ...    without labels: for MVTec's server
  test_private_mixed/000_mixed.png, ...
"""


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root, or below the folder to which the archive unpacks.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree, without the private images.
    """
    layout = Layout(
        train=("train", "validation"), test="test_public", truth="test_public/ground_truth", hidden=tuple(ENDINGS)
    )
    tree = read_tree(base_of(root, (ARCHIVE,)), layout)
    samples = (replace(each, condition=light(each.image)) if each.split == "test" else each for each in tree.samples)
    return replace(tree, samples=tuple(samples))


def hidden(root: Path) -> list[HiddenSplit]:
    """List the private splits of all categories, whether they are there or not.

    Args:
        root: The dataset's folder.

    Returns:
        The splits.
    """
    base = base_of(root, (ARCHIVE,))
    return [
        HiddenSplit(
            base / category / split,
            category,
            tuple(f"{number:03d}_{ending}.png" for number in range(PRIVATE[category])),
        )
        for category in PRIVATE
        for split, ending in ENDINGS.items()
    ]


def light(image: Path) -> str:
    """Return the light in which an image was taken.

    Args:
        image: The image file.

    Returns:
        The light, such as 'regular' or 'shift_1'; '' if the name does not tell it.
    """
    found = LIGHT.fullmatch(image.stem)
    return found[1] if found and found[1] in LIGHTS else ""


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images: wide ones, some of the training images for validation, each test image in several lights.

    Each private split gets two images, so the server's archive cannot be made of them.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        folder, drawing = root / category, Drawing(index, (64, 40))
        for number in range(train):
            split = "validation" if number < train // 5 else "train"
            save(drawing.image(number)[0], folder / split / "good" / f"{number:03d}_regular.png")
        for number in range(good + defective):
            kind = "good" if number < good else "bad"
            pixels, mask = drawing.image(train + number, defective=kind == "bad")
            name = f"{number:03d}_{LIGHTS[number % len(LIGHTS)]}"
            save(pixels, folder / "test_public" / kind / f"{name}.png")
            if kind == "bad":
                save(mask, folder / "test_public" / "ground_truth" / kind / f"{name}_mask.png")
        for split, ending in ENDINGS.items():
            for number in range(2):
                pixels, _ = drawing.image(train + good + defective + number, defective=number == 1)
                save(pixels, folder / split / f"{number:03d}_{ending}.png")


DATASET = DatasetSource(
    description="MVTec AD 2, 8 categories in changing light, with private test images for MVTec's server",
    read=read,
    layout=LAYOUT,
    validation=lambda image: image.parents[1].name == "validation",
    hidden=hidden,
    published=Published("MVTec AD 2", dict.fromkeys(PRIVATE, (None, None, None))),
    fabricate=fabricate,
)
