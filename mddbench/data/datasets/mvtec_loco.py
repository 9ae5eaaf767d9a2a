"""MVTec-LOCO: 5 categories of logical and structural anomalies.

Training and validation images are all used for training, as in ADer. `calibration: validation` sets thresholds on the
validation images and does not train on them.

Source: Bergmann et al., IJCV 2022. The numbers of test images are confirmed. The paper has 3644 images in total, which
leaves 2076 for training (a reading of ADer's logs has 2083).

An image has several masks, one for each defect. Their union is the mask of the seven metrics.
The dataset's own metric is sPRO, for which the masks stay apart. In it a defect can count as found before all of it is
found: `defects_config.json` of a category says from which area on. AUPRO does not allow that, so its values cannot be
compared with published sPRO.
"""

from __future__ import annotations

import json
from pathlib import Path

from mddbench.data.fabricate import Style, write_category
from mddbench.data.listing import base_of
from mddbench.data.samples import Counts, DatasetSource, Published, SecondHand, Tree
from mddbench.data.tree import Layout, read_tree

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
  defects_config.json                  for sPRO: the saturation of each kind of defect, by the value in its masks
"""
CONFIG = "defects_config.json"


def read(root: Path, _: int) -> Tree:
    """Read the tree below the root, or below the folder to which the archive unpacks.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    layout = Layout(train=("train", "validation"), mask_folders=True)
    return read_tree(base_of(root, ("mvtec_loco_anomaly_detection",)), layout)


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images. Some training images lie in validation/. Images have two masks, also with values below 255.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        kinds = ("logical_anomalies", "structural_anomalies")
        style = Style(defects=kinds, size=(64, 40), masks_per_image=2, validation=train // 5)
        write_category(root / category, index, (train, good, defective), style)
        saturations = ((255, 20, False), (254, 0.5, True))  # in pixels of the image, and as a share of the region
        entries = [
            {
                "defect_name": f"kind {value}",
                "pixel_value": value,
                "saturation_threshold": threshold,
                "relative_saturation": r,
            }
            for value, threshold, r in saturations
        ]
        (root / category / CONFIG).write_text(json.dumps(entries))


DATASET = DatasetSource(
    description="MVTec-LOCO, 5 categories",
    read=read,
    layout=LAYOUT,
    saturation=lambda image: image.parents[2] / CONFIG,
    validation=lambda image: image.parents[1].name == "validation",
    published=Published("MVTec-LOCO", dict(COUNTS), (SecondHand(2076), None, None)),
    fabricate=fabricate,
)
