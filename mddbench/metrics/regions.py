"""Connected regions of ground-truth masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mddbench.metrics.threads import in_threads, use_kernels, workers

Part = tuple[NDArray[np.bool_], NDArray[np.int64]]
"""Some masks and the masked pixels of each."""
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
    parts = list(zip(np.array_split(masks, workers()), np.array_split(pixels, workers()), strict=True))
    labelled = in_threads(_by_runs if use_kernels(masks.size) else _by_scipy, parts)
    areas, found = (np.concatenate(each) for each in zip(*labelled, strict=True))
    return Regions(areas, found, pixels)


def _by_runs(part: Part) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    from mddbench.metrics.kernels import areas_of_regions

    masks, pixels = part
    areas, found = np.empty(int(pixels.sum()), dtype=np.uint32), np.zeros(len(masks), dtype=np.int64)
    areas_of_regions(masks, pixels, areas, found)
    return areas, found


def _by_scipy(part: Part) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    masks, pixels = part
    areas, found = [np.empty(0, dtype=np.uint32)], np.zeros(len(masks), dtype=np.int64)
    for image in np.flatnonzero(pixels):
        labelled, found[image] = ndimage.label(masks[image], structure=EIGHT_NEIGHBOURS)
        of_pixels = labelled[masks[image]]
        areas.append(np.bincount(of_pixels)[of_pixels].astype(np.uint32))
    return np.concatenate(areas), found
