"""VisA: 12 categories, 8659 normal training images, 962 normal and 1200 defective test images.

Source: Zou et al., ECCV 2022, the one-class split. Read as it is downloaded, by split_csv/1cls.csv, or in the layout that the
authors' code converts it to. As downloaded, masks hold the number of the defect's class, nearly black, and not 255.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from mddbench.data.fabricate import Drawing, save
from mddbench.data.images import MaskRule
from mddbench.data.samples import GOOD, Counts, DatasetSource, Kind, Published, Sample, Tree
from mddbench.data.splits import Below, Collected, SplitError, read_csv
from mddbench.data.tree import Layout, base_of, read_tree

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
    """The tree as downloaded, if its split file is there; else the converted one."""
    split = root / SPLIT
    if not split.exists():
        return read_tree(base_of(root, CONVERTED), Layout())
    found = Collected(split, "; unpack VisA anew")
    below = Below(root)
    found.add(read_csv(split, root, HEADER), lambda row: _sample(below, row))
    samples = sorted(found.samples, key=lambda sample: sample.category)
    return Tree(root, tuple(samples), tuple(found.faults), sources=(split,))


def _sample(below: Below, row: dict[str, str]) -> Sample:
    labels = {"normal": GOOD, "anomaly": "anomaly"}
    place, label = f"image {row['image']!r} of '{row['object']}'", row["label"]
    if row["split"] not in ("train", "test") or label not in labels:
        raise SplitError(
            f"{place}: expected split train or test and label normal or anomaly, found {row['split']!r}, {label!r}"
        )
    if label == "anomaly" and not row["mask"]:
        raise SplitError(f"{place} is defective and has no mask")
    kind: Kind = "train" if row["split"] == "train" else "test"
    return below.sample(row["image"], row["object"], kind, labels[label], row["mask"])


def fabricate(root: Path, counts: Counts) -> None:
    """As downloaded: upper-case suffixes, images that are not square, masks of class numbers in a palette of blacks."""
    rows = [HEADER]
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        drawing, data = Drawing(index, (60 + 4 * (index % 3), 40)), f"{category}/Data"
        for number in range(train + good):
            image = f"{data}/Images/Normal/{number:04d}.JPG"
            save(drawing.image(number)[0], root / image)
            rows.append((category, "train" if number < train else "test", "normal", image, ""))
        for number in range(defective):
            image, mask = f"{data}/Images/Anomaly/{number:03d}.JPG", f"{data}/Masks/Anomaly/{number:03d}.png"
            pixels, drawn = drawing.image(train + good + number, defective=True)
            save(pixels, root / image)
            _save_indices(drawn // 255 * (1 + number % 3), root / mask)
            rows.append((category, "test", "anomaly", image, mask))
        (root / category / "image_anno.csv").write_text("image,label,mask\n")
    (root / SPLIT).parent.mkdir()
    with (root / SPLIT).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _save_indices(indices: np.ndarray, path: Path) -> None:
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
