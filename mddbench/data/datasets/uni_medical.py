"""Uni-Medical: slices of BMAD in MVTec-AD's layout; 3 categories, 13 339 normal training images, 2514 and 4499 test images.

Source: Zhang et al., ADer; counts from BMAD's table 1 and ADer's logs. Layout: <category>/{train/good, test/{good,Ungood},
ground_truth/Ungood}. BMAD's own release has other folders and is not read.
"""

from pathlib import Path

from mddbench.data.samples import DatasetSource, Tree
from mddbench.data.tree import read_tree, with_counts

COUNTS: dict[str, tuple[int, int, int]] = {
    "brain": (7500, 640, 3075),
    "liver": (1542, 833, 660),
    "retinal": (4297, 1041, 764),
}


def read(root: Path) -> Tree:
    """The tree below `root`, with a fault for every category whose counts differ from the dataset's."""
    return with_counts(read_tree(root, masks_required=True), COUNTS, "Uni-Medical")


DATASET = DatasetSource(description="Uni-Medical, 3 categories", read=read, expected=COUNTS)
