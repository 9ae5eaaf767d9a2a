"""VisA: 12 categories, 8659 normal training images, 962 normal and 1200 defective test images.

Source: Zou et al., ECCV 2022, the one-class split. Read in the layout that the authors' code converts it to:
VisA_pytorch/1cls/<category>/{train/good, test/{good,bad}, ground_truth/bad}.
"""

from pathlib import Path

from mddbench.data.samples import DatasetSource, Tree
from mddbench.data.tree import read_tree, with_counts

COUNTS: dict[str, tuple[int, int, int]] = {
    "candle": (900, 100, 100),
    "capsules": (542, 60, 100),
    "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100),
    "fryum": (450, 50, 100),
    "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100),
    "pcb1": (904, 100, 100),
    "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100),
    "pcb4": (904, 101, 100),
    "pipe_fryum": (450, 50, 100),
}
CONVERTED = ("VisA_pytorch/1cls", "1cls")


def read(root: Path) -> Tree:
    """The tree below `root`, or below the converted layout's folder in it, with a fault for each category of other counts."""
    place = next((root / name for name in CONVERTED if (root / name).is_dir()), root)
    if (place / "split_csv").is_dir():
        return Tree(
            place,
            (),
            (f"{place} is VisA as it is downloaded; expected its converted layout, <category>/train/good and so on",),
        )
    return with_counts(read_tree(place, masks_required=True), COUNTS, "VisA")


DATASET = DatasetSource(description="VisA, 12 categories, converted layout", read=read, expected=COUNTS)
