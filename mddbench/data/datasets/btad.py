"""BTAD: 3 categories, 1799 normal training images and 741 test images.

Source: Mishra et al., ISIE 2021 (VT-ADL). The totals and the numbers of category 02 are confirmed.
The other numbers are second hand. The authors' README swaps 02 and 03.

Normal folders are called 'ok' and defective ones 'ko'. Images are .bmp and .png.
The suffix of a mask may differ from that of its image.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.listing import base_of
from mddbench.data.samples import Counts, DatasetSource, Published, Tree
from mddbench.data.samples import SecondHand as About
from mddbench.data.tree import Layout, read_tree

COUNTS = {
    "01": (About(400), About(21), About(49)),
    "02": (399, 30, 200),
    "03": (About(1000), About(400), About(41)),
}
LAYOUT = """\
ROOT/                                  or ROOT/BTech_Dataset_transformed/
  01/ 02/ 03/
    train/ok/*.bmp, *.png
    test/{ok,ko}/*.bmp, *.png
    ground_truth/ko/*.png, *.bmp
"""


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root, or below the folder to which the archive unpacks.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    return read_tree(base_of(root, ("BTech_Dataset_transformed",)), Layout(normal=("ok",)))


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images with two suffixes in a category, masks with the other suffix, and sizes that differ.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, numbers) in enumerate(counts.items()):
        style = Style(
            defects=("ko",),
            normal="ok",
            suffixes=(".png",) if category == "02" else (".bmp", ".png"),
            size=(48, 48) if index < 2 else (64, 48),
            mask_ending="",
            mask_suffix=".bmp" if category == "03" else ".png",
        )
        write_category(root / "BTech_Dataset_transformed" / category, index, numbers, style)


DATASET = DatasetSource(
    description="BTAD, 3 categories",
    read=read,
    layout=LAYOUT,
    published=Published("BTAD", dict(COUNTS), (1799, None, None)),
    fabricate=fabricate,
)
