"""MVTec-AD: 15 categories, 3629 normal training images, 467 normal and 1258 defective test images.

Source: Bergmann et al., IJCV 2021. The numbers are those of the dataset's own folders.
The images of three categories have one channel.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.listing import base_of
from mddbench.data.samples import Counts, DatasetSource, Published, Tree
from mddbench.data.tree import MVTEC_LAYOUT, Layout, read_tree

COUNTS = {
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
GREY = ("grid", "screw", "zipper")
"""The categories whose images have one channel."""


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root, or below the folder to which the archive unpacks.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    return read_tree(base_of(root, ("mvtec_anomaly_detection",)), Layout())


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images with two kinds of defects and text files beside the folders. GREY categories have one channel.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, numbers) in enumerate(counts.items()):
        style = Style(defects=("broken", "combined"), mode="L" if category in GREY else "RGB")
        write_category(root / category, index, numbers, style)
        (root / category / "license.txt").write_text("no licence: drawn images\n")
        (root / category / "readme.txt").write_text("drawn images\n")


DATASET = DatasetSource(
    description="MVTec-AD, 15 categories",
    read=read,
    layout=MVTEC_LAYOUT,
    published=Published("MVTec-AD", dict(COUNTS)),
    fabricate=fabricate,
)
