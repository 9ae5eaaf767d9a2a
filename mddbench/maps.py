"""Anomaly maps kept on disk in half precision, so that metrics can be computed again without a model or images."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.errors import CellError, InputError

INDEX = "index.json"
HEADROOM = 2.0**-6
"""A category's first maps reach about this share of what half precision can hold, so that later ones may be higher."""
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class KeptCategory:
    """A category's maps (N, S, S) float16, times a power of two, and masks (N, S, S) bool, None if the dataset has none."""

    category: str
    maps: NDArray[np.float16]
    masks: NDArray[np.bool_] | None


class MapKeeper:
    """Writes the maps of an evaluation below a folder, which replaces what lay there once all are written.

    One array a category, times a power of two, which changes the scores' order as little as half precision can; masks as
    packed bits. Size: 2 1/8 bytes a pixel.
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
        self.entries.append({"category": category, "scale": 0.0, "masks": masks is not None})

    def keep(self, part: slice, maps: NDArray[np.float32]) -> None:
        """Maps (B, S, S) of some of the category's images. Raises CellError if half precision cannot hold them."""
        entry = self.entries[-1]
        highest = float(np.abs(maps, where=np.isfinite(maps), out=np.zeros_like(maps)).max())
        if not entry["scale"]:
            entry["scale"] = 2.0 ** math.floor(math.log2(LARGEST * HEADROOM / highest)) if highest else 1.0
        if highest * entry["scale"] > LARGEST:
            raise CellError(
                f"keeping maps of {entry['category']}: a score of {highest:.3g} is more than {1 / HEADROOM:.0f} times the "
                "first ones, which half precision cannot hold; run without --keep-maps"
            )
        self.maps[part] = maps * np.float32(entry["scale"])

    def finish(self) -> None:
        """Put the maps in their place."""
        if self.entries:
            self.maps.flush()
        (self.partial / INDEX).write_text(json.dumps(self.entries), encoding="utf-8")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)

    def _file(self, number: int) -> Path:
        return self.partial / f"{number:03d}.npy"


def kept_maps(folder: Path) -> Iterator[KeptCategory]:
    """The maps below a folder, a category at a time, read where they lie. Raises InputError if they are not whole."""
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for number, entry in enumerate(entries):
            file = folder / f"{number:03d}.npy"
            maps = np.load(file, mmap_mode="r", allow_pickle=False)
            if maps.ndim != 3 or maps.dtype != np.float16:
                raise ValueError("not maps of half precision")
            masks = None
            if entry["masks"]:
                bits = np.unpackbits(np.load(file.with_suffix(".masks.npy"), allow_pickle=False), axis=1)
                masks = bits[:, : maps[0].size].reshape(maps.shape).astype(bool)
            yield KeptCategory(str(entry["category"]), maps, masks)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as fault:
        raise InputError(
            f"{folder}: cannot be read as kept maps ({fault}); run the cell with --keep-maps again"
        ) from None
