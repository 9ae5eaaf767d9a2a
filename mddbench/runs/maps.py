"""Keeps anomaly maps on disk in half precision, so that metrics can be computed again without a model or images."""

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
from mddbench.sizes import ImageSize, height_and_width

MAPS = "maps"
"""Name of the folder of maps in a cell's folder."""
INDEX = "index.json"
HEADROOM = 2.0**-10
"""Greatest share of the range of half precision that the first maps of a category use.

So later maps may have scores farther from the offset. At the offset, stored scores have a resolution of 2^-29 or finer.
That is a share of the greatest distance of the first scores from the offset.
"""
PERCENTILE = 98
"""Percentile of the scores that is the offset. The thresholds that metrics depend on are close to it."""
AGAIN = "remove the folder and run the cell with --keep-maps again"


@dataclass(frozen=True)
class KeptCategory:
    """The kept maps of a category.

    Attributes:
        category: Name of the category.
        maps: (N, H, W) float16 as they are stored: (map - offset) * 2^k.
        masks: (N, H, W) bool, True on defects; None if the dataset has no masks.
    """

    category: str
    maps: NDArray[np.float16]
    masks: NDArray[np.bool_] | None


class MapKeeper:
    """Writes the maps of an evaluation to a folder.

    When all maps are written, they replace the old content of the folder.
    There is one array for each category: (maps - offset) * 2^k in half precision, which is finest at the offset.
    The offset is a high percentile of the first maps that are not one constant.
    Scores keep their order. But scores may become equal if they differ by less than a thousandth of their distance
    from the offset. Infinite scores stay infinite.
    Masks are stored as packed bits. A pixel takes 2 1/8 bytes.

    Attributes:
        folder: The folder.
        partial: Folder in which the maps are written first.
        entries: For each category its name, offset and scale (None until they are known), and whether it has masks.
        maps: (N, H, W) float16, the stored maps of the current category.
        constant: Indices of the images whose maps came while all scores of the category were one constant.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with no category.

        Args:
            folder: The folder of maps, which need not exist.
        """
        self.folder, self.partial = folder, folder.with_name(f"{folder.name}.part")
        self.entries: list[dict[str, Any]] = []
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)

    def begin(self, category: str, images: int, size: ImageSize, masks: NDArray[np.bool_] | None) -> None:
        """Begin the next category.

        Args:
            category: Name of the category.
            images: Number N of its images.
            size: The size of the maps.
            masks: (N, H, W), True on defects; None if the dataset has no masks.
        """
        file = self._file(len(self.entries))
        self.maps = np.lib.format.open_memmap(
            file, mode="w+", dtype=np.float16, shape=(images, *height_and_width(size))
        )
        if masks is not None:
            np.save(file.with_suffix(".masks.npy"), np.packbits(np.asarray(masks).reshape(images, -1), axis=1))
        self.entries.append({"category": category, "offset": None, "scale": None, "masks": masks is not None})
        self.constant: list[slice] = []

    def keep(self, indices: slice, maps: NDArray[np.float32]) -> None:
        """Store the maps of some images of the category.

        Args:
            indices: Indices of the B images within the category.
            maps: (B, H, W) anomaly maps.

        Raises:
            CellError: If half precision cannot hold the maps.
        """
        entry = self.entries[-1]
        finite = maps[np.isfinite(maps)].astype(np.float64)
        if finite.size and entry["scale"] is None:
            self._choose(entry, finite)
        offset = entry["offset"] or 0.0
        reach = float(np.abs(finite - offset).max(initial=0.0))
        if entry["scale"] is None:
            self.constant.append(indices)
        elif reach * entry["scale"] > LARGEST:
            raise CellError(
                f"keeping maps of {entry['category']}: a score is {reach:.3g} away from {offset:.3g}, more than "
                f"{1 / HEADROOM:.0f} times as far as the first ones, which half precision cannot hold; "
                "run without --keep-maps"
            )
        self.maps[indices] = to_half(maps, offset, entry["scale"] or 1.0)

    def finish(self) -> None:
        """Write the index of the maps, and move them to their folder."""
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
        """Choose offset and scale from finite scores and from the constant of the earlier maps.

        If all scores are one constant, only the offset is set. Such maps are stored as zeros and infinities.
        They get their final values as soon as there is a scale.
        """
        constant = float(finite[0]) if entry["offset"] is None else entry["offset"]
        low, high = min(constant, float(finite.min())), max(constant, float(finite.max()))
        if low == high:
            entry["offset"] = low
            return
        offset = float(np.percentile(finite, PERCENTILE, method="lower"))
        entry["offset"], entry["scale"] = offset, finest_scale(max(high - offset, offset - low), HEADROOM)
        for indices in self.constant:
            self.maps[indices] += np.float16((constant - offset) * entry["scale"])

    def _file(self, number: int) -> Path:
        return self.partial / f"{number:03d}.npy"


def kept_categories(folder: Path) -> list[str]:
    """Read the names of the categories whose maps a folder holds.

    An InputError is raised if the index of the maps is broken.

    Args:
        folder: The folder of maps.

    Returns:
        The names, in the order in which the maps were kept.
    """
    with refusing(folder, "kept maps", AGAIN):
        return [entry["category"] for entry in _entries(folder)]


def kept_maps(folder: Path) -> Iterator[KeptCategory]:
    """Return the maps in a folder, one category after another, as memory-mapped arrays.

    An InputError is raised if a file is broken.

    Args:
        folder: The folder of maps.

    Yields:
        The maps of each category.
    """
    with refusing(folder, "kept maps", AGAIN):
        entries = _entries(folder)
    for number, entry in enumerate(entries):
        with refusing(folder, "kept maps", AGAIN):
            maps_of_category = _category(folder / f"{number:03d}.npy", entry)
        yield maps_of_category


def _category(file: Path, entry: dict[str, Any]) -> KeptCategory:
    """Read the maps of a category. Raise ValueError unless they have the form that MapKeeper writes."""
    maps = mapped(file)
    demand(file.name, maps, "f", (None, None, None))
    if maps.dtype != np.float16 or not maps.size:
        raise ValueError(f"{file.name} is {maps.dtype} of shape {maps.shape}")
    masks = None
    if entry["masks"]:
        mask_file = file.with_suffix(".masks.npy")
        packed, pixels = mapped(mask_file), maps[0].size
        demand(mask_file.name, packed, "u", (len(maps), -(-pixels // 8)))
        masks = np.unpackbits(packed, axis=1)[:, :pixels].reshape(maps.shape).astype(bool)
    return KeptCategory(entry["category"], maps, masks)


def _entries(folder: Path) -> list[dict[str, Any]]:
    """Read the index of the maps. Raise ValueError or LookupError if it is broken."""
    content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{INDEX} is not of this version")
    entries: list[dict[str, Any]] = content["categories"]
    for entry in entries:
        numbers = entry["offset"], entry["scale"]
        valid = type(entry["category"]) is str and type(entry["masks"]) is bool
        if not valid or not all(type(value) is float and math.isfinite(value) for value in numbers) or numbers[1] <= 0:
            raise ValueError(f"{INDEX} has an entry {str(entry)[:80]}")
    return entries
