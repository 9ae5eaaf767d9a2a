"""A second reading of each dataset's layout, as short and plain as can be, to compare the readers with.

Each function returns, for every image below a root: (split, whether it is defective, how many pixels its defect has).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Told = dict[str, tuple[str, bool, int]]


def pixels(*masks: Path, above: int = 0) -> int:
    arrays = [np.array(Image.open(mask)) > above for mask in masks]
    return int(np.logical_or.reduce(arrays).sum())


def mvtec_like(root: Path, good: str, mask_of: Callable[[Path], Path]) -> Told:
    told: Told = {}
    for image in sorted(root.glob("*/*/*/*.*")):
        category, part, kind = image.relative_to(root).parts[:3]
        if part in ("train", "test"):
            bad = kind != good
            truth = root / category / "ground_truth" / kind / image.name
            told[image.relative_to(root).as_posix()] = (part, bad, pixels(mask_of(truth)) if bad else 0)
    return told


def mvtec(root: Path) -> Told:
    return mvtec_like(root, "good", lambda path: path.with_name(f"{path.stem}_mask.png"))


def uni_medical(root: Path) -> Told:
    return mvtec_like(root, "good", lambda path: path)


def btad(root: Path) -> Told:
    inner = root / "BTech_Dataset_transformed"
    return mvtec_like(inner, "ok", lambda path: next(path.parent.glob(f"{path.stem}.*")))


def mvtec_loco(root: Path) -> Told:
    told: Told = {}
    for image in root.glob("*/*/*/*.png"):
        category, part, kind = image.relative_to(root).parts[:3]
        if part == "ground_truth":
            continue
        masks = (root / category / "ground_truth" / kind / image.stem).glob("*.png") if kind != "good" else ()
        area = pixels(*masks) if kind != "good" else 0
        told[image.relative_to(root).as_posix()] = ("test" if part == "test" else "train", kind != "good", area)
    return told


def robustad(root: Path) -> Told:
    told: Told = {}
    for listing in root.glob("*/*/metadata.jsonl"):
        split = "train" if listing.parent.name.endswith("_train") else "test"
        for line in listing.read_text().splitlines():
            entry = json.loads(line)
            if split == "test" or not entry["label"]:
                area = pixels(listing.parent / entry["mask"]) if entry["label"] else 0
                name = (listing.parent / entry["file_name"]).relative_to(root).as_posix()
                told[name] = (split, bool(entry["label"]), area)
    return told


def mvtec_ad2(root: Path) -> Told:
    told: Told = {}
    for image in sorted(root.glob("*/*/*/*.png")):
        category, part, kind = image.relative_to(root).parts[:3]
        split = "test" if part == "test_public" else "train"
        mask = root / category / "test_public" / "ground_truth" / kind / f"{image.stem}_mask.png"
        told[image.relative_to(root).as_posix()] = (split, kind == "bad", pixels(mask) if kind == "bad" else 0)
    return told


def visa(root: Path) -> Told:
    with (root / "split_csv" / "1cls.csv").open() as file:
        return {
            row["image"]: (row["split"], row["label"] == "anomaly", pixels(root / row["mask"]) if row["mask"] else 0)
            for row in csv.DictReader(file)
        }


def real_iad(root: Path) -> Told:
    told: Told = {}
    for file in (root / "realiad_jsons" / "realiad_jsons").glob("*.json"):
        content = json.loads(file.read_text())
        for split in ("train", "test"):
            for entry in content[split]:
                place = f"realiad_256/{content['meta']['prefix']}"
                defective = entry["mask_path"] is not None and entry["anomaly_class"] != "OK"
                area = pixels(root / (place + entry["mask_path"]), above=127) if defective else 0
                told[place + entry["image_path"]] = (split, defective, area)
    return told


def meta(root: Path) -> Told:
    content = json.loads((root / "meta.json").read_text())
    return {
        entry["img_path"].replace("//", "/"): (
            "test" if split == "test" else "train",
            entry["anomaly"] == 1,
            pixels(root / entry["mask_path"]) if entry["mask_path"] else 0,
        )
        for split, categories in content.items()
        for entries in categories.values()
        for entry in entries
    }


def folder(root: Path) -> Told:
    told: Told = {}
    for image in root.rglob("*.png"):
        category, part, *kind = image.relative_to(root).parts
        if part == "ground_truth":
            continue
        bad = kind[0] not in ("good", "OK")
        truth = (root / category / "ground_truth").joinpath(*kind)
        mask = truth if truth.exists() else truth.with_name(f"{truth.stem}_mask.png")
        told[image.relative_to(root).as_posix()] = (part, bad, pixels(mask) if bad else 0)
    return told


def elpv(root: Path) -> Told:
    sizes = [60] * 20 + [54] + [60] * 9 + [50] + [60] * 5 + [72] + [60] * 3 + [48] + [60] * 3
    types = "m ppppp mmm pppppp mmmmm m mmmmmm ppp p ppppp m ppp m ppp".replace(" ", "")
    sides: list[str] = []  # of each cell
    for place, (size, letter) in enumerate(zip(sizes, types, strict=True)):
        sides += [("train", "test")[types[:place].count(letter) % 2]] * size
    told: Told = {}
    for line in (root / "labels.csv").read_text().splitlines():
        image, probability, _ = line.split()
        side = sides[int(image[-8:-4]) - 1]
        if float(probability) == 0 or (side == "test" and float(probability) > 0.5):
            told[image] = (side, float(probability) > 0, 0)
    return told


READERS: dict[str, Callable[[Path], Told]] = {
    "btad": btad,
    "elpv": elpv,
    "folder": folder,
    "meta": meta,
    "mpdd": mvtec,
    "mvtec": mvtec,
    "mvtec_loco": mvtec_loco,
    "mvtec_ad2": mvtec_ad2,
    "robustad": robustad,
    "real_iad": real_iad,
    "uni_medical": uni_medical,
    "visa": visa,
}
