"""Saturated region overlap (sPRO): a defect can count as found before all of its region is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.device import on_host
from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.steps import area_under_pro

LIMIT = 0.05
"""The false-positive rate up to which the curve is integrated."""


@dataclass(frozen=True)
class Region:
    """The region of one defect in one image. It need not be connected, and regions may overlap.

    Attributes:
        pixels: (n,) int64 indices of its pixels in the flat map.
        share: Share of the region from which on it counts as found, in (0, 1].
    """

    pixels: NDArray[np.int64]
    share: float


@dataclass(frozen=True)
class ImageRegions:
    """The regions of an image.

    Attributes:
        kind: Kind of the image's defects; '' for a normal image.
        regions: The regions; none for a normal image.
    """

    kind: str = ""
    regions: tuple[Region, ...] = ()


def area_under_spro(pixels: ExactPixels, images: Sequence[ImageRegions]) -> float:
    """Compute the area under mean saturated overlap against false-positive rate up to LIMIT, divided by LIMIT.

    The overlap of a region at a threshold is min(found pixels / saturation area, 1). The false-positive rate is the
    share of the pixels outside all regions. Each kind of defect has a curve of its own, from its images and the normal
    ones, and the result is the mean of their areas. A region without pixels does not count.

    Args:
        pixels: Pixels of all images. A pixel is anomalous if it lies in a region.
        images: For each image, in the order in which images were added, its regions.

    Returns:
        The area in [0, 1], NaN unless each kind has regions with pixels, and pixels outside of them.

    Source: Bergmann et al., Beyond Dents and Scratches, IJCV 2022, and the authors' evaluation code.
    """
    kinds = np.array([image.kind for image in images], dtype=np.str_)
    areas = []
    for kind in np.unique(kinds[kinds != ""]):
        chosen = (kinds == kind) | (kinds == "")
        of_kind = [image for image, taken in zip(images, chosen, strict=True) if taken]
        areas.append(_area_of_kind(pixels.of_images(chosen), of_kind))
    return float(np.mean(areas)) if areas else float("nan")


def _area_of_kind(pixels: ExactPixels, images: Sequence[ImageRegions]) -> float:
    thresholds, steps = pixels.ranked()
    ascending, places, gains = thresholds[::-1], list[NDArray[np.int64]](), list[NDArray[np.float64]]()
    for (scores, _, _), image in zip(pixels.by_image(), images, strict=True):
        for region in image.regions:
            if len(region.pixels):
                found = np.sort(_scores_at(scores, region.pixels))[::-1]
                places.append(len(thresholds) - 1 - np.searchsorted(ascending, found))
                gains.append(_gains(len(found), region.share))
    if not places:
        return float("nan")
    overlap = np.bincount(np.concatenate(places), weights=np.concatenate(gains), minlength=len(thresholds))
    return area_under_pro(replace(steps, overlap=overlap / len(places)), LIMIT)


def _scores_at(scores: Any, pixels: NDArray[np.int64]) -> NDArray[np.floating]:
    found = on_host(scores[pixels])
    return found if found.dtype == np.float64 else found.astype(np.float32)


def _gains(count: int, share: float) -> NDArray[np.float64]:
    """Return how much overlap each pixel adds to a region, in the order in which they are found: (count,), sum 1."""
    reached = np.minimum(np.arange(count + 1) / (share * count), 1.0)
    return np.diff(reached)
