"""The histogram engine: memory that does not grow with the number of pixels, and an interval that holds the exact value.

A bin holds the float32 scores that share their leading bits, so bins are fine where scores are small and need no range
beforehand. Bins live in pages that are made when a score first falls into them; when there are too many, neighbouring bins
are joined in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.keys import keys_of
from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.regions import find_regions
from mddbench.metrics.steps import LIMIT, Steps, area_under_pro, auroc, f1_max
from mddbench.metrics.threads import in_threads, use_kernels, workers

PAGE_BITS = 12
PAGE = 1 << PAGE_BITS
MOST_PAGES = 256
"""2^20 bins of 24 bytes: 24 MiB for each thread."""
MOST_WORKERS = 2
"""Each thread has bins of its own."""
COARSEST = 32 - PAGE_BITS - 1
HALF_PRECISION = 13
"""Low bits of a float32 that are zero if it was a float16."""
ROUNDING = 1e-12
"""Added to both ends of an interval for the arithmetic on bins; the sums within them are bounded apart."""
CHUNK = 1 << 20
SAMPLE = 1 << 14
ZERO_KEY = int(keys_of(np.zeros(1, dtype=np.float32))[0])
"""The bin of zero holds beside it only numbers below 1e-38, so its pixels are taken to tie in the estimate of AP."""


@dataclass
class Bins:
    """Counts of scores, by the leading bits of their keys.

    dropped: trailing bits left out; page: (2^(32 - PAGE_BITS - dropped),) int32 the page of each run of PAGE bins, -1 for none;
    pixels, hits: (pages, PAGE) int64 all pixels and the anomalous ones; overlap: (pages, PAGE) summed 1 / area.
    """

    dropped: int = 0
    used: int = 0
    page: NDArray[np.int32] = field(default_factory=lambda: np.full(1 << (32 - PAGE_BITS), -1, dtype=np.int32))
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE), dtype=np.int64))
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE), dtype=np.int64))
    overlap: NDArray[np.float64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE)))

    def add(self, scores: NDArray[np.float32], anomalous: NDArray[np.float32], areas: NDArray[np.uint32]) -> None:
        """Count scores (n,), of which the anomalous ones are given again with the areas of their regions."""
        if not self.used:
            self._foresee(keys_of(scores[:: max(len(scores) // SAMPLE, 1)]))
        self._count(scores)
        for start in range(0, len(anomalous), CHUNK):
            part = slice(start, start + CHUNK)
            bins = self._bins(keys_of(anomalous[part]))
            flat = self.used * PAGE
            self.hits.reshape(-1)[:flat] += np.bincount(bins, minlength=flat)
            self.overlap.reshape(-1)[:flat] += np.bincount(bins, weights=1.0 / areas[part], minlength=flat)

    def merge(self, other: Bins) -> None:
        """Add the counts of another one, which is used up; the coarser of the two decides."""
        while True:
            while other.dropped < self.dropped:
                other._coarsen()
            while self.dropped < other.dropped:
                self._coarsen()
            runs = np.flatnonzero(other.page >= 0)
            if self._make_pages(runs):
                break
        to, since = self.page[runs], other.page[runs]
        self.pixels[to] += other.pixels[since]
        self.hits[to] += other.hits[since]
        self.overlap[to] += other.overlap[since]

    def falling(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """pixels, hits and overlap of the bins that hold pixels, highest scores first, and which of them is that of zero."""
        runs = np.flatnonzero(self.page >= 0)[::-1]
        rows = self.page[runs]
        bins = runs[:, None] * PAGE + np.arange(PAGE)[::-1]
        pixels = self.pixels[rows, ::-1]
        filled = pixels > 0
        zero = bins[filled] == ZERO_KEY >> self.dropped
        return pixels[filled], self.hits[rows, ::-1][filled], self.overlap[rows, ::-1][filled], zero

    def _foresee(self, keys: NDArray[np.uint32]) -> None:
        """Begin as coarse as some of the keys ask for, with room for twice as many pages."""
        while 2 * len(np.unique(keys >> np.uint32(self.dropped + PAGE_BITS))) > MOST_PAGES and self.dropped < COARSEST:
            self._coarsen()

    def _count(self, scores: NDArray[np.float32]) -> None:
        if use_kernels(len(scores)):
            from mddbench.metrics.kernels import count_bins

            bits, done = scores.view(np.uint32), 0
            while True:
                done, self.used = count_bins(bits, done, self.dropped, PAGE_BITS, self.page, self.used, self.pixels)
                if done == len(bits):
                    return
                self._coarsen()
        for start in range(0, len(scores), CHUNK):
            bins = self._bins(keys_of(scores[start : start + CHUNK]))
            self.pixels.reshape(-1)[: self.used * PAGE] += np.bincount(bins, minlength=self.used * PAGE)

    def _bins(self, keys: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Where keys are counted, in the flat arrays; pages are made as needed."""
        while not self._make_pages(np.unique(keys >> np.uint32(self.dropped + PAGE_BITS))):
            pass
        bins = (keys >> np.uint32(self.dropped)).astype(np.int64)
        places: NDArray[np.int64] = self.page[bins >> PAGE_BITS].astype(np.int64) * PAGE + (bins & (PAGE - 1))
        return places

    def _make_pages(self, runs: NDArray[np.integer]) -> bool:
        """Give each run of bins a page; if there are not enough, coarsen and return False."""
        missing = runs[self.page[runs] < 0]
        if self.used + len(missing) > MOST_PAGES:
            self._coarsen()
            return False
        self.page[missing] = np.arange(self.used, self.used + len(missing))
        self.used += len(missing)
        return True

    def _coarsen(self) -> None:
        """Join neighbouring bins in pairs, so that half as many pages are needed."""
        runs = np.flatnonzero(self.page >= 0)
        joined, page = np.unique(runs >> 1, return_inverse=True)
        counts: NDArray[Any]
        for counts in (self.pixels, self.hits, self.overlap):
            pairs = counts[self.page[runs]]
            counts[: self.used] = 0
            counts.reshape(MOST_PAGES, 2, PAGE // 2)[page, runs & 1] = pairs[:, ::2] + pairs[:, 1::2]
        self.dropped, self.used = self.dropped + 1, len(joined)
        self.page = np.full(len(self.page) // 2, -1, dtype=np.int32)
        self.page[joined] = np.arange(len(joined))


@dataclass
class HistogramPixels:
    """Pixels of one category in bounded memory, added batch by batch; two of these merge.

    Memory: 24 MiB of bins for each of two threads, and little beside the batch that is being added. Each value comes with an
    interval that holds the exact one, because the pixels of a bin can only be ordered in between the best way (all anomalous
    ones above all normal ones) and the worst. With n, p and w the normal pixels, anomalous pixels and region overlap of a
    bin, N, P and 1 their sums: |error of AUROC| <= sum n p / (2 N P) and |error of AUPRO| <= sum n w / (2 N limit). For AP,
    the b hits of a bin after a others have precisions between (a + i) / (a + i + normals down to the bin's end) and (a + b) /
    (a + b + normals above the bin), i = 1 .. b; F1 lies between its value at the bin's end and the one with the normals above
    the bin. Maps that are all float16 fall into bins of their own, and all values are exact.
    """

    parts: list[Bins] = field(default_factory=lambda: [Bins()])
    regions: int = 0
    halves: bool = True

    def add(self, maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> None:
        """Add images. maps: (N, H, W) floats without NaN, float64 ones rounded to float32; masks: (N, H, W). None is kept."""
        regions = find_regions(masks)
        self.regions, self.halves = self.regions + int(regions.found.sum()), self.halves and maps.dtype == np.float16
        self.parts += [Bins() for _ in range(_workers() - len(self.parts))]
        slices = [
            slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(len(maps)), _workers()) if len(part)
        ]
        ends = np.cumsum([0, *(int(regions.pixels[images].sum()) for images in slices)])

        def counted(number: int) -> None:
            with np.errstate(over="ignore"):  # beyond the range of float32 is infinite, and still in order
                scores = maps[slices[number]].astype(np.float32, copy=False)
            anomalous = scores[masks[slices[number]]]
            self.parts[number].add(scores.reshape(-1), anomalous, regions.areas[ends[number] : ends[number + 1]])

        in_threads(counted, range(len(slices)))

    def merge(self, other: HistogramPixels) -> None:
        """Add all pixels of another one, which is used up."""
        self.regions, self.halves = self.regions + other.regions, self.halves and other.halves
        for part in other.parts:
            self.parts[0].merge(part)
        other.parts, other.regions = [Bins()], 0

    def values(self) -> dict[str, float]:
        """The pixel metrics; AP is estimated as `mixed_average_precision` has it."""
        steps, tied = self._steps()
        if self._exact:
            tied = np.ones(len(steps.hits), dtype=np.bool_)
        found = (auroc(steps), mixed_average_precision(steps, tied), f1_max(steps), area_under_pro(steps))
        return dict(zip(PIXEL_LEVEL, found, strict=True))

    def bounds(self) -> dict[str, tuple[float, float]]:
        """For each pixel metric an interval that certainly holds the exact value; NaN where it is not defined."""
        steps, _ = self._steps()
        if not self._exact:
            return intervals(steps)
        slack = _slack(steps)
        return {key: (value - slack[key], value + slack[key]) for key, value in self.values().items()}

    def steps(self) -> Steps:
        """What all pixels count, as if all scores of a bin were one score."""
        return self._steps()[0]

    def _steps(self) -> tuple[Steps, NDArray[np.bool_]]:
        """The steps as if all scores of a bin were one score, and for which of them they are."""
        for part in self.parts[1:]:
            self.parts[0].merge(part)
        del self.parts[1:]
        pixels, hits, overlap, zero = self.parts[0].falling()
        at_least = np.cumsum(pixels - hits)
        found = hits > 0
        steps = Steps(
            hits=hits[found],
            above=(at_least - (pixels - hits))[found],
            at_least=at_least[found],
            negatives=int(at_least[-1]) if len(at_least) else 0,
            overlap=overlap[found] / max(self.regions, 1),
        )
        return steps, zero[found]

    @property
    def _exact(self) -> bool:
        return self.halves and self.parts[0].dropped <= HALF_PRECISION


def mixed_average_precision(steps: Steps, tied: NDArray[np.bool_]) -> float:
    """Average precision if the normal pixels of each bin lie evenly among its anomalous ones; NaN unless both kinds exist.

    With a hits before the bin, b in it, A pixels before it and s = 1 + normals of the bin / (b + 1), the sum over hits i = 1
    .. b of (a + i) / (A + s i) is taken as the integral from 1/2 to b + 1/2, as the midpoint rule has it. tied: (T,) the bins
    whose pixels have one score, for which nothing is estimated.
    """
    if not steps.defined:
        return float("nan")
    found = np.cumsum(steps.hits)
    before, all_before = found - steps.hits, found - steps.hits + steps.above
    slope = 1.0 + (steps.at_least - steps.above) / (steps.hits + 1.0)
    growth = np.log1p(slope * steps.hits / (all_before + slope / 2.0))
    mixed = steps.hits / slope + (before - all_before / slope) / slope * growth
    return float(np.sum(np.where(tied, steps.hits * (found / (found + steps.at_least)), mixed)) / steps.positives)


def intervals(steps: Steps) -> dict[str, tuple[float, float]]:
    """For each pixel metric the values with the pixels of every bin in the worst and in the best order."""
    if not steps.defined:
        return dict.fromkeys(PIXEL_LEVEL, (float("nan"), float("nan")))
    positives, negatives = steps.positives, steps.negatives
    found = np.cumsum(steps.hits)
    before, normals = found - steps.hits, steps.at_least - steps.above
    off = float(np.sum(steps.hits / positives * (normals / negatives))) / 2.0
    lost = np.log1p(steps.hits / np.maximum(before + steps.at_least, 1)) * steps.at_least
    ends = {
        "p_auroc": (auroc(steps) - off, auroc(steps) + off),
        # The sum of x / (x + normals) over x = a + 1 .. a + b is at least its integral from a to a + b.
        "p_ap": (
            np.sum(steps.hits - lost) / positives,
            np.sum(steps.hits * (found / (found + steps.above))) / positives,
        ),
        "p_f1max": (f1_max(steps), np.max(2 * found / (positives + found + steps.above))),
        "aupro": tuple(
            np.sum(steps.overlap * np.maximum(LIMIT - rank / negatives, 0.0)) / LIMIT
            for rank in (steps.at_least, steps.above)
        ),
    }
    slack = _slack(steps)
    return {key: (float(low) - slack[key], float(high) + slack[key]) for key, (low, high) in ends.items()}


def _slack(steps: Steps) -> dict[str, float]:
    """How far rounding can be off: for AUPRO also that of summing the shares of as many pixels as a bin has."""
    summing = float(np.finfo(np.float64).eps * np.sum(steps.hits * steps.overlap)) / LIMIT
    return {key: ROUNDING + (summing if key == "aupro" else 0.0) for key in PIXEL_LEVEL}


def _workers() -> int:
    return min(workers(), MOST_WORKERS)
