"""BTAD: 3 categories, 1799 normal training images and 741 test images.

Source: Mishra et al., ISIE 2021 (VT-ADL); totals and category 02 confirmed, the others second hand (the authors' README
swaps 02 and 03). Normal folders are called 'ok' and defective ones 'ko'; images are .bmp and .png, and a mask's suffix may
differ from its image's.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.samples import Counts, DatasetSource, Published, Tree
from mddbench.data.samples import SecondHand as About
from mddbench.data.tree import Layout, base_of, read_tree

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
    """The tree below `root`, or in the folder that the archive unpacks to."""
    return read_tree(base_of(root, ("BTech_Dataset_transformed",)), Layout(normal=("ok",)))


def fabricate(root: Path, counts: Counts) -> None:
    """Both suffixes within a category, masks of the other suffix, sizes that differ by category."""
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
