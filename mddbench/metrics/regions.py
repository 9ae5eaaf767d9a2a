"""Connected regions of ground-truth masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mddbench.metrics.threads import in_threads, use_kernels, workers

MaskGroup = tuple[NDArray[np.bool_], NDArray[np.int64]]
"""Some masks (n, H, W), and the number of masked pixels of each (n,)."""
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


class Regions(NamedTuple):
    """Regions of N masks.

    Attributes:
        areas: (masked pixels,) uint32 area of the region of each masked pixel, in the order of the masks.
        counts: (N,) int64 number of regions of each image.
        pixels: (N,) int64 number of masked pixels of each image.
    """

    areas: NDArray[np.uint32]
    counts: NDArray[np.int64]
    pixels: NDArray[np.int64]


def find_regions(masks: NDArray[np.bool_]) -> Regions:
    """Find the 8-connected regions of masks; each region lies within one image.

    Args:
        masks: (N, H, W) bool.

    Returns:
        The regions of all masks.
    """
    pixels = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    groups = list(zip(np.array_split(masks, workers()), np.array_split(pixels, workers()), strict=True))
    results = in_threads(_by_runs if use_kernels(masks.size) else _by_scipy, groups)
    areas, counts = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
    return Regions(areas, counts, pixels)


def _by_runs(group: MaskGroup) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return `Regions.areas` and `Regions.counts` of a group, by the compiled kernels."""
    from mddbench.metrics.kernels import areas_of_regions

    masks, pixels = group
    areas, counts = np.empty(int(pixels.sum()), dtype=np.uint32), np.zeros(len(masks), dtype=np.int64)
    areas_of_regions(masks, pixels, areas, counts)
    return areas, counts


def _by_scipy(group: MaskGroup) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return `Regions.areas` and `Regions.counts` of a group, by SciPy."""
    masks, pixels = group
    areas, counts = [np.empty(0, dtype=np.uint32)], np.zeros(len(masks), dtype=np.int64)
    for image in np.flatnonzero(pixels):
        labelled, counts[image] = ndimage.label(masks[image], structure=EIGHT_NEIGHBOURS)
        region_of_pixel = labelled[masks[image]]
        areas.append(np.bincount(region_of_pixel)[region_of_pixel].astype(np.uint32))
    return np.concatenate(areas), counts
