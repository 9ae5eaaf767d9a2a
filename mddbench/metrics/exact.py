"""The exact engine: every pixel's score is kept (or looked at where it lies), and only the anomalous ones are sorted."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.device import count_on_device, is_tensor, selected
from mddbench.metrics.keys import keys_of, scores_of
from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.ranking import count_pixels
from mddbench.metrics.regions import find_regions
from mddbench.metrics.steps import Steps, area_under_pro, auroc, average_precision, f1_max

MOST_PIXELS = 2**32 - 1
"""Counters of pixels have 32 bits."""


@dataclass
class ExactPixels:
    """Pixels of one category, added batch by batch; two of these merge. No value depends on the order of either, to the last
    bit.

    It holds each pixel's score as it came (2, 4 or 8 bytes), where it came (a torch tensor stays on its device), and 8 bytes
    more of each anomalous one (12 of float64). Counting takes on top: 24 MiB for each thread and some 90 bytes for each
    anomalous pixel; of float64 maps some 40 MiB and 200 bytes.
    scores, anomalous, areas: one entry a batch; sizes, hits, regions: for each image of a batch its pixels, anomalous pixels,
    regions.
    """

    scores: list[Any] = field(default_factory=list)
    anomalous: list[NDArray[np.floating]] = field(default_factory=list)
    areas: list[NDArray[np.uint32]] = field(default_factory=list)
    sizes: list[NDArray[np.int64]] = field(default_factory=list)
    hits: list[NDArray[np.int64]] = field(default_factory=list)
    regions: list[NDArray[np.int64]] = field(default_factory=list)
    _ranked: tuple[NDArray[np.floating], Steps] | None = None

    def add(self, maps: Any, masks: NDArray[np.bool_], *, copy: bool = True) -> None:
        """Add images. maps: (N, H, W) floats without NaN, an array or a tensor; masks: (N, H, W).

        copy: whether the scores are copied; if not, the maps must stay as they are until nothing more is asked.
        Raises ValueError if float64 meets narrower scores, or if there are too many pixels.
        """
        anomalous = selected(maps, masks) if is_tensor(maps) else maps[masks]
        anomalous = anomalous if anomalous.dtype == np.float64 else anomalous.astype(np.float32, copy=False)
        self._check(anomalous.dtype, masks.size)
        flat = maps.reshape(-1)
        if copy:
            flat = flat.clone() if is_tensor(flat) else flat.copy()
        regions = find_regions(masks)
        sizes = np.full(len(masks), masks[0].size, dtype=np.int64)
        batch = (flat, anomalous, regions.areas, sizes, regions.pixels, regions.found)
        for collected, part in zip(self._lists(), batch, strict=True):
            collected.append(part)
        self._ranked = None

    def merge(self, other: ExactPixels) -> None:
        """Add all pixels of another one. Raises ValueError as `add` does."""
        if other.anomalous:
            self._check(other.anomalous[0].dtype, other.pixels)
        for mine, theirs in zip(self._lists(), other._lists(), strict=True):
            mine.extend(theirs)
        self._ranked = None

    @property
    def pixels(self) -> int:
        return sum(int(part.sum()) for part in self.sizes)

    def values(self) -> dict[str, float]:
        """The pixel metrics, NaN where not defined."""
        _, steps = self.ranked()
        found = (auroc(steps), average_precision(steps), f1_max(steps), area_under_pro(steps))
        return dict(zip(PIXEL_LEVEL, found, strict=True))

    def ranked(self) -> tuple[NDArray[np.floating], Steps]:
        """The distinct scores of anomalous pixels, highest first, and the steps that they make.

        All pixels are counted, and the anomalous ones, which are known, taken off.
        """
        if self._ranked is None:
            thresholds, hits, overlap = self._thresholds()
            above, at_least = self._counted(thresholds) if len(thresholds) else (hits, hits)
            found = hits.cumsum()
            regions = sum(int(part.sum()) for part in self.regions)
            steps = Steps(
                hits=hits,
                above=np.subtract(above, found - hits),
                at_least=np.subtract(at_least, found),
                negatives=self.pixels - int(hits.sum()),
                overlap=overlap / max(regions, 1),
            )
            self._ranked = thresholds, steps
        return self._ranked

    def steps(self) -> Steps:
        """What all pixels count."""
        return self.ranked()[1]

    def by_image(self) -> list[tuple[Any, NDArray[np.floating], NDArray[np.uint32]]]:
        """For each image the scores of its pixels, and the scores and region areas of its anomalous ones, as views."""
        images = []
        for batch, (sizes, hits) in enumerate(zip(self.sizes, self.hits, strict=True)):
            first, first_hit = np.append(0, sizes.cumsum()), np.append(0, hits.cumsum())
            for image in range(len(sizes)):
                marked = slice(first_hit[image], first_hit[image + 1])
                whole = self.scores[batch][int(first[image]) : int(first[image + 1])]
                images.append((whole, self.anomalous[batch][marked], self.areas[batch][marked]))
        return images

    def _thresholds(self) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.float64]]:
        """The distinct scores of anomalous pixels, highest first, with the number of pixels and the summed 1 / area at each.

        Pixels are ordered by score and then by area, so that sums over them have the same bits in whatever order they came.
        """
        scores = np.concatenate(self.anomalous) if self.anomalous else np.empty(0, dtype=np.float32)
        areas = np.concatenate(self.areas) if self.areas else np.empty(0, dtype=np.uint32)
        if not len(scores):
            return scores, np.empty(0, dtype=np.int64), np.empty(0)
        distinct: NDArray[np.floating]
        if scores.dtype == np.float32:
            packed = keys_of(scores).astype(np.uint64)
            packed <<= np.uint64(32)
            packed |= areas
            packed.sort()
            ordered, areas = packed.view(np.uint32).reshape(-1, 2).T[:: -1 if sys.byteorder == "little" else 1]
            first = _first_of_equals(ordered)
            distinct = scores_of(ordered[first])
        else:
            order = np.lexsort((areas, scores))
            scores, areas = scores[order], areas[order]
            first = _first_of_equals(scores)
            distinct = scores[first]
        hits = np.diff(np.append(first, len(areas)))
        return distinct[::-1], hits[::-1], np.add.reduceat(1.0 / areas, first)[::-1]

    def _counted(self, thresholds: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rising = np.ascontiguousarray(thresholds[::-1])
        above, at_least = count_pixels([part for part in self.scores if not is_tensor(part)], rising)
        there = [part for part in self.scores if is_tensor(part)]
        if there:
            more_above, more = count_on_device(there, rising)
            above, at_least = above + more_above, at_least + more
        return above[::-1], at_least[::-1]

    def _lists(self) -> tuple[list[Any], ...]:
        return self.scores, self.anomalous, self.areas, self.sizes, self.hits, self.regions

    def _check(self, kind: np.dtype[Any], pixels: int) -> None:
        if self.anomalous and self.anomalous[0].dtype != kind:
            raise ValueError(
                f"maps of {kind} cannot be added to maps of {self.anomalous[0].dtype}; convert one of them"
            )
        if self.pixels + pixels > MOST_PIXELS:
            raise ValueError(f"more than {MOST_PIXELS} pixels in one category; use the histogram engine")


def _first_of_equals(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Where each run of equal values begins. ordered: (n,), n > 0."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
