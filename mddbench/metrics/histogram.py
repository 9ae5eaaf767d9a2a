"""The histogram engine: memory that does not grow with the number of pixels, and an interval that holds the exact value.

A bin holds the scores that share their leading bits, of 32 or, where they come as float64, of 64, so bins are fine where
scores are small and need no range beforehand. Bins live in pages that are made when a score first falls into them; when there
are too many, neighbouring bins are joined in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.intervals import intervals, mixed_average_precision, slack_of
from mddbench.metrics.keys import keys_of, wide_keys_of
from mddbench.metrics.names import PIXEL_LEVEL
from mddbench.metrics.regions import find_regions
from mddbench.metrics.steps import Steps, area_under_pro, auroc, f1_max
from mddbench.metrics.threads import in_threads, use_kernels, workers

PAGE_BITS = 12
PAGE = 1 << PAGE_BITS
MOST_PAGES = 256
"""2^20 bins of 24 bytes: 24 MiB for each thread."""
MOST_WORKERS = 2
"""Each thread has bins of its own."""
HALF_PRECISION = 13
"""Low bits of a float32 that are zero if it was a float16."""
SAMPLE = 1 << 14


@dataclass
class Bins:
    """Counts of float32 scores, by the leading bits of their keys.

    dropped: trailing bits left out; page: (2^(32 - PAGE_BITS - dropped),) int32 the page of each run of PAGE bins, -1 for none;
    pixels, hits: (pages, PAGE) int64 all pixels and the anomalous ones; overlap: (pages, PAGE) summed 1 / area.
    """

    dropped: int = 0
    used: int = 0
    page: Any = field(default_factory=lambda: np.full(1 << (32 - PAGE_BITS), -1, dtype=np.int32))
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE), dtype=np.int64))
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE), dtype=np.int64))
    overlap: NDArray[np.float64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE)))
    coarsest: ClassVar[int] = 32 - PAGE_BITS - 1
    chunk: ClassVar[int] = 1 << 20

    def add(self, scores: NDArray[Any], anomalous: NDArray[Any], areas: NDArray[np.uint32]) -> None:
        """Count scores (n,), of which the anomalous ones are given again with the areas of their regions."""
        if not self.used:
            self._foresee(self.keys(scores[:: max(len(scores) // SAMPLE, 1)]))
        self._count(scores)
        for start in range(0, len(anomalous), self.chunk):
            part = slice(start, start + self.chunk)
            bins = self._bins(self.keys(anomalous[part]))
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
            runs, since = other._pages()
            if self._make_pages(runs):
                break
        to = self._page_of(runs)
        self.pixels[to] += other.pixels[since]
        self.hits[to] += other.hits[since]
        self.overlap[to] += other.overlap[since]

    def falling(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """pixels, hits and overlap of the bins that hold pixels, highest scores first, and which of them is that of zero."""
        runs, rows = (each[::-1] for each in self._pages())
        pixels = self.pixels[rows, ::-1]
        filled = pixels > 0
        zero_run, zero_bin = divmod(int(self.keys(np.zeros(1))[0]) >> self.dropped, PAGE)
        zero = (runs == zero_run)[:, None] & (np.arange(PAGE)[::-1] == zero_bin)
        return pixels[filled], self.hits[rows, ::-1][filled], self.overlap[rows, ::-1][filled], zero[filled]

    @staticmethod
    def keys(scores: NDArray[Any]) -> NDArray[Any]:
        """Unsigned integers in the order of the scores."""
        return keys_of(scores.astype(np.float32, copy=False))

    def _foresee(self, keys: NDArray[Any]) -> None:
        """Begin as coarse as some of the keys ask for, with room for twice as many pages."""
        while 2 * len(np.unique(self._runs(keys))) > MOST_PAGES and self.dropped < self.coarsest:
            self._coarsen()

    def _count(self, scores: NDArray[Any]) -> None:
        if use_kernels(len(scores)):
            from mddbench.metrics.kernels import count_bins

            bits, done = scores.view(np.uint32), 0
            while True:
                done, self.used = count_bins(bits, done, self.dropped, PAGE_BITS, self.page, self.used, self.pixels)
                if done == len(bits):
                    return
                self._coarsen()
        self._count_plainly(scores)

    def _count_plainly(self, scores: NDArray[Any]) -> None:
        for start in range(0, len(scores), self.chunk):
            bins = self._bins(self.keys(scores[start : start + self.chunk]))
            self.pixels.reshape(-1)[: self.used * PAGE] += np.bincount(bins, minlength=self.used * PAGE)

    def _runs(self, keys: NDArray[Any]) -> NDArray[Any]:
        """The run of bins that each key falls into."""
        found: NDArray[Any] = keys >> keys.dtype.type(self.dropped + PAGE_BITS)
        return found

    def _bins(self, keys: NDArray[Any]) -> NDArray[np.int64]:
        """Where keys are counted, in the flat arrays; pages are made as needed."""
        while not self._make_pages(np.unique(self._runs(keys))):
            pass
        within = (keys >> keys.dtype.type(self.dropped)).astype(np.int64) & (PAGE - 1)
        places: NDArray[np.int64] = self._page_of(self._runs(keys)).astype(np.int64) * PAGE + within
        return places

    def _make_pages(self, runs: NDArray[Any]) -> bool:
        """Give each run of bins a page; if there are not enough, coarsen and return False."""
        missing = runs[self._page_of(runs) < 0]
        if self.used + len(missing) > MOST_PAGES:
            self._coarsen()
            return False
        self._take(missing, np.arange(self.used, self.used + len(missing)))
        self.used += len(missing)
        return True

    def _coarsen(self) -> None:
        """Join neighbouring bins in pairs, so that half as many pages are needed."""
        runs, rows = self._pages()
        joined, page = np.unique(runs >> runs.dtype.type(1), return_inverse=True)
        counts: NDArray[Any]
        for counts in (self.pixels, self.hits, self.overlap):
            pairs = counts[rows]
            counts[: self.used] = 0
            counts.reshape(MOST_PAGES, 2, PAGE // 2)[page, (runs & runs.dtype.type(1)).astype(np.int64)] = (
                pairs[:, ::2] + pairs[:, 1::2]
            )
        self.dropped, self.used = self.dropped + 1, len(joined)
        self._forget()
        self._take(joined, np.arange(len(joined)))

    def _pages(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The runs that have pages, rising, and their pages."""
        runs = np.flatnonzero(self.page >= 0)
        return runs, self.page[runs]

    def _page_of(self, runs: NDArray[Any]) -> NDArray[Any]:
        """The page of each run, -1 for none."""
        found: NDArray[Any] = self.page[runs]
        return found

    def _take(self, runs: NDArray[Any], pages: NDArray[Any]) -> None:
        self.page[runs] = pages

    def _forget(self) -> None:
        self.page = np.full(len(self.page) // 2, -1, dtype=np.int32)


@dataclass
class WideBins(Bins):
    """Counts of float64 scores. page: run -> page, as no table could hold all runs of 64-bit keys."""

    page: Any = field(default_factory=dict)
    coarsest: ClassVar[int] = 64 - PAGE_BITS - 1
    chunk: ClassVar[int] = 1 << 18

    @staticmethod
    def keys(scores: NDArray[Any]) -> NDArray[Any]:
        return wide_keys_of(scores.astype(np.float64, copy=False))

    def _count(self, scores: NDArray[Any]) -> None:
        self._count_plainly(scores)

    def _pages(self) -> tuple[NDArray[Any], NDArray[Any]]:
        runs = np.array(sorted(self.page), dtype=np.uint64)
        return runs, np.array([self.page[run] for run in runs.tolist()], dtype=np.int64)

    def _page_of(self, runs: NDArray[Any]) -> NDArray[Any]:
        distinct, places = np.unique(runs, return_inverse=True)
        return np.array([self.page.get(run, -1) for run in distinct.tolist()], dtype=np.int64)[places]

    def _take(self, runs: NDArray[Any], pages: NDArray[Any]) -> None:
        self.page.update(zip(runs.tolist(), pages.tolist(), strict=True))

    def _forget(self) -> None:
        self.page = {}


@dataclass
class HistogramPixels:
    """Pixels of one category in bounded memory, added batch by batch; two of these merge.

    Memory: 24 MiB of bins for each of two threads, and little beside the batch that is being added. Each value comes with an
    interval that holds the exact one, because the pixels of a bin can only be ordered in between the best way (all anomalous
    ones above all normal ones) and the worst. With n, p and w the normal pixels, anomalous pixels and region overlap of a
    bin, N, P and 1 their sums: |error of AUROC| <= sum n p / (2 N P) and |error of AUPRO| <= sum n w / (2 N limit). For AP,
    the b hits of a bin after a others have precisions between (a + i) / (a + i + normals down to the bin's end) and (a + b) /
    (a + b + normals above the bin), i = 1 .. b; F1 lies between its value at the bin's end and the one with the normals above
    the bin. Where each bin can hold one score only (float16 maps, a constant, a narrow range), all values are exact.

    kind: of the first maps; float64 ones have bins of their own width; rounded: whether narrower bins had to take float64 maps.
    """

    parts: list[Bins] = field(default_factory=lambda: [Bins()])
    regions: int = 0
    halves: bool = True
    kind: np.dtype[Any] | None = None
    rounded: bool = False

    def add(self, maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> None:
        """Add images. maps: (N, H, W) floats without NaN, float64 ones rounded to float32 if others came first; masks: (N, H,
        W). None is kept.
        """
        wide = maps.dtype == np.float64
        if self.kind is None:
            self.kind, self.parts = np.dtype(np.float64 if wide else np.float32), [self._fresh(wide)]
        self.rounded = self.rounded or (wide and self.kind != np.float64)
        regions = find_regions(masks)
        self.regions, self.halves = self.regions + int(regions.found.sum()), self.halves and maps.dtype == np.float16
        kind = self.kind
        self.parts += [self._fresh(kind == np.float64) for _ in range(_workers() - len(self.parts))]
        slices = [
            slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(len(maps)), _workers()) if len(part)
        ]
        ends = np.cumsum([0, *(int(regions.pixels[images].sum()) for images in slices)])

        def counted(number: int) -> None:
            with np.errstate(over="ignore"):  # beyond the range of float32 is infinite, and still in order
                scores = maps[slices[number]].astype(kind, copy=False)
            anomalous = scores[masks[slices[number]]]
            self.parts[number].add(scores.reshape(-1), anomalous, regions.areas[ends[number] : ends[number + 1]])

        in_threads(counted, range(len(slices)))

    def merge(self, other: HistogramPixels) -> None:
        """Add all pixels of another one, which is used up. Raises ValueError if float64 meets narrower scores."""
        if other.kind is None:
            return
        if self.kind is None:
            self.kind, self.parts = other.kind, [self._fresh(other.kind == np.float64)]
        if self.kind != other.kind:
            raise ValueError(f"maps of {other.kind} cannot be added to maps of {self.kind}; convert one of them")
        self.regions, self.halves = self.regions + other.regions, self.halves and other.halves
        self.rounded = self.rounded or other.rounded
        for part in other.parts:
            self.parts[0].merge(part)
        other.parts, other.regions, other.kind = [Bins()], 0, None

    @staticmethod
    def _fresh(wide: bool) -> Bins:
        return WideBins() if wide else Bins()

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
        slack = slack_of(steps)
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
        return not self.rounded and self.parts[0].dropped <= (HALF_PRECISION if self.halves else 0)


def _workers() -> int:
    return min(workers(), MOST_WORKERS)
