"""The histogram engine: its memory does not grow with the number of pixels.

It also gives each metric an interval that holds the exact value.

A bin holds the scores that share their leading bits, of 32 bits or, for float64 scores, of 64 bits.
So bins are narrow where scores are small, and the range of the scores need not be known beforehand.
Bins are stored in pages of PAGE bins. A page is created when the first score falls into its bins.
When there are too many pages, neighbouring bins are joined in pairs.
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
from mddbench.metrics.steps import LOW_LIMITS, Steps, area_under_pro, auroc, f1_max
from mddbench.metrics.threads import in_threads, use_kernels, workers

PAGE_BITS = 12
PAGE = 1 << PAGE_BITS
"""Number of bins in a page."""
MOST_PAGES = 256
"""Largest number of pages: 2^20 bins of 24 bytes, which is 24 MiB for each thread."""
MOST_WORKERS = 2
"""Largest number of threads, since each thread has its own bins."""
HALF_PRECISION = 13
"""Number of trailing bits of a float32 that are zero if it was a float16."""
SAMPLE = 1 << 14
"""Number of scores, roughly, from which the first width of the bins is chosen."""


@dataclass
class Bins:
    """Counts of float32 scores in bins, by the leading bits of their keys.

    A run is a range of PAGE bins with consecutive keys. Each run in use has one page.

    Attributes:
        dropped: Number of trailing bits of a key that are left out.
        used: Number of pages in use.
        page_of_run: (2^(32 - PAGE_BITS - dropped),) int32 page of each run, -1 for none.
        pixels: (pages, PAGE) int64 number of pixels in each bin.
        hits: (pages, PAGE) int64 number of anomalous pixels in each bin.
        overlap: (pages, PAGE) float64 sum of 1 / region area over the anomalous pixels of each bin.
        coarsest: Largest allowed value of `dropped`.
        chunk: Number of scores that are counted at a time.
    """

    dropped: int = 0
    used: int = 0
    page_of_run: Any = field(default_factory=lambda: np.full(1 << (32 - PAGE_BITS), -1, dtype=np.int32))
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE), dtype=np.int64))
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE), dtype=np.int64))
    overlap: NDArray[np.float64] = field(default_factory=lambda: np.zeros((MOST_PAGES, PAGE)))
    coarsest: ClassVar[int] = 32 - PAGE_BITS - 1
    chunk: ClassVar[int] = 1 << 20

    def add(self, scores: NDArray[Any], anomalous: NDArray[Any], areas: NDArray[np.uint32]) -> None:
        """Count scores.

        Args:
            scores: (n,) scores of all pixels, without NaN.
            anomalous: (m,) scores of the anomalous pixels among them.
            areas: (m,) area of the region of each anomalous pixel.
        """
        if not self.used:
            self._choose_width(self.keys(scores[:: max(len(scores) // SAMPLE, 1)]))
        self._count(scores)
        for start in range(0, len(anomalous), self.chunk):
            chunk = slice(start, start + self.chunk)
            bins = self._bin_indices(self.keys(anomalous[chunk]))
            flat = self.used * PAGE
            self.hits.reshape(-1)[:flat] += np.bincount(bins, minlength=flat)
            self.overlap.reshape(-1)[:flat] += np.bincount(bins, weights=1.0 / areas[chunk], minlength=flat)

    def merge(self, other: Bins) -> None:
        """Add the counts of another object, which must not be used afterwards; the wider bins of the two are kept."""
        while True:
            while other.dropped < self.dropped:
                other._coarsen()
            while self.dropped < other.dropped:
                self._coarsen()
            runs, other_pages = other._used_runs()
            if self._make_pages(runs):
                break
        pages = self._pages_of(runs)
        self.pixels[pages] += other.pixels[other_pages]
        self.hits[pages] += other.hits[other_pages]
        self.overlap[pages] += other.overlap[other_pages]

    def descending(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return the bins that hold pixels, highest scores first.

        Returns:
            (bins,) each: pixels, hits and overlap of each bin, and True for the bin that holds score 0.
        """
        runs, pages = (values[::-1] for values in self._used_runs())
        pixels = self.pixels[pages, ::-1]
        filled = pixels > 0
        zero_run, zero_bin = divmod(int(self.keys(np.zeros(1))[0]) >> self.dropped, PAGE)
        zero = (runs == zero_run)[:, None] & (np.arange(PAGE)[::-1] == zero_bin)
        return pixels[filled], self.hits[pages, ::-1][filled], self.overlap[pages, ::-1][filled], zero[filled]

    @staticmethod
    def keys(scores: NDArray[Any]) -> NDArray[Any]:
        """Return unsigned integers in the order of the scores."""
        return keys_of(scores.astype(np.float32, copy=False))

    def _choose_width(self, keys: NDArray[Any]) -> None:
        """Widen the bins until these sample keys need at most half of the pages."""
        while 2 * len(np.unique(self._runs_of(keys))) > MOST_PAGES and self.dropped < self.coarsest:
            self._coarsen()

    def _count(self, scores: NDArray[Any]) -> None:
        if use_kernels(len(scores)):
            from mddbench.metrics.kernels import count_bins

            bits, counted = scores.view(np.uint32), 0
            while True:
                counted, self.used = count_bins(
                    bits, counted, self.dropped, PAGE_BITS, self.page_of_run, self.used, self.pixels
                )
                if counted == len(bits):
                    return
                self._coarsen()
        self._count_plainly(scores)

    def _count_plainly(self, scores: NDArray[Any]) -> None:
        """Count scores with NumPy alone."""
        for start in range(0, len(scores), self.chunk):
            bins = self._bin_indices(self.keys(scores[start : start + self.chunk]))
            self.pixels.reshape(-1)[: self.used * PAGE] += np.bincount(bins, minlength=self.used * PAGE)

    def _runs_of(self, keys: NDArray[Any]) -> NDArray[Any]:
        """Return the run that each key falls into."""
        runs: NDArray[Any] = keys >> keys.dtype.type(self.dropped + PAGE_BITS)
        return runs

    def _bin_indices(self, keys: NDArray[Any]) -> NDArray[np.int64]:
        """Return the index of each key's bin in the flat arrays, creating pages as needed."""
        while not self._make_pages(np.unique(self._runs_of(keys))):
            pass
        within = (keys >> keys.dtype.type(self.dropped)).astype(np.int64) & (PAGE - 1)
        indices: NDArray[np.int64] = self._pages_of(self._runs_of(keys)).astype(np.int64) * PAGE + within
        return indices

    def _make_pages(self, runs: NDArray[Any]) -> bool:
        """Give each run a page; if there are not enough pages, widen the bins and return False."""
        missing = runs[self._pages_of(runs) < 0]
        if self.used + len(missing) > MOST_PAGES:
            self._coarsen()
            return False
        self._assign_pages(missing, np.arange(self.used, self.used + len(missing)))
        self.used += len(missing)
        return True

    def _coarsen(self) -> None:
        """Join neighbouring bins in pairs, so that half as many pages are needed."""
        runs, pages = self._used_runs()
        joined, page_of_joined = np.unique(runs >> runs.dtype.type(1), return_inverse=True)
        counts: NDArray[Any]
        for counts in (self.pixels, self.hits, self.overlap):
            pairs = counts[pages]
            counts[: self.used] = 0
            counts.reshape(MOST_PAGES, 2, PAGE // 2)[page_of_joined, (runs & runs.dtype.type(1)).astype(np.int64)] = (
                pairs[:, ::2] + pairs[:, 1::2]
            )
        self.dropped, self.used = self.dropped + 1, len(joined)
        self._clear_pages()
        self._assign_pages(joined, np.arange(len(joined)))

    def _used_runs(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the runs that have pages, in ascending order, and their pages."""
        runs = np.flatnonzero(self.page_of_run >= 0)
        return runs, self.page_of_run[runs]

    def _pages_of(self, runs: NDArray[Any]) -> NDArray[Any]:
        """Return the page of each run, -1 for none."""
        pages: NDArray[Any] = self.page_of_run[runs]
        return pages

    def _assign_pages(self, runs: NDArray[Any], pages: NDArray[Any]) -> None:
        self.page_of_run[runs] = pages

    def _clear_pages(self) -> None:
        """Take all pages from their runs, of which there are now half as many."""
        self.page_of_run = np.full(len(self.page_of_run) // 2, -1, dtype=np.int32)


@dataclass
class WideBins(Bins):
    """Counts of float64 scores in bins.

    Attributes:
        page_of_run: Run -> page. It is a dict, since no array could hold all runs of 64-bit keys.
        coarsest: Largest allowed value of `dropped`.
        chunk: Number of scores that are counted at a time.
    """

    page_of_run: Any = field(default_factory=dict)
    coarsest: ClassVar[int] = 64 - PAGE_BITS - 1
    chunk: ClassVar[int] = 1 << 18

    @staticmethod
    def keys(scores: NDArray[Any]) -> NDArray[Any]:
        """Return unsigned 64-bit integers in the order of the scores."""
        return wide_keys_of(scores.astype(np.float64, copy=False))

    def _count(self, scores: NDArray[Any]) -> None:
        self._count_plainly(scores)

    def _used_runs(self) -> tuple[NDArray[Any], NDArray[Any]]:
        runs = np.array(sorted(self.page_of_run), dtype=np.uint64)
        return runs, np.array([self.page_of_run[run] for run in runs.tolist()], dtype=np.int64)

    def _pages_of(self, runs: NDArray[Any]) -> NDArray[Any]:
        distinct, indices = np.unique(runs, return_inverse=True)
        return np.array([self.page_of_run.get(run, -1) for run in distinct.tolist()], dtype=np.int64)[indices]

    def _assign_pages(self, runs: NDArray[Any], pages: NDArray[Any]) -> None:
        self.page_of_run.update(zip(runs.tolist(), pages.tolist(), strict=True))

    def _clear_pages(self) -> None:
        self.page_of_run = {}


@dataclass
class HistogramPixels:
    """Pixels of one category in bounded memory, added batch by batch; two of these can be merged.

    The bins take 24 MiB for each of two threads. Beside the batch that is being added, little else is needed.

    Each value comes with an interval that holds the exact value.
    The pixels of a bin can only be ordered between the best and the worst way.
    In the best way, all anomalous pixels score above all normal ones.

    Let n, p and w be the normal pixels, anomalous pixels and region overlap of a bin. Their sums are N, P and 1.

    - AUROC: |error| <= sum n p / (2 N P).
    - AUPRO: |error| <= sum n w / (2 N limit).
    - AP: let a hits lie above the bin and b hits in it. The precision at hit i = 1 .. b of the bin has two bounds.
      The lower one is (a + i) / (a + i + normals down to the bin's end).
      The upper one is (a + b) / (a + b + normals above the bin).
    - F1: the lower bound is its value at the bin's end. The upper bound counts only the normals above the bin.

    All values are exact where each bin can hold one score only: float16 maps, a constant or a narrow range.

    Attributes:
        thread_bins: The bins of each thread.
        regions: Number of ground-truth regions.
        only_float16: Whether all maps so far were float16.
        dtype: Type of the bins: float64 if the first maps were float64, float32 otherwise, None before the first maps.
        rounded: Whether float64 maps were rounded to float32, because narrower maps came first.
    """

    thread_bins: list[Bins] = field(default_factory=lambda: [Bins()])
    regions: int = 0
    only_float16: bool = True
    dtype: np.dtype[Any] | None = None
    rounded: bool = False

    def add(self, maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> None:
        """Add images, of which no copy is kept.

        Args:
            maps: (N, H, W) floats without NaN. Float64 maps are rounded to float32 if narrower maps came first.
            masks: (N, H, W) bool, True on defects.
        """
        wide = maps.dtype == np.float64
        if self.dtype is None:
            self.dtype, self.thread_bins = np.dtype(np.float64 if wide else np.float32), [self._new_bins(wide)]
        self.rounded = self.rounded or (wide and self.dtype != np.float64)
        regions = find_regions(masks)
        self.regions += int(regions.counts.sum())
        self.only_float16 = self.only_float16 and maps.dtype == np.float16
        dtype = self.dtype
        self.thread_bins += [self._new_bins(dtype == np.float64) for _ in range(_workers() - len(self.thread_bins))]
        slices = [
            slice(indices[0], indices[-1] + 1)
            for indices in np.array_split(np.arange(len(maps)), _workers())
            if len(indices)
        ]
        ends = np.cumsum([0, *(int(regions.pixels[images].sum()) for images in slices)])

        def count_slice(number: int) -> None:
            with np.errstate(over="ignore"):  # a value beyond the range of float32 becomes infinite and keeps its order
                scores = maps[slices[number]].astype(dtype, copy=False)
            anomalous = scores[masks[slices[number]]]
            areas = regions.areas[ends[number] : ends[number + 1]]
            self.thread_bins[number].add(scores.reshape(-1), anomalous, areas)

        in_threads(count_slice, range(len(slices)))

    def merge(self, other: HistogramPixels) -> None:
        """Add all pixels of another object, which is then empty.

        Args:
            other: Pixels of the same category.

        Raises:
            ValueError: If one has float64 scores and the other has narrower ones.
        """
        if other.dtype is None:
            return
        if self.dtype is None:
            self.dtype, self.thread_bins = other.dtype, [self._new_bins(other.dtype == np.float64)]
        if self.dtype != other.dtype:
            raise ValueError(f"maps of {other.dtype} cannot be added to maps of {self.dtype}; convert one of them")
        self.regions, self.only_float16 = self.regions + other.regions, self.only_float16 and other.only_float16
        self.rounded = self.rounded or other.rounded
        for bins in other.thread_bins:
            self.thread_bins[0].merge(bins)
        other.thread_bins, other.regions, other.dtype = [Bins()], 0, None

    @staticmethod
    def _new_bins(wide: bool) -> Bins:
        return WideBins() if wide else Bins()

    def values(self) -> dict[str, float]:
        """Compute the pixel metrics; AP is the estimate of `mixed_average_precision`.

        Returns:
            Metric key -> value in [0, 1], NaN where a metric is not defined.
        """
        steps, tied = self._steps()
        if self._exact:
            tied = np.ones(len(steps.hits), dtype=np.bool_)
        metrics = (auroc(steps), mixed_average_precision(steps, tied), f1_max(steps), area_under_pro(steps))
        return dict(zip(PIXEL_LEVEL, metrics, strict=True))

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Compute an interval that is sure to hold the exact value of each pixel metric, and of AUPRO to lower limits.

        Returns:
            Metric key -> (low, high), NaN where a metric is not defined.
        """
        steps, _ = self._steps()
        if not self._exact:
            return intervals(steps)
        values = {**self.values(), **{key: area_under_pro(steps, limit) for key, limit in LOW_LIMITS.items()}}
        slack = slack_of(steps)
        return {key: (value - slack[key], value + slack[key]) for key, value in values.items()}

    def steps(self) -> Steps:
        """Return the counts of all pixels, as if all scores of a bin were one score."""
        return self._steps()[0]

    def _steps(self) -> tuple[Steps, NDArray[np.bool_]]:
        """Return the counts as in `steps`, and (T,) True for the bin of score 0, which counts as one score."""
        for bins in self.thread_bins[1:]:
            self.thread_bins[0].merge(bins)
        del self.thread_bins[1:]
        pixels, hits, overlap, zero = self.thread_bins[0].descending()
        at_least = np.cumsum(pixels - hits)
        with_hits = hits > 0
        steps = Steps(
            hits=hits[with_hits],
            above=(at_least - (pixels - hits))[with_hits],
            at_least=at_least[with_hits],
            negatives=int(at_least[-1]) if len(at_least) else 0,
            overlap=overlap[with_hits] / max(self.regions, 1),
        )
        return steps, zero[with_hits]

    @property
    def _exact(self) -> bool:
        return not self.rounded and self.thread_bins[0].dropped <= (HALF_PRECISION if self.only_float16 else 0)


def _workers() -> int:
    return min(workers(), MOST_WORKERS)
