"""Any folder in MVTec-AD's layout: <category>/{train/good,test/<good or defect>,ground_truth/<defect>}.

In a category without the folder ground_truth only the images are labelled. Its pixel metrics are not defined.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.samples import Counts, DatasetSource, Tree
from mddbench.data.tree import HABITS, MVTEC_LAYOUT, Layout, read_tree

LAYOUT = f"""\
{MVTEC_LAYOUT.rstrip()}
'good' may be called 'ok' or 'normal'. Training images may lie directly in train/. The name of a mask may lack _mask.
Kinds of defects may be nested folders. Without ground_truth/ a category has image-level metrics only.
One category alone may be given by its own folder.
"""


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root. If it holds one category alone, the root's name is the category.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    return read_tree(root, Layout(normal=HABITS, masks_required=False, free=True))


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images in two styles: plain, and 'OK' with nested kinds of defects whose masks have no ending.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, numbers) in enumerate(counts.items()):
        plain = Style(defects=("dent", "scratch"))
        nested = Style(defects=("dent", "scratch/deep"), normal="OK", mask_ending="", size=(56, 40))
        write_category(root / category, index, numbers, nested if index % 2 else plain)


DATASET = DatasetSource(
    description="any folder in MVTec-AD's layout (masks optional by category)",
    read=read,
    layout=LAYOUT,
    own=True,
    fabricate=fabricate,
)
