"""Real-IAD: 30 categories, 36 465 training and 114 585 test images, five views of each item.

Source: Wang et al., CVPR 2024; the numbers of images are from there.

The splits come from realiad_jsons/<category>.json (several views, one normal training set):
    {"meta": {"prefix", "normal_class"}, "train": [...], "test": [...]}.
    Each image has category, anomaly_class, image_path, and mask_path or null.
An image is normal if it has no mask or the normal class, whatever its item is.
The masks of the smaller releases are interpolated. Therefore a pixel is a defect if its value is above a half.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from mddbench.data.fabricate import Drawing, interpolated, save
from mddbench.data.images import MaskRule
from mddbench.data.samples import GOOD, Counts, DatasetSource, Published, Sample, SecondHand, SplitName, Tree
from mddbench.data.splits import ImageFolder, SplitError, SplitFile, list_of, read_json, text_of

# fmt: off
NAMES = (
    "audiojack", "bottle_cap", "button_battery", "end_cap", "eraser", "fire_hood", "mint", "mounts", "pcb",
    "phone_battery", "plastic_nut", "plastic_plug", "porcelain_doll", "regulator", "rolled_strip_base", "sim_card_set",
    "switch", "tape", "terminalblock", "toothbrush", "toy", "toy_brick", "transistor1", "u_block", "usb",
    "usb_adaptor", "vcpill", "wooden_beads", "woodstick", "zipper",
)
# fmt: on
SPLITS = ("realiad_jsons/realiad_jsons", "realiad_jsons")
"""The folders in which the split files may lie."""
SIDES = {"realiad_256": 256, "realiad_512": 512, "realiad_1024": 1024, "realiad_raw": 10**6}
"""The folder of each release, and the side of its images in pixels."""
VIEWS = 5
ITEM = re.compile(r"([A-Za-z][A-Za-z0-9_]*_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_C[0-9]_")
"""The part of a file's name that all views of an item share. Source: the pattern by which ADer groups images."""
LAYOUT = """\
ROOT/
  realiad_jsons/<category>.json        the splits, or in realiad_jsons/realiad_jsons/, as unpacked;
                                       image_path and mask_path in them are below <release>/<category>/
  realiad_256/<category>/              or realiad_512, realiad_1024, realiad_raw
    OK/S0001/*.jpg
    NG/<defect>/S0001/*.jpg, *.png     masks
"""


def read(root: Path, size: int) -> Tree:
    """Read the samples that the split files below the root name.

    They are taken from the smallest release whose images are large enough, or else from the largest release.

    Args:
        root: The dataset's folder.
        size: The side in pixels that the decoded images will have.

    Returns:
        The tree.
    """
    listings = (sorted((root / folder).glob("[!.]*.json")) for folder in SPLITS)
    files = next((files for files in listings if files), [f for f in sorted(root.glob("*.json")) if f.stem in NAMES])
    if not files:
        return Tree(root, (), (f"expected Real-IAD's splits at {root / SPLITS[-1]}/<category>.json, found none",))
    base = _release(root, size)
    if base == root and not any((root / name).is_dir() for name in NAMES):
        return Tree(
            root, (), (f"expected Real-IAD's images below {root / next(iter(SIDES))}, or another release; found none",)
        )
    split_files = [_category(root, base, file) for file in files]
    warnings = []
    if SIDES.get(base.name, size) < size:
        warnings.append(
            f"{base}: its images are smaller than {size} pixels and will be enlarged; unpack a larger release"
        )
    for file, split_file in zip(files, split_files, strict=True):
        if nameless := sum(not sample.item for sample in split_file.samples if sample.split == "test"):
            warnings.append(
                f"{file}: {nameless} test images' names do not tell whose view they are; S-AUROC is not defined"
            )
    samples = tuple(sample for split_file in split_files for sample in split_file.samples)
    faults = tuple(line for split_file in split_files for line in split_file.faults)
    return Tree(root, samples, faults, tuple(warnings), tuple(files))


def _release(root: Path, size: int) -> Path:
    """The smallest release with `size` pixels, or else the largest one; the root if there is no release."""
    present = [name for name in SIDES if (root / name).is_dir()]
    large_enough = [name for name in present if SIDES[name] >= size]
    return root / (large_enough[0] if large_enough else present[-1]) if present else root


def _category(root: Path, base: Path, file: Path) -> SplitFile:
    """The content of one category's split file."""
    split_file = SplitFile(file)
    try:
        content = read_json(file, root)
        meta = content.get("meta") if isinstance(content, dict) else None
        normal, prefix = text_of(meta, "normal_class"), text_of(meta, "prefix")
        images = ImageFolder(base if prefix in ("", ".", "./") else ImageFolder(base).path(prefix))
        if not images.folder.is_dir():
            raise SplitError(f"expected its images below {images.folder}, found no such folder; unpack them there")
        splits: tuple[SplitName, SplitName] = ("train", "test")
        for split in splits:
            split_file.add(list_of(content, split), partial(_sample, images, file.stem, split, normal))
    except SplitError as fault:
        split_file.fail(fault)
    return split_file


def _sample(folder: ImageFolder, category: str, split: SplitName, normal: str, entry: object) -> Sample:
    image, kind = text_of(entry, "image_path"), text_of(entry, "anomaly_class")
    mask = "" if isinstance(entry, dict) and entry.get("mask_path") is None else text_of(entry, "mask_path")
    defect = GOOD if not mask or kind == normal else kind
    item = ITEM.search(image.rsplit("/", 1)[-1])
    return folder.sample(image, category, split, defect, mask, item[1] if item else "")


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images of items with five views, and split files. Masks have grey rims.

    Where there are enough images, a defective item has one normal view.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    splits = root / SPLITS[0]
    splits.mkdir(parents=True)
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        folder, drawing = root / "realiad_256" / category, Drawing(index, (48, 48))
        entries: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}
        normal_views = min(good, defective // (VIEWS - 1))
        for number in range(train + good - normal_views):
            split = "train" if number < train else "test"
            entries[split].append(_drawn(folder, drawing, number, defective=False))
        for number in range(defective + normal_views):
            visible = normal_views == 0 or number % VIEWS != VIEWS - 1
            entries["test"].append(_drawn(folder, drawing, number, defective=visible, kind="NG"))
        content = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, **entries}
        (splits / f"{category}.json").write_text(json.dumps(content))


def _drawn(folder: Path, drawing: Drawing, number: int, defective: bool, kind: str = "OK") -> dict[str, str | None]:
    """Write one view and its mask, and return their entry in the split file."""
    # A normal view of a defective item has no mask, or it has the normal class and a mask that does not count.
    item, view = divmod(number, VIEWS)
    class_folder, class_code = ("OK", "OK") if kind == "OK" else ("NG/HS", "NG_HS")
    image = f"{class_folder}/S{item:04d}/{folder.name}_{item:04d}_{class_code}_C{view + 1}_20231023.jpg"
    pixels, mask = drawing.image(number + 100_000 * (kind != "OK"), defective)
    save(pixels, folder / image)
    normal_class = kind == "OK" or (not defective and item % 2 == 0)
    mask_path = image.replace(".jpg", ".png") if defective or (kind != "OK" and normal_class) else None
    if mask_path:
        save(interpolated(mask if defective else drawing.image(number, defective=True)[1]), folder / mask_path)
    class_name = "OK" if normal_class else "HS"
    return {"category": folder.name, "anomaly_class": class_name, "image_path": image, "mask_path": mask_path}


DATASET = DatasetSource(
    description="Real-IAD, 30 categories, five views of each item",
    read=read,
    layout=LAYOUT,
    published=Published(
        "Real-IAD",
        dict.fromkeys(NAMES, (None, None, None)),
        (36_465, SecondHand(63_256), SecondHand(51_329)),
    ),
    mask_rule=MaskRule(above=127),
    fabricate=fabricate,
)
