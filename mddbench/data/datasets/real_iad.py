"""Real-IAD: 30 categories, 36 465 training and 114 585 test images, five views of each item.

Source: Wang et al., CVPR 2024; counts from there. Splits come from realiad_jsons/<category>.json (several views, one normal
training set): {"meta": {"prefix", "normal_class"}, "train": [...], "test": [...]}, each image with category, anomaly_class,
image_path and mask_path or null. An image is normal if it has no mask or its class is the normal one, whatever its item is. The
masks of the smaller releases are interpolated, so that a pixel counts above a half.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from mddbench.data.fabricate import Drawing, interpolated, save
from mddbench.data.images import MaskRule
from mddbench.data.samples import GOOD, Counts, DatasetSource, Kind, Published, Sample, SecondHand, Tree
from mddbench.data.splits import Below, Collected, SplitError, list_of, read_json, text_of

# fmt: off
NAMES = (
    "audiojack", "bottle_cap", "button_battery", "end_cap", "eraser", "fire_hood", "mint", "mounts", "pcb",
    "phone_battery", "plastic_nut", "plastic_plug", "porcelain_doll", "regulator", "rolled_strip_base", "sim_card_set",
    "switch", "tape", "terminalblock", "toothbrush", "toy", "toy_brick", "transistor1", "u_block", "usb",
    "usb_adaptor", "vcpill", "wooden_beads", "woodstick", "zipper",
)
# fmt: on
SPLITS = ("realiad_jsons/realiad_jsons", "realiad_jsons")
SIDES = {"realiad_256": 256, "realiad_512": 512, "realiad_1024": 1024, "realiad_raw": 10**6}
VIEWS = 5
ITEM = re.compile(r"([A-Za-z][A-Za-z0-9_]*_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_C[0-9]_")
"""What the names of an item's views share. Source: the pattern that ADer groups by."""
LAYOUT = """\
ROOT/
  realiad_jsons/<category>.json        the splits, or in realiad_jsons/realiad_jsons/, as unpacked;
                                       image_path and mask_path in them are below <release>/<category>/
  realiad_256/<category>/              or realiad_512, realiad_1024, realiad_raw
    OK/S0001/*.jpg
    NG/<defect>/S0001/*.jpg, *.png     masks
"""


def read(root: Path, size: int) -> Tree:
    """What the split files below `root` name, in the smallest release that has `size` pixels, or else in the largest."""
    places = (sorted((root / place).glob("[!.]*.json")) for place in SPLITS)
    files = next((files for files in places if files), [f for f in sorted(root.glob("*.json")) if f.stem in NAMES])
    if not files:
        return Tree(root, (), (f"expected Real-IAD's splits at {root / SPLITS[-1]}/<category>.json, found none",))
    base = _release(root, size)
    if base == root and not any((root / name).is_dir() for name in NAMES):
        return Tree(
            root, (), (f"expected Real-IAD's images below {root / next(iter(SIDES))}, or another release; found none",)
        )
    all_found = [_category(root, base, file) for file in files]
    warnings = []
    if SIDES.get(base.name, size) < size:
        warnings.append(
            f"{base}: its images are smaller than {size} pixels and will be enlarged; unpack a larger release"
        )
    for file, found in zip(files, all_found, strict=True):
        if nameless := sum(not sample.item for sample in found.samples if sample.split == "test"):
            warnings.append(
                f"{file}: {nameless} test images' names do not tell whose view they are; S-AUROC is not defined"
            )
    samples = tuple(sample for found in all_found for sample in found.samples)
    faults = tuple(line for found in all_found for line in found.faults)
    return Tree(root, samples, faults, tuple(warnings), tuple(files))


def _release(root: Path, size: int) -> Path:
    there = [name for name in SIDES if (root / name).is_dir()]
    enough = [name for name in there if SIDES[name] >= size]
    return root / (enough[0] if enough else there[-1]) if there else root


def _category(root: Path, base: Path, file: Path) -> Collected:
    found = Collected(file)
    try:
        content = read_json(file, root)
        meta = content.get("meta") if isinstance(content, dict) else None
        normal, prefix = text_of(meta, "normal_class"), text_of(meta, "prefix")
        below = Below(base if prefix in ("", ".", "./") else Below(base).path(prefix))
        if not below.folder.is_dir():
            raise SplitError(f"expected its images below {below.folder}, found no such folder; unpack them there")
        splits: tuple[Kind, Kind] = ("train", "test")
        for split in splits:
            found.add(list_of(content, split), partial(_sample, below, file.stem, split, normal))
    except SplitError as fault:
        found.fail(fault)
    return found


def _sample(below: Below, category: str, split: Kind, normal: str, entry: object) -> Sample:
    image, kind = text_of(entry, "image_path"), text_of(entry, "anomaly_class")
    mask = "" if isinstance(entry, dict) and entry.get("mask_path") is None else text_of(entry, "mask_path")
    defect = GOOD if not mask or kind == normal else kind
    named = ITEM.search(image.rsplit("/", 1)[-1])
    return below.sample(image, category, split, defect, mask, named[1] if named else "")


def fabricate(root: Path, counts: Counts) -> None:
    """Items of five views, a defective one with a normal view where there are enough; masks with grey rims."""
    splits = root / SPLITS[0]
    splits.mkdir(parents=True)
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        folder, drawing = root / "realiad_256" / category, Drawing(index, (48, 48))
        split: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}
        normal_views = min(good, defective // (VIEWS - 1))
        for number in range(train + good - normal_views):
            kind = "train" if number < train else "test"
            split[kind].append(_drawn(folder, drawing, number, defective=False))
        for number in range(defective + normal_views):
            shown = normal_views == 0 or number % VIEWS != VIEWS - 1
            split["test"].append(_drawn(folder, drawing, number, defective=shown, kind="NG"))
        content = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, **split}
        (splits / f"{category}.json").write_text(json.dumps(content))


def _drawn(folder: Path, drawing: Drawing, number: int, defective: bool, kind: str = "OK") -> dict[str, str | None]:
    """Draw one view, and its mask; what the split file says of them. A normal view of a defective item has no mask, or is of
    the normal class with a mask that does not count.
    """
    item, view = divmod(number, VIEWS)
    part, marks = ("OK", "OK") if kind == "OK" else ("NG/HS", "NG_HS")
    image = f"{part}/S{item:04d}/{folder.name}_{item:04d}_{marks}_C{view + 1}_20231023.jpg"
    pixels, mask = drawing.image(number + 100_000 * (kind != "OK"), defective)
    save(pixels, folder / image)
    normal_class = kind == "OK" or (not defective and item % 2 == 0)
    mask_path = image.replace(".jpg", ".png") if defective or (kind != "OK" and normal_class) else None
    if mask_path:
        save(interpolated(mask if defective else drawing.image(number, defective=True)[1]), folder / mask_path)
    named = "OK" if normal_class else "HS"
    return {"category": folder.name, "anomaly_class": named, "image_path": image, "mask_path": mask_path}


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
