"""RobustAD of Amazon: a training domain and test images of it, and of five or six other domains, for each product.

Source: the release on the Hub, amazon/RobustAD, CC BY 4.0; its layout as public readers of it have it.

Products with masks are read: MetalParts and PCB. PiledBags has labels of images only, so it is left out.
Defective images of the training split are not trained on and not tested.
The domain of a test image is its condition. So a report has each domain apart (`conditions.*`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mddbench.data.fabricate import Drawing, save
from mddbench.data.listing import base_of
from mddbench.data.samples import GOOD, Counts, DatasetSource, Published, Sample, SplitName, Tree
from mddbench.data.splits import ImageFolder, SplitError, SplitFile, read_json_lines, text_of

SOURCE = "source"
"""The condition of test images from the training domain."""
DOMAINS = {
    "MetalParts": (SOURCE, "lighting", "position", "rotation", "scale", "background_1", "background_2"),
    "PCB": (SOURCE, "lighting", "white_balancing", "rotation", "position", "shadow"),
}
"""Product -> the domain of each of its test splits, by number."""
FOLDERS = {"MetalParts": "metal_parts_data_dir", "PCB": "pcb_data_dir"}
"""Product -> the text with which the names of its splits' folders begin."""
NO_MASKS = "PiledBags"
METADATA, MASKS, DEFECT = "metadata.jsonl", "masks", "anomaly"
LAYOUT = """\
ROOT/<product>/                        MetalParts, PCB
  metal_parts_data_dir_train/          pcb_data_dir_train/
    metadata.jsonl                     an entry a line: {"file_name", "label", "mask"}; label 0 is normal
    *.png, masks/*.png
  metal_parts_data_dir_test0/          the training domain
  metal_parts_data_dir_test1/ to 6     other domains; of PCB to 5
"""


def read(root: Path, _: int) -> Tree:
    """Read the products with masks below the root, or below RobustAD/ in it.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    base = base_of(root, ("RobustAD",))
    products = [product for product in DOMAINS if (base / product).is_dir()]
    if not products:
        expected = base / next(iter(DOMAINS)) / f"{next(iter(FOLDERS.values()))}_train"
        return Tree(root, (), (f"expected RobustAD's images at {expected}, found none",))
    split_files = [split_file for product in products for split_file in _splits(base, product)]
    warnings = [f"{base / NO_MASKS}: left out, since it has no masks"] if (base / NO_MASKS).is_dir() else []
    return Tree(
        base,
        tuple(sample for split_file in split_files for sample in split_file.samples),
        tuple(line for split_file in split_files for line in split_file.faults),
        tuple(warnings),
        tuple(split_file.file for split_file in split_files),
    )


def _splits(base: Path, product: str) -> list[SplitFile]:
    """The content of the training split and of all test splits of a product."""
    start = base / product / FOLDERS[product]
    found = [_split(Path(f"{start}_train"), base, product, "train", "")]
    for number, domain in enumerate(DOMAINS[product]):
        found.append(_split(Path(f"{start}_test{number}"), base, product, "test", domain))
    return found


def _split(folder: Path, base: Path, product: str, split: SplitName, domain: str) -> SplitFile:
    split_file = SplitFile(folder / METADATA)
    images = ImageFolder(folder)
    split_file.add(read_json_lines(split_file.file, base), partial(_sample, images, base, product, split, domain))
    return split_file


def _sample(images: ImageFolder, base: Path, product: str, split: SplitName, domain: str, entry: Any) -> Sample | None:
    """The sample of an entry; None for a defective one among the training images."""
    name = text_of(entry, "file_name")
    label, mask = entry.get("label"), entry.get("mask") or ""
    if label not in (0, 1) or isinstance(label, bool) or not isinstance(mask, str):
        raise SplitError(f"image {name!r}: expected label 0 or 1 and a mask's name, found {label!r} and {mask!r}")
    if split == "train" and label:
        return None
    if label and not mask:
        raise SplitError(f"image {name!r} is defective and has no mask")
    sample = images.sample(name, product, split, DEFECT if label else GOOD)
    masks = (_mask(images, base, mask),) if label else ()
    return replace(sample, masks=masks, condition=domain)


def _mask(images: ImageFolder, base: Path, name: str) -> Path:
    """The file of a mask: named within its split, or from the root, or by its name alone in the folder of masks."""
    inner = f"{MASKS}/{Path(name).name}"
    choices = ((images, name), (ImageFolder(base), name), (images, inner))
    return next((folder.path(each) for folder, each in choices if folder.holds(each)), images.path(inner))


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images in the dataset's layout, one after another in all domains, and a defect among those to train on.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    for index, (product, (train, good, defective)) in enumerate(counts.items()):
        drawing, domains = Drawing(index, (56, 40)), DOMAINS[product]
        lines: dict[str, list[dict[str, Any]]] = {name: [] for name in ("train", *map(_test, range(len(domains))))}
        plan = [("train", False)] * train + [("train", True)]
        plan += [(_test(number % len(domains)), number >= good) for number in range(good + defective)]
        for number, (split, anomalous) in enumerate(plan):
            folder = root / product / f"{FOLDERS[product]}_{split}"
            pixels, mask = drawing.image(number, defective=anomalous)
            save(pixels, folder / f"{number:03d}.png")
            entry: dict[str, Any] = {"file_name": f"{number:03d}.png", "label": int(anomalous), "mask": None}
            if anomalous:
                save(mask, folder / MASKS / f"{number:03d}.png")
                entry["mask"] = f"{MASKS}/{number:03d}.png"
            lines[split].append(entry)
        for split, entries in lines.items():
            folder = root / product / f"{FOLDERS[product]}_{split}"
            folder.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
            (folder / METADATA).write_text(text, encoding="utf-8")


def _test(number: int) -> str:
    return f"test{number}"


DATASET = DatasetSource(
    description="RobustAD, 2 products with masks, each in its own and in five or six other domains",
    read=read,
    layout=LAYOUT,
    published=Published("RobustAD", dict.fromkeys(DOMAINS, (None, None, None))),
    fabricate=fabricate,
)
