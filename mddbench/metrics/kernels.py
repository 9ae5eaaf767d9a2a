"""Numba kernels: pixels ranked among thresholds without sorting them, and connected regions from runs.

Ranking: a float32 becomes an unsigned integer of the same order (its key). The keys' range is cut into windows of equal
width, and a window into slots, as many as its thresholds ask for, so that a slot leads to the few thresholds beside a key.
Pixels are first gathered window by window, so that the thresholds and counters in use stay in the processor's cache however
many there are. The cost hardly depends on the processor; that of NumPy's vectorised sort, the obvious other way, differs
sevenfold.

Indices are unsigned throughout: a signed one is tested for being negative at every access, which doubles the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mddbench.metrics.keys import PAST_ALL_KEYS

WINDOWS = 1 << 14
"""At most; more would be too many places to gather to at once."""
SLOTS_PER_THRESHOLD = 1
CROWDED = 8
"""A window with more thresholds than this in one slot is searched by halving."""
ZERO, ONE = np.uint32(0), np.uint32(1)
SIGN = np.uint32(0x80000000)
SHIFT_OF_SIGN = np.uint32(31)


Kernel = Callable[..., Any]


def compiled(function: Kernel, **options: Any) -> Kernel:
    """The function compiled, kept on disk for the next process where a folder for that can be written."""
    try:
        return cast(Kernel, njit(nogil=True, cache=True, **options)(function))
    except RuntimeError:  # Numba found no place for its cache
        return cast(Kernel, njit(nogil=True, **options)(function))


def compiled_in_place(function: Kernel) -> Kernel:
    """The function compiled, to be put into its callers."""
    return compiled(function, inline="always")


class Table(NamedTuple):
    """The way from a key to the thresholds beside it.

    thresholds: (M + 1,) uint32 keys, strictly increasing, the last being PAST_ALL_KEYS; width: the bits of a window;
    cut: (windows,) uint32 the bits of a slot in each window; slot: (windows + 1,) uint32 each window's first slot;
    first: (slots + 1,) uint32 each slot's first threshold; crowded: (windows,) bool.
    Window 0 lies below all thresholds and the last one above them.
    """

    thresholds: NDArray[np.uint32]
    width: np.uint32
    cut: NDArray[np.uint32]
    slot: NDArray[np.uint32]
    first: NDArray[np.uint32]
    crowded: NDArray[np.bool_]


def build_table(thresholds: NDArray[np.uint32]) -> Table:
    """The table of (M,) thresholds, M > 0, strictly increasing."""
    spread = int(thresholds[-1]) - int(thresholds[0])
    width = max((spread // (WINDOWS - 3)).bit_length(), 1)
    ended = np.append(thresholds, np.uint32(PAST_ALL_KEYS))
    return Table(ended, np.uint32(width), *_slots(ended, np.uint32(width), (spread >> width) + 3))


@compiled
def _slots(thresholds, width, windows):  # type: ignore[no-untyped-def]
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
        place = slot[window] + ((distance & ((1 << width) - 1)) >> cut[window]) + 1
        first[place] += 1
        crowded[window] |= first[place] > CROWDED
    for place in range(len(first) - 1):
        first[place + 1] += first[place]
    return cut, slot, first, crowded


@compiled_in_place
def _key(bits):  # type: ignore[no-untyped-def]
    """The key of a float32 given by its bits, both zeros having one key."""
    bits = ZERO if bits == SIGN else bits
    return np.uint32(~bits) if bits >> SHIFT_OF_SIGN else np.uint32(bits | SIGN)


@compiled
def gather(bits, table, windows, keys):  # type: ignore[no-untyped-def]
    """Write the keys of pixels into `keys`, window by window; returns (windows,) how many each has.

    bits: (n,) uint32 bits of float32 scores; windows: (n,) uint16 scratch; keys: (n,) uint32.
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
    place = np.zeros(len(sizes), np.uint32)
    for window in range(len(sizes) - 1):
        place[window + 1] = place[window] + sizes[window]
    for index in range(len(bits)):
        window = windows[index]
        keys[place[window]] = _key(bits[index])
        place[window] += ONE
    return sizes


@compiled
def rank(keys, sizes, table, between, equal):  # type: ignore[no-untyped-def]
    """Count gathered keys: in between[i] those between thresholds i - 1 and i, in equal[i] those equal to threshold i.

    between, equal: (M + 1,) uint32, added to.
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
            place = np.uint32(slot + np.uint32(np.uint32(key - start) >> cut))
            index = first[place]
            if crowded:
                end = first[np.uint32(place + ONE)]
                while end > index:
                    middle = np.uint32(np.uint32(index + end) >> ONE)
                    if thresholds[middle] < key:
                        index = np.uint32(middle + ONE)
                    else:
                        end = middle
            index = np.uint32(index + np.uint32(thresholds[index] < key))  # one step without a branch is mostly enough
            while thresholds[index] < key:
                index = np.uint32(index + ONE)
            if thresholds[index] == key:
                equal[index] += ONE
            else:
                between[index] += ONE


@compiled
def count_bins(bits, start, dropped, page_bits, page, used, pixels):  # type: ignore[no-untyped-def]
    """Count pixels from `start` on in the bins of `histogram.Bins`, making pages as long as there are some.

    Returns the pixel at which pages ran out, or the number of pixels, and the number of pages in use.
    """
    bin_shift, run_shift = np.uint32(dropped), np.uint32(dropped + page_bits)
    within = np.uint32((1 << page_bits) - 1)
    for index in range(start, len(bits)):
        key = _key(bits[index])
        run = np.uint32(key >> run_shift)
        if page[run] < 0:
            if used == len(pixels):
                return index, used
            page[run] = used
            used += 1
        pixels[np.uint32(page[run]), np.uint32(np.uint32(key >> bin_shift) & within)] += 1
    return len(bits), used


@compiled
def areas_of_regions(masks, pixels, areas, regions):  # type: ignore[no-untyped-def]
    """Write the area of each masked pixel's 8-connected region, in the masks' order, and each image's number of regions.

    masks: (N, H, W) bool; pixels: (N,) masked pixels of each; areas: (masked pixels,) uint32; regions: (N,) int64, zero before.
    Runs of a row are joined to those that they touch in the row before.
    """
    images, height, width = masks.shape
    most = height * ((width + 1) // 2)
    left, right = np.empty(most, np.int32), np.empty(most, np.int32)
    parent, area = np.empty(most, np.int32), np.empty(most, np.uint32)
    filled = 0
    for image in range(images):
        if pixels[image] == 0:
            continue
        before, here, runs = 0, 0, 0
        for row in range(height):
            before, here = here, runs
            runs = _runs_of_row(masks[image, row], runs, left, right, parent)
            _join_rows(before, here, runs, left, right, parent)
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
    """Append the row's runs, from their first column to the one after their last; returns how many there are now."""
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
def _join_rows(before, here, runs, left, right, parent):  # type: ignore[no-untyped-def]
    """Join the runs from `here` on to those of the row before, `before` to `here`, that touch them, also by a corner."""
    for run in range(here, runs):
        while before < here and right[before] < left[run]:
            before += 1
        touched = before
        while touched < here and left[touched] <= right[run]:
            one, other = _root(parent, touched), _root(parent, run)
            parent[max(one, other)] = min(one, other)
            touched += 1


@compiled
def _root(parent, run):  # type: ignore[no-untyped-def]
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
