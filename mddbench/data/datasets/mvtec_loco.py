"""MVTec-LOCO: 5 categories of logical and structural anomalies; training and validation images are all trained on, as in ADer.

Source: Bergmann et al., IJCV 2022; test counts confirmed, 3644 images in all by the paper, which leaves 2076 to
train on (a reading of ADer's logs has 2083). An image has several masks, one for each defect, whose union is
taken. The dataset's own metric, sPRO, lets a defect count as found before all of it is; the AUPRO reported here does not, and
its values are not to be compared with published sPRO.
"""

from __future__ import annotations

from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.samples import Counts, DatasetSource, Published, SecondHand, Tree
from mddbench.data.tree import Layout, base_of, read_tree

COUNTS = {
    "breakfast_box": (None, 102, 173),
    "juice_bottle": (None, 94, 236),
    "pushpins": (None, 138, 172),
    "screw_bag": (None, 122, 219),
    "splicing_connectors": (None, 119, 193),
}
LAYOUT = """\
ROOT/<category>/
  train/good/*.png
  validation/good/*.png                trained on, too
  test/{good,logical_anomalies,structural_anomalies}/*.png
  ground_truth/<kind>/<image>/000.png, 001.png, ...
"""


def read(root: Path, _: int) -> Tree:
    """The tree below `root`, or in the folder that the archive unpacks to."""
    layout = Layout(train=("train", "validation"), mask_folders=True)
    return read_tree(base_of(root, ("mvtec_loco_anomaly_detection",)), layout)


def fabricate(root: Path, counts: Counts) -> None:
    """A part of the training images in validation/, two masks of an image with values that are not 255."""
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        kinds = ("logical_anomalies", "structural_anomalies")
        style = Style(defects=kinds, size=(64, 40), masks_per_image=2, validation=train // 5)
        write_category(root / category, index, (train, good, defective), style)
        (root / category / "defects_config.json").write_text("[]\n")


DATASET = DatasetSource(
    description="MVTec-LOCO, 5 categories",
    read=read,
    layout=LAYOUT,
    published=Published("MVTec-LOCO", dict(COUNTS), (SecondHand(2076), None, None)),
    fabricate=fabricate,
)
