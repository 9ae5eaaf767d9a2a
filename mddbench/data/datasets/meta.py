"""Any dataset in the input format of ADer or UniAD: a meta.json, or files of JSON lines, with images, labels and masks.

ADer: ROOT/meta.json with
    {"train": {category: [{"img_path", "mask_path", "cls_name", "specie_name", "anomaly"}]}, "test": ...}.
    The images of "validation", if it exists, are used for training, too.
UniAD: ROOT/train.json and ROOT/test.json with lines {"filename", "label", "label_name", "clsname", "maskname"}.

Labels come from these files, and masks are paired with images by them.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from mddbench.data.fabricate import Drawing, save
from mddbench.data.listing import folders
from mddbench.data.samples import GOOD, Counts, DatasetSource, Sample, SplitName, Tree
from mddbench.data.splits import ImageFolder, SplitError, SplitFile, read_json, read_json_lines, text_of

META, LINES = "meta.json", ("train.json", "test.json")
SEVERAL = 50
"""The number of entries of each file that are looked up to find the folder of the images."""
SPLITS: dict[str, SplitName] = {"train": "train", "validation": "train", "test": "test"}
"""The split to which the images of each key belong."""
LAYOUT = """\
ROOT/                                  ADer
  meta.json                            {"train": {category: [entry, ...]}, "test": {...}}; paths are below ROOT
or
ROOT/                                  UniAD
  train.json, test.json                an entry a line; paths are below ROOT or a folder in it
"""


def read(root: Path, _: int) -> Tree:
    """Read the samples that the files below the root name.

    Args:
        root: The dataset's folder.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    meta, lines = root / META, [root / name for name in LINES]
    sources = [meta] if meta.exists() else lines
    if not all(file.exists() for file in sources):
        return Tree(root, (), (f"expected {META} of ADer, or {' and '.join(LINES)} of UniAD, in {root}; found none",))
    split_files = [_ader(root, meta)] if sources == [meta] else _uniad(root, lines)
    samples = [sample for split_file in split_files for sample in split_file.samples]
    ordered = sorted(samples, key=lambda sample: (sample.category, sample.split != "train"))
    faults = [line for split_file in split_files for line in split_file.faults]
    return Tree(root, tuple(ordered), tuple(faults), sources=tuple(sources))


def _ader(root: Path, file: Path) -> SplitFile:
    """The content of ADer's file."""
    split_file, folder = SplitFile(file), ImageFolder(root)
    try:
        content = read_json(file, root)
        if not isinstance(content, dict) or not {"train", "test"} <= set(content) <= set(SPLITS):
            raise SplitError("expected the keys train and test, and perhaps validation")
        for name, categories in content.items():
            if not isinstance(categories, dict) or not all(
                isinstance(entries, list) for entries in categories.values()
            ):
                raise SplitError(f"expected a list of entries for each category in '{name}'")
            for category, entries in categories.items():
                split_file.add(entries, partial(_ader_sample, folder, category, SPLITS[name]))
    except SplitError as fault:
        split_file.fail(fault)
    return split_file


def _ader_sample(folder: ImageFolder, category: str, split: SplitName, entry: Any) -> Sample:
    defect = _defect(entry, "anomaly", "specie_name")
    return folder.sample(text_of(entry, "img_path"), category, split, defect, _mask(entry.get("mask_path")))


def _uniad(root: Path, files: list[Path]) -> list[SplitFile]:
    """The content of UniAD's files. Images lie below the root, or below the folder in it that has most of them."""
    split_files, candidates = [], [ImageFolder(folder) for folder in (root, *folders(root))]
    entries: dict[Path, list[Any]] = {}
    for file in files:
        split_files.append(SplitFile(file))
        entries[file] = list(split_files[-1].readable(read_json_lines(file, root)))
    names = [
        entry["filename"]
        for file_entries in entries.values()
        for entry in file_entries[:SEVERAL]
        if _names_a_file(entry)
    ]
    image_folder = max(candidates, key=lambda candidate: sum(candidate.holds(name) for name in names))
    for file, split_file in zip(files, split_files, strict=True):
        split_file.add(entries[file], partial(_uniad_sample, image_folder, SPLITS[file.stem]))
    return split_files


def _uniad_sample(folder: ImageFolder, split: SplitName, entry: Any) -> Sample:
    defect = _defect(entry, "label", "label_name")
    name, category = text_of(entry, "filename"), text_of(entry, "clsname")
    return folder.sample(name, category, split, defect, _mask(entry.get("maskname")))


def _names_a_file(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("filename"), str)


def _defect(entry: Any, key: str, name: str) -> str:
    """The kind of defect, by the label. The kind that a normal image names does not count."""
    label = entry.get(key) if isinstance(entry, dict) else None
    if label not in (0, 1):
        raise SplitError(f"an entry's '{key}' is neither 0 nor 1: {json.dumps(entry)[:100]}")
    kind = entry.get(name)
    return (kind if isinstance(kind, str) and kind not in ("", GOOD) else "defective") if label else GOOD


def _mask(value: Any) -> str:
    """The name of a mask file; '' for none."""
    if value is not None and not isinstance(value, str):
        raise SplitError(f"a mask is not named by a text: {json.dumps(value)[:100]}")
    return value or ""


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn images and ADer's file, with doubled slashes and a validation split.

    A stray mask file shifts the other masks for a reader that pairs them by position.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    meta: dict[str, dict[str, list[dict[str, Any]]]] = {"train": {}, "validation": {}, "test": {}}
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        drawing = Drawing(index, (56, 40))
        for number in range(train + good + defective):
            is_defective = number >= train + good
            image, mask = f"{category}//images/{number:04d}.png", f"{category}//masks/{number:04d}_m.png"
            pixels, mask_pixels = drawing.image(number, defective=is_defective)
            save(pixels, root / image)
            if is_defective:
                save(mask_pixels, root / mask)
            entry = {
                "img_path": image,
                "mask_path": mask if is_defective else "",
                "cls_name": category,
                "anomaly": int(is_defective),
            }
            key = "validation" if number < train // 5 else "train" if number < train else "test"
            meta[key].setdefault(category, []).append({**entry, "specie_name": "dent" if is_defective else "good"})
        save(drawing.image(0, defective=True)[1], root / category / "masks" / "0000_stray.png")
    (root / META).write_text(json.dumps(meta))


DATASET = DatasetSource(
    description="what a meta.json of ADer, or UniAD's JSON lines, name",
    read=read,
    layout=LAYOUT,
    fabricate=fabricate,
)
