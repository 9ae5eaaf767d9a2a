"""Connected regions of ground-truth masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mddbench.metrics.threads import in_threads, use_kernels, workers

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


class Regions(NamedTuple):
    """Regions of N masks.

    areas: (masked pixels,) uint32 the area of the region that each masked pixel belongs to, in the masks' order;
    found: (N,) int64 regions of each image; pixels: (N,) int64 masked pixels of each image.
    """

    areas: NDArray[np.uint32]
    found: NDArray[np.int64]
    pixels: NDArray[np.int64]


def find_regions(masks: NDArray[np.bool_]) -> Regions:
    """The regions of masks (N, H, W): 8-connected, each within one image."""
    pixels = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    marked = np.flatnonzero(pixels)
    parts = [masks[images] for images in np.array_split(marked, workers())] if len(marked) else []
    labelled = in_threads(_by_runs if use_kernels(masks.size) else _by_scipy, parts)
    found = np.zeros(len(masks), dtype=np.int64)
    found[marked] = [number for _, numbers in labelled for number in numbers]
    areas = np.concatenate([np.empty(0, dtype=np.uint32), *(areas for areas, _ in labelled)])
    return Regions(areas, found, pixels)


def _by_runs(masks: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    from mddbench.metrics.kernels import areas_of_regions

    areas, regions = np.empty(int(np.count_nonzero(masks)), dtype=np.uint32), np.zeros(len(masks), dtype=np.int64)
    areas_of_regions(masks, areas, regions)
    return areas, regions


def _by_scipy(masks: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    areas, regions = [np.empty(0, dtype=np.uint32)], np.zeros(len(masks), dtype=np.int64)
    for image, mask in enumerate(masks):
        labelled, regions[image] = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        of_pixels = labelled[mask]
        areas.append(np.bincount(of_pixels)[of_pixels].astype(np.uint32))
    return np.concatenate(areas), regions
