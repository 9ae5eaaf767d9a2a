"""Numba kernels: they rank pixels among thresholds without sorting them, and find connected regions from runs.

Ranking: each float32 becomes an unsigned integer of the same order, its key.
The range of the keys is divided into windows of equal width.
Each window is divided into slots, and windows with more thresholds have more slots.
So a slot leads to the few thresholds beside a key.
Pixels are first gathered window by window.
So the thresholds and counters in use stay in the processor's cache, however many there are.

The cost hardly depends on the processor.
The cost of NumPy's vectorised sort, the obvious alternative, differs sevenfold between processors.

All indices are unsigned. A signed index is tested for being negative at every access, which doubles the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mddbench.metrics.keys import PAST_ALL_KEYS

WINDOWS = 1 << 14
"""Largest number of windows. With more, keys would be written to too many places at once."""
SLOTS_PER_THRESHOLD = 1
CROWDED = 8
"""Largest number of thresholds in a slot for a linear search.

A window with a fuller slot is searched by bisection.
"""
ZERO, ONE = np.uint32(0), np.uint32(1)
SIGN = np.uint32(0x80000000)
SHIFT_OF_SIGN = np.uint32(31)


Kernel = Callable[..., Any]


def compiled(function: Kernel, **options: Any) -> Kernel:
    """Compile a function, and cache the result on disk for the next process if a folder for that is writable.

    Args:
        function: Function in the subset of Python that Numba compiles.
        **options: Options of `numba.njit`.

    Returns:
        The compiled function.
    """
    try:
        return cast(Kernel, njit(nogil=True, cache=True, **options)(function))
    except RuntimeError:  # Numba found no writable folder for its cache
        return cast(Kernel, njit(nogil=True, **options)(function))


def compiled_in_place(function: Kernel) -> Kernel:
    """Compile a function and insert its code into its callers."""
    return compiled(function, inline="always")


class Table(NamedTuple):
    """Look-up table that leads from a key to the thresholds beside it.

    Window 0 lies below all thresholds and the last window lies above them.

    Attributes:
        thresholds: (M + 1,) uint32 keys, strictly increasing; the last is PAST_ALL_KEYS.
        width: Number of key bits within a window.
        cut: (windows,) uint32 number of key bits within a slot of each window.
        slot: (windows + 1,) uint32 first slot of each window.
        first: (slots + 1,) uint32 first threshold of each slot.
        crowded: (windows,) bool, True if a slot of the window has more than CROWDED thresholds.
    """

    thresholds: NDArray[np.uint32]
    width: np.uint32
    cut: NDArray[np.uint32]
    slot: NDArray[np.uint32]
    first: NDArray[np.uint32]
    crowded: NDArray[np.bool_]


def build_table(thresholds: NDArray[np.uint32]) -> Table:
    """Build the look-up table of thresholds.

    Args:
        thresholds: (M,) uint32 keys, strictly increasing, M > 0.

    Returns:
        The table.
    """
    spread = int(thresholds[-1]) - int(thresholds[0])
    width = max((spread // (WINDOWS - 3)).bit_length(), 1)
    extended = np.append(thresholds, np.uint32(PAST_ALL_KEYS))
    return Table(extended, np.uint32(width), *_slots(extended, np.uint32(width), (spread >> width) + 3))


@compiled
def _slots(thresholds, width, windows):  # type: ignore[no-untyped-def]
    """Return `Table.cut`, `slot`, `first` and `crowded`."""
    last = len(thresholds) - 1
    lowest = np.int64(thresholds[0])
    occupied = np.zeros(windows, np.int64)
    for index in range(last):
        occupied[((np.int64(thresholds[index]) - lowest) >> width) + 1] += 1
    cut = np.zeros(windows, np.uint32)
    slot = np.zeros(windows + 1, np.uint32)
    for window in range(windows):
        bits = 0
        while 1 << bits < SLOTS_PER_THRESHOLD * occupied[window] and bits < width:
            bits += 1
        cut[window] = width - bits
        slot[window + 1] = slot[window] + (1 << bits)
    first = np.zeros(np.int64(slot[windows]) + 1, np.uint32)
    crowded = np.zeros(windows, np.bool_)
    for index in range(last):
        distance = np.int64(thresholds[index]) - lowest
        window = (distance >> width) + 1
        index_in_first = slot[window] + ((distance & ((1 << width) - 1)) >> cut[window]) + 1
        first[index_in_first] += 1
        crowded[window] |= first[index_in_first] > CROWDED
    for index_in_first in range(len(first) - 1):
        first[index_in_first + 1] += first[index_in_first]
    return cut, slot, first, crowded


@compiled_in_place
def _key(bits):  # type: ignore[no-untyped-def]
    """Return the key of a float32 given by its bits; -0.0 and 0.0 have the same key."""
    bits = ZERO if bits == SIGN else bits
    return np.uint32(~bits) if bits >> SHIFT_OF_SIGN else np.uint32(bits | SIGN)


@compiled
def gather(bits, table, windows, keys):  # type: ignore[no-untyped-def]
    """Write the keys of pixels into `keys`, window by window.

    Args:
        bits: (n,) uint32 bits of float32 scores.
        table: Look-up table of the thresholds.
        windows: (n,) or longer, uint16 working memory.
        keys: (n,) or longer, uint32, overwritten with the keys.

    Returns:
        (windows,) uint32 number of keys in each window.
    """
    width = table.width
    span = np.uint32((1 << width) - 1)
    below = np.uint32(table.thresholds[0] - ONE)
    above = np.uint32(table.thresholds[len(table.thresholds) - 2] + span + ONE)
    for index in range(len(bits)):
        key = min(max(_key(bits[index]), below), above)
        windows[index] = np.uint16(np.uint32(np.uint32(key - below) + span) >> width)
    sizes = np.zeros(len(table.cut), np.uint32)
    for window in windows[: len(bits)]:
        sizes[window] += ONE
    position = np.zeros(len(sizes), np.uint32)
    for window in range(len(sizes) - 1):
        position[window + 1] = position[window] + sizes[window]
    for index in range(len(bits)):
        window = windows[index]
        keys[position[window]] = _key(bits[index])
        position[window] += ONE
    return sizes


@compiled
def rank(keys, sizes, table, between, equal):  # type: ignore[no-untyped-def]
    """Count gathered keys between and at the thresholds.

    Args:
        keys: (n,) or longer, uint32 keys from `gather`.
        sizes: (windows,) uint32 number of keys in each window, from `gather`.
        table: Look-up table of the thresholds.
        between: (M + 1,) uint32; entry i grows by the number of keys between thresholds i - 1 and i.
        equal: (M + 1,) uint32; entry i grows by the number of keys equal to threshold i.
    """
    thresholds, first = table.thresholds, table.first
    done = np.int64(0)
    for window in range(len(sizes)):
        run = keys[done : done + np.int64(sizes[window])]
        done += np.int64(sizes[window])
        slot, cut = table.slot[window], table.cut[window]
        if first[slot] == first[table.slot[window + 1]]:
            between[first[slot]] += np.uint32(len(run))
            continue
        start = np.uint32(np.int64(thresholds[0]) + ((np.int64(window) - 1) << np.int64(table.width)))
        crowded = table.crowded[window]
        for key in run:
            slot_of_key = np.uint32(slot + np.uint32(np.uint32(key - start) >> cut))
            index = first[slot_of_key]
            if crowded:
                end = first[np.uint32(slot_of_key + ONE)]
                while end > index:
                    middle = np.uint32(np.uint32(index + end) >> ONE)
                    if thresholds[middle] < key:
                        index = np.uint32(middle + ONE)
                    else:
                        end = middle
            # In most cases this step, which has no branch, is enough.
            index = np.uint32(index + np.uint32(thresholds[index] < key))
            while thresholds[index] < key:
                index = np.uint32(index + ONE)
            if thresholds[index] == key:
                equal[index] += ONE
            else:
                between[index] += ONE


@compiled
def count_bins(bits, start, dropped, page_bits, page_of_run, used, pixels):  # type: ignore[no-untyped-def]
    """Count pixels in the bins of `histogram.Bins`, and give runs new pages until none is free.

    Args:
        bits: (n,) uint32 bits of float32 scores.
        start: Index of the first pixel to count.
        dropped: Number of trailing bits of a key that are left out.
        page_bits: Number of key bits within a page.
        page_of_run: (runs,) int32 page of each run, -1 for none; changed in place.
        used: Number of pages in use.
        pixels: (pages, 2^page_bits) int64 number of pixels in each bin; changed in place.

    Returns:
        (index, used): index of the first pixel that was not counted (n if there is none), and number of pages in use.
    """
    bin_shift, run_shift = np.uint32(dropped), np.uint32(dropped + page_bits)
    within = np.uint32((1 << page_bits) - 1)
    for index in range(start, len(bits)):
        key = _key(bits[index])
        run = np.uint32(key >> run_shift)
        if page_of_run[run] < 0:
            if used == len(pixels):
                return index, used
            page_of_run[run] = used
            used += 1
        pixels[np.uint32(page_of_run[run]), np.uint32(np.uint32(key >> bin_shift) & within)] += 1
    return len(bits), used


@compiled
def areas_of_regions(masks, pixels, areas, regions):  # type: ignore[no-untyped-def]
    """Find the 8-connected regions of masks.

    A run is a sequence of masked pixels in a row. Each run is joined to the runs that it touches in the row before.

    Args:
        masks: (N, H, W) bool.
        pixels: (N,) int64 number of masked pixels of each mask.
        areas: (masked pixels,) uint32, overwritten with the area of each pixel's region, in the order of the masks.
        regions: (N,) int64 zeros, overwritten with the number of regions of each image.
    """
    images, height, width = masks.shape
    most = height * ((width + 1) // 2)
    left, right = np.empty(most, np.int32), np.empty(most, np.int32)
    parent, area = np.empty(most, np.int32), np.empty(most, np.uint32)
    filled = 0
    for image in range(images):
        if pixels[image] == 0:
            continue
        row_before, this_row, runs = 0, 0, 0  # first run of each row, and number of runs
        for row in range(height):
            row_before, this_row = this_row, runs
            runs = _runs_of_row(masks[image, row], runs, left, right, parent)
            _join_rows(row_before, this_row, runs, left, right, parent)
        area[:runs] = 0
        for run in range(runs):
            area[_root(parent, run)] += right[run] - left[run]
        for run in range(runs):
            root = _root(parent, run)
            regions[image] += root == run
            length = right[run] - left[run]
            areas[filled : filled + length] = area[root]
            filled += length


@compiled
def _runs_of_row(line, runs, left, right, parent):  # type: ignore[no-untyped-def]
    """Append each run of a row: its first column and the column after its last; return the new number of runs."""
    column = 0
    while column < len(line):
        if line[column]:
            left[runs], parent[runs] = column, runs
            while column < len(line) and line[column]:
                column += 1
            right[runs] = column
            runs += 1
        column += 1
    return runs


@compiled
def _join_rows(row_before, this_row, runs, left, right, parent):  # type: ignore[no-untyped-def]
    """Join the runs of a row to the runs of the row before that touch them, also at a corner.

    Runs `this_row` to `runs` belong to the row, and runs `row_before` to `this_row` belong to the row before.
    """
    for run in range(this_row, runs):
        while row_before < this_row and right[row_before] < left[run]:
            row_before += 1
        touched = row_before
        while touched < this_row and left[touched] <= right[run]:
            touched_root, run_root = _root(parent, touched), _root(parent, run)
            parent[max(touched_root, run_root)] = min(touched_root, run_root)
            touched += 1


@compiled
def _root(parent, run):  # type: ignore[no-untyped-def]
    """Return the root of a run's tree, and shorten the path to it."""
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
