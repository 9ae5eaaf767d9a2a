"""VisA: 12 categories, 8659 normal training images, 962 normal and 1200 defective test images.

Source: Zou et al., ECCV 2022, the one-class split.

The dataset is read as downloaded, with the split of split_csv/1cls.csv.
It is also read in the layout to which the authors' code converts it.
As downloaded, masks do not hold 255 but the number of the defect's class, which is nearly black.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from mddbench.data.fabricate import Drawing, save
from mddbench.data.images import MaskRule
from mddbench.data.listing import base_of
from mddbench.data.samples import GOOD, Counts, DatasetSource, Published, Sample, SplitName, Tree
from mddbench.data.splits import ImageFolder, SplitError, SplitFile, read_csv
from mddbench.data.tree import Layout, read_tree

COUNTS = {
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
SPLIT = "split_csv/1cls.csv"
HEADER = ("object", "split", "label", "image", "mask")
CONVERTED = ("VisA_pytorch/1cls", "1cls")
LAYOUT = """\
ROOT/                                  as downloaded
  split_csv/1cls.csv                   object,split,label,image,mask
  <category>/Data/Images/{Normal,Anomaly}/*.JPG
  <category>/Data/Masks/Anomaly/*.png
or
ROOT/                                  or ROOT/1cls/, ROOT/VisA_pytorch/1cls/: converted
  <category>/train/good/*
  <category>/test/{good,bad}/*
  <category>/ground_truth/bad/*.png
"""


def read(root: Path, _: int) -> Tree:
    """Read the tree as downloaded if its split file exists, or else the converted one.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    split = root / SPLIT
    if not split.exists():
        return read_tree(base_of(root, CONVERTED), Layout())
    split_file = SplitFile(split, "; unpack VisA anew")
    folder = ImageFolder(root)
    split_file.add(read_csv(split, root, HEADER), lambda row: _sample(folder, row))
    samples = sorted(split_file.samples, key=lambda sample: sample.category)
    return Tree(root, tuple(samples), tuple(split_file.faults), sources=(split,))


def _sample(folder: ImageFolder, row: dict[str, str]) -> Sample:
    labels = {"normal": GOOD, "anomaly": "anomaly"}
    title, label = f"image {row['image']!r} of '{row['object']}'", row["label"]
    if row["split"] not in ("train", "test") or label not in labels:
        raise SplitError(
            f"{title}: expected split train or test and label normal or anomaly, found {row['split']!r}, {label!r}"
        )
    if label == "anomaly" and not row["mask"]:
        raise SplitError(f"{title} is defective and has no mask")
    split: SplitName = "train" if row["split"] == "train" else "test"
    return folder.sample(row["image"], row["object"], split, labels[label], row["mask"])


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images in the downloaded layout.

    Suffixes are in upper case, images are not square, and masks hold class numbers with an all-black palette.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    rows = [HEADER]
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        drawing, data = Drawing(index, (60 + 4 * (index % 3), 40)), f"{category}/Data"
        for number in range(train + good):
            image = f"{data}/Images/Normal/{number:04d}.JPG"
            save(drawing.image(number)[0], root / image)
            rows.append((category, "train" if number < train else "test", "normal", image, ""))
        for number in range(defective):
            image, mask = f"{data}/Images/Anomaly/{number:03d}.JPG", f"{data}/Masks/Anomaly/{number:03d}.png"
            pixels, mask_pixels = drawing.image(train + good + number, defective=True)
            save(pixels, root / image)
            _save_indices(mask_pixels // 255 * (1 + number % 3), root / mask)
            rows.append((category, "test", "anomaly", image, mask))
        (root / category / "image_anno.csv").write_text("image,label,mask\n")
    (root / SPLIT).parent.mkdir()
    with (root / SPLIT).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _save_indices(indices: np.ndarray, path: Path) -> None:
    """Write palette numbers (H, W) as an image whose colours are all black."""
    image = Image.fromarray(indices.astype(np.uint8), mode="P")
    image.putpalette([0] * 768)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


DATASET = DatasetSource(
    description="VisA, 12 categories, as downloaded or converted",
    read=read,
    layout=LAYOUT,
    published=Published("VisA", dict(COUNTS)),
    mask_rule=MaskRule(numbers=True),
    fabricate=fabricate,
)
