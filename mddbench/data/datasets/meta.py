"""Any dataset that ADer or UniAD can be given: a meta.json, or files of JSON lines, that name images, labels and masks.

ADer: ROOT/meta.json, {"train": {category: [{"img_path", "mask_path", "cls_name", "specie_name", "anomaly"}]}, "test": ...};
"validation", if there is one, is trained on, too. UniAD: ROOT/train.json and ROOT/test.json of lines {"filename", "label",
"label_name", "clsname", "maskname"}. Labels come from the files and masks are paired by them.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from mddbench.data.fabricate import Drawing, save
from mddbench.data.samples import GOOD, Counts, DatasetSource, Kind, Sample, Tree
from mddbench.data.splits import Below, Collected, SplitError, read_json, read_json_lines, text_of
from mddbench.data.tree import folders

META, LINES = "meta.json", ("train.json", "test.json")
SEVERAL = 50
"""Entries of each file that tell where images lie."""
SPLITS: dict[str, Kind] = {"train": "train", "validation": "train", "test": "test"}
LAYOUT = """\
ROOT/                                  ADer
  meta.json                            {"train": {category: [entry, ...]}, "test": {...}}; paths are below ROOT
or
ROOT/                                  UniAD
  train.json, test.json                an entry a line; paths are below ROOT or a folder in it
"""


def read(root: Path, _: int) -> Tree:
    """What the files below `root` name."""
    meta, lines = root / META, [root / name for name in LINES]
    sources = [meta] if meta.exists() else lines
    if not all(file.exists() for file in sources):
        return Tree(root, (), (f"expected {META} of ADer, or {' and '.join(LINES)} of UniAD, in {root}; found none",))
    all_found = [_ader(root, meta)] if sources == [meta] else _uniad(root, lines)
    samples = [sample for found in all_found for sample in found.samples]
    ordered = sorted(samples, key=lambda sample: (sample.category, sample.split != "train"))
    faults = [line for found in all_found for line in found.faults]
    return Tree(root, tuple(ordered), tuple(faults), sources=tuple(sources))


def _ader(root: Path, file: Path) -> Collected:
    found, below = Collected(file), Below(root)
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
                found.add(entries, partial(_ader_sample, below, category, SPLITS[name]))
    except SplitError as fault:
        found.fail(fault)
    return found


def _ader_sample(below: Below, category: str, split: Kind, entry: Any) -> Sample:
    defect = _defect(entry, "anomaly", "specie_name")
    return below.sample(text_of(entry, "img_path"), category, split, defect, _mask(entry.get("mask_path")))


def _uniad(root: Path, files: list[Path]) -> list[Collected]:
    """Images lie below the root, or below the folder in it that has most of them."""
    all_found, candidates = [], [Below(folder) for folder in (root, *folders(root))]
    entries: dict[Path, list[Any]] = {}
    for file in files:
        all_found.append(Collected(file))
        entries[file] = list(all_found[-1].each(read_json_lines(file, root)))
    few = [entry["filename"] for each in entries.values() for entry in each[:SEVERAL] if _names_a_file(entry)]
    below = max(candidates, key=lambda candidate: sum(candidate.holds(name) for name in few))
    for file, found in zip(files, all_found, strict=True):
        found.add(entries[file], partial(_uniad_sample, below, SPLITS[file.stem]))
    return all_found


def _uniad_sample(below: Below, split: Kind, entry: Any) -> Sample:
    defect = _defect(entry, "label", "label_name")
    name, category = text_of(entry, "filename"), text_of(entry, "clsname")
    return below.sample(name, category, split, defect, _mask(entry.get("maskname")))


def _names_a_file(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("filename"), str)


def _defect(entry: Any, key: str, name: str) -> str:
    """The kind of defect, by the label; what a normal image's kind is called does not count."""
    label = entry.get(key) if isinstance(entry, dict) else None
    if label not in (0, 1):
        raise SplitError(f"an entry's '{key}' is neither 0 nor 1: {json.dumps(entry)[:100]}")
    kind = entry.get(name)
    return (kind if isinstance(kind, str) and kind not in ("", GOOD) else "defective") if label else GOOD


def _mask(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise SplitError(f"a mask is not named by a text: {json.dumps(value)[:100]}")
    return value or ""


def fabricate(root: Path, counts: Counts) -> None:
    """ADer's file: doubled slashes, a validation split, and a stray mask that shifts the others where position pairs them."""
    meta: dict[str, dict[str, list[dict[str, Any]]]] = {"train": {}, "validation": {}, "test": {}}
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        drawing = Drawing(index, (56, 40))
        for number in range(train + good + defective):
            bad = number >= train + good
            image, mask = f"{category}//images/{number:04d}.png", f"{category}//masks/{number:04d}_m.png"
            pixels, drawn = drawing.image(number, defective=bad)
            save(pixels, root / image)
            if bad:
                save(drawn, root / mask)
            entry = {"img_path": image, "mask_path": mask if bad else "", "cls_name": category, "anomaly": int(bad)}
            part = "validation" if number < train // 5 else "train" if number < train else "test"
            meta[part].setdefault(category, []).append({**entry, "specie_name": "dent" if bad else "good"})
        save(drawing.image(0, defective=True)[1], root / category / "masks" / "0000_stray.png")
    (root / META).write_text(json.dumps(meta))


DATASET = DatasetSource(
    description="what a meta.json of ADer, or UniAD's JSON lines, name",
    read=read,
    layout=LAYOUT,
    fabricate=fabricate,
)
