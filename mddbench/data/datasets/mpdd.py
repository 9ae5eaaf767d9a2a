"""MPDD: 6 categories of metal parts, 888 normal training images, 176 normal and 282 defective test images.

Source: Jezek et al., ICUMT 2021. The training images of each category are second hand, and their sum is confirmed.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.listing import base_of
from mddbench.data.samples import Counts, DatasetSource, Published, Tree
from mddbench.data.samples import SecondHand as About
from mddbench.data.tree import MVTEC_LAYOUT, Layout, read_tree

COUNTS = {
    "bracket_black": (About(289), 32, 47),
    "bracket_brown": (About(185), 26, 51),
    "bracket_white": (About(110), 30, 30),
    "connector": (About(128), 30, 14),
    "metal_plate": (About(54), 26, 71),
    "tubes": (About(122), 32, 69),
}


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root, or below the folder to which the archive unpacks.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    return read_tree(base_of(root, ("MPDD",)), Layout())


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images in MVTec-AD's layout, where some suffixes are in upper case.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, numbers) in enumerate(counts.items()):
        style = Style(defects=("hole", "scratches"), suffixes=(".png", ".PNG"))
        write_category(root / category, index, numbers, style)


DATASET = DatasetSource(
    description="MPDD, 6 categories of metal parts",
    read=read,
    layout=MVTEC_LAYOUT,
    published=Published("MPDD", dict(COUNTS), (888, None, None)),
    fabricate=fabricate,
)
