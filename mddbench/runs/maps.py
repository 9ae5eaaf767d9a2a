"""Anomaly maps kept on disk in half precision, so that metrics can be computed again without a model or images."""

from __future__ import annotations

import json
import math
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.arrays import LARGEST, demand, finest_scale, mapped, refusing, to_half
from mddbench.errors import CellError

MAPS = "maps"
"""Their folder, in a cell's folder."""
INDEX = "index.json"
HEADROOM = 2.0**-10
"""A category's first maps reach at most this share of what half precision can hold, so that later ones may reach farther. Its
steps at the offset are then 2^-29 of that reach or less.
"""
PERCENTILE = 98
"""Where the offset lies among the scores: about there are the thresholds that metrics depend on."""
AGAIN = "remove the folder and run the cell with --keep-maps again"


@dataclass(frozen=True)
class KeptCategory:
    """A category's maps (N, S, S) float16, as they are kept: less an offset, times a power of two; masks (N, S, S) bool,
    None if the dataset has none.
    """

    category: str
    maps: NDArray[np.float16]
    masks: NDArray[np.bool_] | None


class MapKeeper:
    """Writes the maps of an evaluation below a folder, which replaces what lay there once all are written.

    One array a category: (maps - offset) * 2^k in half precision, whose steps are finest at the offset, a high percentile of
    the first maps that are not one constant. No two scores change places, but those that differ by less than a thousandth
    of their distance from the offset may become equal. Infinite scores stay infinite. Masks are packed bits. Size: 2 1/8
    bytes a pixel.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.partial = folder, folder.with_name(f"{folder.name}.part")
        self.entries: list[dict[str, Any]] = []
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)

    def begin(self, category: str, images: int, size: int, masks: NDArray[np.bool_] | None) -> None:
        """The next category. masks: (N, S, S), None if there are none."""
        place = self._file(len(self.entries))
        self.maps = np.lib.format.open_memmap(place, mode="w+", dtype=np.float16, shape=(images, size, size))
        if masks is not None:
            np.save(place.with_suffix(".masks.npy"), np.packbits(masks.reshape(images, -1), axis=1))
        self.entries.append({"category": category, "offset": None, "scale": None, "masks": masks is not None})
        self.constant: list[slice] = []

    def keep(self, part: slice, maps: NDArray[np.float32]) -> None:
        """Maps (B, S, S) of some of the category's images. Raises CellError if half precision cannot hold them."""
        entry = self.entries[-1]
        finite = maps[np.isfinite(maps)].astype(np.float64)
        if finite.size and entry["scale"] is None:
            self._choose(entry, finite)
        offset = entry["offset"] or 0.0
        reach = float(np.abs(finite - offset).max(initial=0.0))
        if entry["scale"] is None:
            self.constant.append(part)
        elif reach * entry["scale"] > LARGEST:
            raise CellError(
                f"keeping maps of {entry['category']}: a score is {reach:.3g} away from {offset:.3g}, more than "
                f"{1 / HEADROOM:.0f} times as far as the first ones, which half precision cannot hold; run without --keep-maps"
            )
        self.maps[part] = to_half(maps, offset, entry["scale"] or 1.0)

    def finish(self) -> None:
        """Put the maps in their place."""
        if self.entries:
            self.maps.flush()
        entries = [
            {**entry, "offset": entry["offset"] or 0.0, "scale": entry["scale"] or 1.0} for entry in self.entries
        ]
        content = {"token": secrets.token_hex(16), "categories": entries}
        (self.partial / INDEX).write_text(json.dumps(content), encoding="utf-8")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)

    def _choose(self, entry: dict[str, Any], finite: NDArray[np.float64]) -> None:
        """Set offset and scale by these scores, and by the constant that came before; only the offset if they are one constant.

        What was kept of the constant are zeros (and infinities), which get their place as soon as there is a scale.
        """
        before = float(finite[0]) if entry["offset"] is None else entry["offset"]
        low, high = min(before, float(finite.min())), max(before, float(finite.max()))
        if low == high:
            entry["offset"] = low
            return
        offset = float(np.percentile(finite, PERCENTILE, method="lower"))
        entry["offset"], entry["scale"] = offset, finest_scale(max(high - offset, offset - low), HEADROOM)
        for part in self.constant:
            self.maps[part] += np.float16((before - offset) * entry["scale"])

    def _file(self, number: int) -> Path:
        return self.partial / f"{number:03d}.npy"


def kept_categories(folder: Path) -> list[str]:
    """The categories whose maps are kept below a folder. Raises InputError if their list is not whole."""
    with refusing(folder, "kept maps", AGAIN):
        return [entry["category"] for entry in _entries(folder)]


def kept_maps(folder: Path) -> Iterator[KeptCategory]:
    """The maps below a folder, a category at a time, read where they lie. Raises InputError if they are not whole."""
    with refusing(folder, "kept maps", AGAIN):
        entries = _entries(folder)
    for number, entry in enumerate(entries):
        with refusing(folder, "kept maps", AGAIN):
            kept = _category(folder / f"{number:03d}.npy", entry)
        yield kept


def _category(file: Path, entry: dict[str, Any]) -> KeptCategory:
    maps = mapped(file)
    demand(file.name, maps, "f", (None, None, None))
    if maps.dtype != np.float16 or not maps.size:
        raise ValueError(f"{file.name} is {maps.dtype} of shape {maps.shape}")
    masks = None
    if entry["masks"]:
        place = file.with_suffix(".masks.npy")
        packed, pixels = mapped(place), maps[0].size
        demand(place.name, packed, "u", (len(maps), -(-pixels // 8)))
        masks = np.unpackbits(packed, axis=1)[:, :pixels].reshape(maps.shape).astype(bool)
    return KeptCategory(entry["category"], maps, masks)


def _entries(folder: Path) -> list[dict[str, Any]]:
    content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{INDEX} is not of this version")
    entries: list[dict[str, Any]] = content["categories"]
    for entry in entries:
        numbers = entry["offset"], entry["scale"]
        sound = type(entry["category"]) is str and type(entry["masks"]) is bool
        if not sound or not all(type(each) is float and math.isfinite(each) for each in numbers) or numbers[1] <= 0:
            raise ValueError(f"{INDEX} has an entry {str(entry)[:80]}")
    return entries
