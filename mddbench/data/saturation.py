"""Regions of defects that count as found from a part of their area on, for the metric sPRO.

Each mask file of an image is one region. Its pixel value is that of an entry in the category's file of saturations:

[{"pixel_value": 255, "saturation_threshold": 1000, "relative_saturation": false}, ...]

A threshold is a share of the region if it is relative, and otherwise a number of pixels of the original image.

Source: Bergmann et al., Beyond Dents and Scratches, IJCV 2022, and the files of MVTec-LOCO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mddbench.data.fingerprint import Manifest
from mddbench.data.images import numbered_mask, resize_mask
from mddbench.data.samples import Sample
from mddbench.data.splits import SplitError, read_json
from mddbench.errors import InputError
from mddbench.machine import processor_count
from mddbench.metrics.saturated import ImageRegions, Region
from mddbench.sizes import ImageSize


@dataclass(frozen=True)
class Saturation:
    """From which area on a region counts as found.

    Attributes:
        threshold: The area.
        relative: True if it is a share of the region, False if it is a number of pixels.
    """

    threshold: float
    relative: bool

    def share(self, area: int) -> float:
        """Return the area as a share of a region of `area` pixels. As in the authors' code, it is whole pixels.

        Args:
            area: Number of pixels of the region at the size of the original image, at least 1.

        Returns:
            The share, at least one pixel and at most the whole region.
        """
        pixels = int(self.threshold * area) if self.relative else self.threshold
        return float(min(max(pixels, 1), area) / area)


@dataclass(frozen=True)
class SaturatedRegions:
    """Reads the regions of images.

    Attributes:
        root: The dataset's folder.
        saturation: Finds the file of saturations of an image.
        files: The manifest of the dataset's files.
        size: The size of the maps.
    """

    root: Path
    saturation: Callable[[Path], Path]
    files: Manifest
    size: ImageSize

    def of(self, samples: Sequence[Sample]) -> list[ImageRegions]:
        """Read the regions of images. Each mask is resized as the union of the masks is.

        An InputError is raised if a file has changed, cannot be read, or says nothing about a mask.

        Args:
            samples: The images.

        Returns:
            For each image its regions. That of an empty mask has no pixels.
        """
        configs = {file: read_saturations(file, self.root) for file in {self.saturation(s.image) for s in samples}}

        def regions(sample: Sample) -> ImageRegions:
            if not sample.anomalous:
                return ImageRegions()
            config = self.saturation(sample.image)
            masks = (self._region(mask, configs[config], config) for mask in sample.masks)
            return ImageRegions(sample.defect, tuple(masks))

        with ThreadPoolExecutor(processor_count()) as pool:
            return list(pool.map(regions, samples))

    def _region(self, file: Path, saturations: dict[int, Saturation], config: Path) -> Region:
        mask, value = numbered_mask(file, self.files.of(file).sha256)
        if not value:
            return Region(np.empty(0, dtype=np.int64), 1.0)
        if value not in saturations:
            raise InputError(f"{config}: expected an entry with pixel_value {value}, which {file} has; found none")
        area = int(np.count_nonzero(mask))
        return Region(np.flatnonzero(resize_mask(mask, self.size)), saturations[value].share(area))


def read_saturations(file: Path, root: Path) -> dict[int, Saturation]:
    """Read a file of saturations.

    Args:
        file: The file.
        root: The dataset's folder, below which the file must lie.

    Returns:
        Value of a mask's pixels -> saturation of the region.

    Raises:
        InputError: If the file cannot be read, or if it has another form.
    """
    try:
        return dict(map(_entry, _entries(read_json(file, root))))
    except SplitError as fault:
        raise InputError(f"{file}: {fault}") from None


def _entries(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise SplitError(f"expected a list of entries, found {type(content).__name__}")
    return content


def _entry(entry: Any) -> tuple[int, Saturation]:
    content: dict[str, Any] = entry if isinstance(entry, dict) else {}
    value, threshold, relative = (
        content.get(key) for key in ("pixel_value", "saturation_threshold", "relative_saturation")
    )
    if type(value) is not int or not isinstance(threshold, int | float) or type(relative) is not bool:
        raise SplitError(
            "expected entries with a whole pixel_value, a number saturation_threshold and true or false as "
            f"relative_saturation, found {str(entry)[:100]}"
        )
    if not 0 < threshold <= (1 if relative else 2**31):
        raise SplitError(f"saturation_threshold {threshold} of pixel_value {value}: expected a positive area")
    return value, Saturation(float(threshold), relative)
