"""MVTec-AD: 15 categories, 3629 normal training images, 467 normal and 1258 defective test images.

Source: Bergmann et al., IJCV 2021; counts as in the dataset's own folders.
"""

from pathlib import Path

from mddbench.data.samples import DatasetSource, Tree
from mddbench.data.tree import read_tree, with_counts

COUNTS: dict[str, tuple[int, int, int]] = {
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}


def read(root: Path) -> Tree:
    """The tree below `root`, with a fault for every category whose counts differ from the dataset's."""
    return with_counts(read_tree(root, masks_required=True), COUNTS, "MVTec-AD")


DATASET = DatasetSource(description="MVTec-AD, 15 categories", read=read, expected=COUNTS)
