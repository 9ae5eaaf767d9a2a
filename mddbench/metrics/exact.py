"""The exact engine: it keeps or views the score of every pixel, and sorts only those of anomalous pixels."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.device import count_on_device, is_tensor, masked_scores
from mddbench.metrics.keys import keys_of, scores_of
from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.ranking import count_pixels
from mddbench.metrics.regions import find_regions
from mddbench.metrics.steps import Steps, area_under_pro, auroc, average_precision, f1_max

MOST_PIXELS = 2**32 - 1
"""Largest number of pixels in one category, since the counters have 32 bits."""


@dataclass
class ExactPixels:
    """Pixels of one category, added batch by batch; two of these can be merged.

    The order of batches and merges does not change any value, to the last bit.

    Each pixel's score stays in its own type (2, 4 or 8 bytes) and on its own device.
    Each anomalous pixel takes 8 bytes more (12 for float64).
    Counting needs another 24 MiB for each thread and some 90 bytes for each anomalous pixel.
    For float64 maps these are some 40 MiB and 200 bytes.

    Attributes:
        scores: For each batch, (pixels,) scores of all pixels, an array or a tensor.
        anomalous: For each batch, (anomalous pixels,) float32 or float64 scores of the anomalous pixels.
        areas: For each batch, (anomalous pixels,) uint32 area of the region of each anomalous pixel.
        sizes: For each batch, (images,) int64 number of pixels of each image.
        hits: For each batch, (images,) int64 number of anomalous pixels of each image.
        regions: For each batch, (images,) int64 number of regions of each image.
    """

    scores: list[Any] = field(default_factory=list)
    anomalous: list[NDArray[np.floating]] = field(default_factory=list)
    areas: list[NDArray[np.uint32]] = field(default_factory=list)
    sizes: list[NDArray[np.int64]] = field(default_factory=list)
    hits: list[NDArray[np.int64]] = field(default_factory=list)
    regions: list[NDArray[np.int64]] = field(default_factory=list)
    _ranked: tuple[NDArray[np.floating], Steps] | None = None

    def add(self, maps: Any, masks: NDArray[np.bool_], *, copy: bool = True) -> None:
        """Add images.

        A ValueError is raised if float64 scores meet narrower ones, or if there are too many pixels.

        Args:
            maps: (N, H, W) floats without NaN, an array or a tensor.
            masks: (N, H, W) bool, True on defects.
            copy: Whether the scores are copied. If False, the maps must not change while this object is in use.
        """
        anomalous = masked_scores(maps, masks) if is_tensor(maps) else maps[masks]
        anomalous = anomalous if anomalous.dtype == np.float64 else anomalous.astype(np.float32, copy=False)
        self._check(anomalous.dtype, masks.size)
        flat = maps.reshape(-1)
        if copy:
            flat = flat.clone() if is_tensor(flat) else flat.copy()
        regions = find_regions(masks)
        sizes = np.full(len(masks), masks[0].size, dtype=np.int64)
        batch = (flat, anomalous, regions.areas, sizes, regions.pixels, regions.counts)
        for batches, values in zip(self._lists(), batch, strict=True):
            batches.append(values)
        self._ranked = None

    def merge(self, other: ExactPixels) -> None:
        """Add all pixels of another object; a ValueError is raised as in `add`."""
        if other.anomalous:
            self._check(other.anomalous[0].dtype, other.pixels)
        for own_batches, other_batches in zip(self._lists(), other._lists(), strict=True):
            own_batches.extend(other_batches)
        self._ranked = None

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return sum(int(sizes.sum()) for sizes in self.sizes)

    def values(self) -> dict[str, float]:
        """Compute the pixel metrics.

        Returns:
            Metric key -> value in [0, 1], NaN where a metric is not defined.
        """
        _, steps = self.ranked()
        metrics = (auroc(steps), average_precision(steps), f1_max(steps), area_under_pro(steps))
        return dict(zip(PIXEL_LEVEL, metrics, strict=True))

    def ranked(self) -> tuple[NDArray[np.floating], Steps]:
        """Rank the pixels by score.

        All pixels are counted together. The anomalous ones are known and are subtracted from these counts.

        Returns:
            (T,) distinct scores of anomalous pixels, highest first, and the steps that belong to them.
        """
        if self._ranked is None:
            thresholds, hits, overlap = self._thresholds()
            above, at_least = self._count(thresholds) if len(thresholds) else (hits, hits)
            true_positives = hits.cumsum()
            regions = sum(int(counts.sum()) for counts in self.regions)
            steps = Steps(
                hits=hits,
                above=np.subtract(above, true_positives - hits),
                at_least=np.subtract(at_least, true_positives),
                negatives=self.pixels - int(hits.sum()),
                overlap=overlap / max(regions, 1),
            )
            self._ranked = thresholds, steps
        return self._ranked

    def steps(self) -> Steps:
        """Return the counts of all pixels."""
        return self.ranked()[1]

    def by_image(self) -> list[tuple[Any, NDArray[np.floating], NDArray[np.uint32]]]:
        """Split the pixels by image.

        Returns:
            For each image, as views: the scores of all its pixels, the scores of its anomalous pixels,
            and the region areas of its anomalous pixels.
        """
        images = []
        for batch, (sizes, hits) in enumerate(zip(self.sizes, self.hits, strict=True)):
            starts, hit_starts = np.append(0, sizes.cumsum()), np.append(0, hits.cumsum())
            for image in range(len(sizes)):
                of_hits = slice(hit_starts[image], hit_starts[image + 1])
                scores = self.scores[batch][int(starts[image]) : int(starts[image + 1])]
                images.append((scores, self.anomalous[batch][of_hits], self.areas[batch][of_hits]))
        return images

    def of_images(self, chosen: NDArray[np.bool_]) -> ExactPixels:
        """Select images.

        Args:
            chosen: (images,) bool, True for an image to keep, in the order in which images were added.

        Returns:
            The pixels of these images, as views.
        """
        selected = ExactPixels()
        counts = [np.concatenate(lists) for lists in (self.sizes, self.hits, self.regions)]
        for image, (scores, anomalous, areas) in enumerate(self.by_image()):
            if chosen[image]:
                of_image = (scores, anomalous, areas, *(count[image : image + 1] for count in counts))
                for batches, values in zip(selected._lists(), of_image, strict=True):
                    batches.append(values)
        return selected

    def _thresholds(self) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.float64]]:
        """Collect the distinct scores of anomalous pixels.

        Pixels are ordered by score and then by area.
        So sums over them have the same bits whatever order the pixels were added in.

        Returns:
            (T,) each, highest score first: the distinct scores, the number of anomalous pixels with each score,
            and their summed 1 / region area.
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

    def _count(self, thresholds: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the pixels above, and at or above, each threshold; the thresholds are sorted highest first."""
        ascending = np.ascontiguousarray(thresholds[::-1])
        above, at_least = count_pixels([scores for scores in self.scores if not is_tensor(scores)], ascending)
        tensors = [scores for scores in self.scores if is_tensor(scores)]
        if tensors:
            device_above, device_at_least = count_on_device(tensors, ascending)
            above, at_least = above + device_above, at_least + device_at_least
        return above[::-1], at_least[::-1]

    def _lists(self) -> tuple[list[Any], ...]:
        return self.scores, self.anomalous, self.areas, self.sizes, self.hits, self.regions

    def _check(self, dtype: np.dtype[Any], pixels: int) -> None:
        """Raise ValueError if scores of this type, or so many more pixels, cannot be added."""
        if self.anomalous and self.anomalous[0].dtype != dtype:
            raise ValueError(
                f"maps of {dtype} cannot be added to maps of {self.anomalous[0].dtype}; convert one of them"
            )
        if self.pixels + pixels > MOST_PIXELS:
            raise ValueError(f"more than {MOST_PIXELS} pixels in one category; use the histogram engine")


def _first_of_equals(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Return the start of each run of equal values in (n,) sorted values, n > 0."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
