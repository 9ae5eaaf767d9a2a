"""Real-IAD: 30 categories, 36 465 normal training images, 63 256 normal and 51 329 defective test images, five views a sample.

Source: Wang et al., CVPR 2024. Splits come from realiad_jsons/<category>.json (several views, one normal training set):
{"meta": {"prefix", "normal_class"}, "train": [...], "test": [...]}, each image with anomaly_class, image_path and mask_path or
null. An image is normal if it has no mask or its class is the normal one, whatever its sample is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mddbench.data.samples import GOOD, DatasetSource, Kind, Sample, Tree

CATEGORIES, TOTALS = 30, (36_465, 63_256, 51_329)
SPLITS = ("realiad_jsons", ".")
IMAGES = ("realiad_256", "realiad_512", "realiad_1024", "realiad_raw", ".")


def read(root: Path) -> Tree:
    """The samples that the JSON files below `root` name. Whether each image is there is seen when it is read."""
    files = next((found for name in SPLITS if (found := sorted((root / name).glob("*.json")))), [])
    if not files:
        return Tree(root, (), (f"expected Real-IAD's splits at {root / SPLITS[0]}/<category>.json, found none",))
    samples: list[Sample] = []
    faults: list[str] = []
    for file in files:
        for each in _category(root, file):
            if isinstance(each, Sample):
                samples.append(each)
            else:
                faults.append(each)
    tree = Tree(root, tuple(samples), tuple(faults))
    return tree if faults else Tree(root, tree.samples, tuple(_lacking(tree)))


def _lacking(tree: Tree) -> Iterator[str]:
    """What is missing of the whole dataset."""
    test = tree.select("test")
    defective = sum(sample.anomalous for sample in test)
    found = (len(tree.select("train")), len(test) - defective, defective)
    if len(tree.categories) != CATEGORIES or found != TOTALS:
        yield (
            f"expected {CATEGORIES} categories with {TOTALS[0]} training, {TOTALS[1]} normal and {TOTALS[2]} defective test "
            f"images in the splits below {tree.root}, found {len(tree.categories)} with {found[0]}, {found[1]} and {found[2]}"
        )


def _category(root: Path, file: Path) -> Iterator[Sample | str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        meta, parts = content["meta"], [("train", content["train"]), ("test", content["test"])]
        prefix, normal = _inside(meta["prefix"]), meta["normal_class"]
        base = next((root / name / prefix for name in IMAGES if (root / name / prefix).is_dir()), None)
        if base is None:
            yield f"{file}: expected its images below {root / IMAGES[0] / prefix}, found no such folder"
            return
        for split, entries in parts:
            for entry in entries:
                yield _sample(base, file.stem, "train" if split == "train" else "test", entry, normal)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        yield f"{file}: not a split of Real-IAD ({type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''})"


def _sample(base: Path, category: str, split: Kind, entry: dict[str, Any], normal: str) -> Sample:
    mask = entry["mask_path"]
    good = mask is None or entry["anomaly_class"] == normal
    defect = GOOD if good else str(entry["anomaly_class"])
    return Sample(base / _inside(entry["image_path"]), category, split, defect, None if good else base / _inside(mask))


def _inside(path: str) -> PurePosixPath:
    """A relative path of the file. Raises ValueError for one that leads out of the dataset's folder."""
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts or "\\" in path:
        raise ValueError(f"path {path!r} leads out of the dataset's folder")
    return found


DATASET = DatasetSource(description="Real-IAD, 30 categories", read=read, totals=TOTALS)
