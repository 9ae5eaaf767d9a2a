"""Uni-Medical: slices of BMAD in MVTec-AD's layout; 3 categories, 13 339 normal training images, 7013 test images.

Source: Zhang et al., ADer. The numbers of each category are from BMAD's table 1.
The division of the test images into normal and defective ones is second hand.

BMAD's own release has other folders (train/good/img, test/Ungood/{img,anomaly_mask}) and is not read.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.listing import base_of
from mddbench.data.samples import Counts, DatasetSource, Published, Tree
from mddbench.data.samples import SecondHand as About
from mddbench.data.tree import Layout, read_tree

COUNTS = {
    "brain": (7500, About(640), About(3075)),
    "liver": (1542, About(833), About(660)),
    "retinal": (4297, About(1041), About(764)),
}
LAYOUT = """\
ROOT/<category>/                       brain, liver, retinal
  train/good/*.png
  test/{good,Ungood}/*.png
  ground_truth/Ungood/*.png
"""


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root, or below medical/ in it.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    base = base_of(root, ("medical",))
    if any(base.glob("*/train/good/img")):
        return Tree(
            root,
            (),
            (f"{base} is laid out as BMAD's own release; expected ADer's, <category>/train/good/*.png and so on",),
        )
    return read_tree(base, Layout())


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn slices with one channel. Those of the retina are wide.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, numbers) in enumerate(counts.items()):
        size = (64, 32) if category == "retinal" else (48, 48)
        style = Style(defects=("Ungood",), mode="L", size=size, mask_ending="")
        write_category(root / category, index, numbers, style)


DATASET = DatasetSource(
    description="Uni-Medical, 3 categories",
    read=read,
    layout=LAYOUT,
    published=Published("Uni-Medical", dict(COUNTS)),
    fabricate=fabricate,
)
