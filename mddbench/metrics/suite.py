"""The seven metrics of one category, in one call or from batches.

This is the only interface between maps and numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.bootstrap import PixelGrid, draw, image_replicates
from mddbench.metrics.curves import precision_recall, region_overlap
from mddbench.metrics.device import as_floats, images_with_nan, is_device_tensor, is_tensor, on_host
from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.histogram import HistogramPixels
from mddbench.metrics.images import ImageScores
from mddbench.metrics.names import ITEM, MAD, METRIC_VERSIONS, PIXEL_LEVEL, SEVEN, Engine
from mddbench.metrics.pimo import aupimo_of_images, summary
from mddbench.metrics.saturated import ImageRegions, area_under_spro
from mddbench.metrics.steps import LOW_LIMITS, area_under_pro, steps_of_items
from mddbench.metrics.threads import in_threads, workers

if TYPE_CHECKING:
    from torch import Tensor

NAN = float("nan")


class BrokenScoreError(ValueError):
    """A map or an image score holds NaN.

    Attributes:
        image: Index of the image among all images added.
        kind: 'map' or 'score'.
    """

    def __init__(self, image: int, kind: str) -> None:
        super().__init__(f"image {image}: its {kind} holds NaN")
        self.image, self.kind = image, kind


def evaluate(
    *,
    maps: NDArray[np.floating] | Tensor,
    masks: NDArray[np.bool_] | None,
    image_scores: NDArray[np.floating],
    image_labels: NDArray[np.bool_],
) -> dict[str, float]:
    """Compute the exact seven metrics of one category.

    A metric is not defined without at least one anomalous and one normal item (image or pixel).

    A ValueError is raised if shapes disagree or there is no image.
    A BrokenScoreError is raised if a map or a score holds NaN.

    Args:
        maps: (N, H, W) floats of any width, higher is more anomalous, infinities allowed.
        masks: (N, H, W) True (or not zero) on defects; None if the data set has no masks.
        image_scores: (N,) floats, higher is more anomalous.
        image_labels: (N,) True for a defective image. They come from the data set and never from a mask.

    Returns:
        Metric key -> value in [0, 1], NaN where a metric is not defined.
    """
    metrics = CategoryMetrics()
    metrics.update(maps=maps, masks=masks, image_scores=image_scores, image_labels=image_labels, copy=False)
    return metrics.compute()


class CategoryMetrics:
    """The seven metrics of one category whose images come in batches, in any order.

    Attributes:
        engine: Name of the engine.
        pixels: Scores of the pixels so far.
        images: Scores and labels of the images so far.
        has_masks: Whether the batches have masks, None before the first batch.
    """

    def __init__(self, engine: Engine = "exact") -> None:
        """Create the metrics without images.

        Args:
            engine: 'exact' keeps 4 bytes of each pixel (2 for float16 maps, 8 for float64 maps).
                'histogram' stays below 100 MB for any number of pixels.

        Raises:
            ValueError: If there is no such engine.
        """
        if engine not in METRIC_VERSIONS:
            raise ValueError(f"engine '{engine}': expected one of {', '.join(METRIC_VERSIONS)}")
        self.engine = engine
        self.pixels: ExactPixels | HistogramPixels = ExactPixels() if engine == "exact" else HistogramPixels()
        self.images = ImageScores()
        self.has_masks: bool | None = None

    def update(
        self,
        *,
        maps: NDArray[np.floating] | Tensor,
        masks: NDArray[np.bool_] | None,
        image_scores: NDArray[np.floating],
        image_labels: NDArray[np.bool_],
        copy: bool = True,
    ) -> None:
        """Add images.

        A BrokenScoreError is raised if a map or a score holds NaN. After any error nothing has been added.

        Args:
            maps: (N, H, W) floats as in `evaluate`. With the exact engine, the pixels of a tensor stay on its device.
            masks: (N, H, W) as in `evaluate`.
            image_scores: (N,) as in `evaluate`.
            image_labels: (N,) as in `evaluate`.
            copy: If False, the exact engine keeps views, and the maps must not change afterwards.

        Raises:
            ValueError: If shapes disagree, there is no image, or only some batches have masks.
        """
        scores, labels = on_host(image_scores), on_host(image_labels).astype(bool)
        values = as_floats(maps) if is_device_tensor(maps) and self.engine == "exact" else floating(on_host(maps))
        defects = None if masks is None else on_host(masks).astype(bool, copy=False)
        check_shapes(values, defects, scores, labels)
        if self.has_masks not in (None, defects is not None):
            raise ValueError(
                "some batches have masks and some have none; give masks (empty ones for normal images) or None"
            )
        self._refuse_nan(values, "map")
        self._refuse_nan(scores, "score")
        if defects is not None:
            if isinstance(self.pixels, ExactPixels):
                self.pixels.add(values, defects, copy=copy)
            else:
                self.pixels.add(on_host(values), defects)
        self.has_masks = defects is not None
        self.images.add(scores, labels)

    def merge(self, other: CategoryMetrics) -> None:
        """Add all images of another object after the images of this one.

        Args:
            other: Metrics of the same category and engine. It must not be used afterwards.

        Raises:
            ValueError: If the engines differ, or only one of the two has masks.
        """
        if self.engine != other.engine:
            raise ValueError(
                f"metrics of the {other.engine} engine cannot be merged into those of the {self.engine} engine"
            )
        if None not in (self.has_masks, other.has_masks) and self.has_masks != other.has_masks:
            raise ValueError("one state has masks and the other has none")
        self.pixels.merge(other.pixels)  # type: ignore[arg-type]
        self.images.merge(other.images)
        self.has_masks = other.has_masks if self.has_masks is None else self.has_masks

    def compute(self) -> dict[str, float]:
        """Compute the seven metrics of all images so far. More images may be added afterwards.

        Returns:
            Metric key -> value in [0, 1], NaN where a metric is not defined.
        """
        pixels = self.pixels.values() if self.has_masks else dict.fromkeys(PIXEL_LEVEL, NAN)
        values = {**self.images.values(), **pixels}
        return {key: values[key] for key in SEVEN}

    def low_rates(self, regions: Sequence[ImageRegions] | None = None) -> dict[str, float]:
        """Compute the pixel metrics at low false-positive rates: AUPRO up to lower limits, AUPIMO and AU-sPRO.

        AUPIMO and AU-sPRO need the exact engine.

        Args:
            regions: For each image, in the order in which images were added, its regions; None without AU-sPRO.

        Returns:
            Key of LOW_RATES -> value in [0, 1], NaN where a metric is not defined. A metric that the engine cannot
            compute is left out; without masks all of them are.

        Raises:
            ValueError: If there are regions for another number of images.
        """
        if not self.has_masks:
            return {}
        if regions is not None and len(regions) != len(self.images):
            raise ValueError(f"expected regions of {len(self.images)} images, found them of {len(regions)}")
        steps = self.pixels.steps()
        values = {key: area_under_pro(steps, limit) for key, limit in LOW_LIMITS.items()}
        if isinstance(self.pixels, ExactPixels):
            values |= summary(self.aupimo())
            if regions is not None:
                values["spro_05"] = area_under_spro(self.pixels, regions)
        return values

    def aupimo(self) -> NDArray[np.float64]:
        """Compute AUPIMO of each defective image, in the order in which images were added.

        Returns:
            (defective images,) values in [0, 1], NaN where it is not defined, and with the histogram engine.
        """
        labels = self.images.all()[1]
        if not self.has_masks or not isinstance(self.pixels, ExactPixels):
            return np.full(np.count_nonzero(labels), NAN)
        images = list(zip(labels, self.pixels.by_image(), strict=True))
        normal = [scores for label, (scores, _, _) in images if not label]
        return aupimo_of_images(normal, [anomalous for label, (_, anomalous, _) in images if label])

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Compute an interval that is sure to hold the exact value of each metric.

        Returns:
            Metric key -> (low, high). Both are the value itself unless it is a pixel metric of the histogram engine.
            AUPRO up to lower limits is among them with that engine.
        """
        values = self.compute()
        bounds = {key: (value, value) for key, value in values.items()}
        return (
            {**bounds, **self.pixels.bounds()}
            if self.has_masks and isinstance(self.pixels, HistogramPixels)
            else bounds
        )

    def curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the two curves of the pixels.

        Returns:
            Precision against recall, and region overlap against false-positive rate: (2, `curves.POINTS`) each,
            NaN where a curve is not defined.
        """
        steps = self.pixels.steps() if self.has_masks else steps_of_items(np.empty(0), np.empty(0, dtype=np.bool_))
        return precision_recall(steps), region_overlap(steps)

    def replicates(self, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Compute each metric on bootstrap samples of the images.

        Normal and defective images are drawn separately and with replacement, as many of each kind as there are.
        The pixel metrics are computed by `bootstrap.PixelGrid`. They need the exact engine, and are NaN with the other.

        Args:
            resamples: Number of samples.
            seed: Seed of the random generator.

        Returns:
            Metric key -> (resamples,) values, NaN where a metric is not defined.
        """
        grid = PixelGrid.of(self.pixels) if self.has_masks and isinstance(self.pixels, ExactPixels) else None
        blocks = []
        for draws in draw(self.images.all()[1], resamples, seed):
            pixels = dict.fromkeys(PIXEL_LEVEL, np.full(len(draws), NAN)) if grid is None else grid.replicates(draws)
            blocks.append({**image_replicates(self.images, draws), **pixels})
        return {key: np.concatenate([block[key] for block in blocks]) for key in SEVEN}

    def _refuse_nan(self, values: Any, kind: str) -> None:
        """Raise BrokenScoreError for the first image with a NaN."""
        broken = with_nan(values)
        if broken.any():
            raise BrokenScoreError(len(self.images) + int(np.argmax(broken)), kind)


def mean_over_categories(per_category: dict[str, dict[str, float]]) -> dict[str, float]:
    """Compute the unweighted mean of each metric over the categories where it is defined, and `mad`.

    `mad` is the mean of the seven means. It is NaN if any of them is NaN.
    A further metric (ITEM) has a mean if all categories have this metric.

    Args:
        per_category: Category -> metric key -> value.

    Returns:
        Metric key or 'mad' -> mean in [0, 1], NaN where it is not defined.
    """
    further = [key for key in (ITEM.key,) if all(key in values for values in per_category.values())]
    means = _means(per_category, (*SEVEN, *further))
    return {**means, MAD.key: float(np.mean([means[key] for key in SEVEN]))}


def means_of_shared(per_category: dict[str, dict[str, float]]) -> dict[str, float]:
    """Compute the unweighted mean of each metric that all categories have, over those where it is defined.

    Args:
        per_category: Category -> metric key -> value.

    Returns:
        Metric key -> mean, NaN where it is not defined.
    """
    all_values = list(per_category.values())
    return _means(per_category, [key for key in all_values[0] if all(key in values for values in all_values)])


def _means(per_category: dict[str, dict[str, float]], keys: Sequence[str]) -> dict[str, float]:
    means: dict[str, float] = {}
    for key in keys:
        defined = [values[key] for values in per_category.values() if not np.isnan(values[key])]
        means[key] = float(np.mean(defined)) if defined else NAN
    return means


def with_nan(values: Any) -> NDArray[np.bool_]:
    """Find the images whose values hold NaN.

    For an array, only the largest value of each image is tested. It is NaN if any value of the image is NaN.

    Args:
        values: (N, ...) floats, an array or a tensor.

    Returns:
        (N,) bool, True for an image with NaN.
    """
    if is_tensor(values):
        return images_with_nan(values)
    groups = [group for group in np.array_split(values.reshape(len(values), -1), workers()) if len(group)]
    highest = np.concatenate(in_threads(lambda group: group.max(axis=1), groups))
    return np.asarray(np.isnan(highest))


def floating(values: NDArray[Any]) -> NDArray[np.floating]:
    """Convert scores to floats in the byte order of the machine.

    Float16, float32 and float64 stay as they are. All other types, such as integers and longer floats, become float64.

    Args:
        values: Real numbers, of any shape.

    Returns:
        A contiguous array of the same shape.

    Raises:
        ValueError: If the values are complex numbers.
    """
    if np.iscomplexobj(values):
        raise ValueError("expected real scores, found complex numbers")
    dtype = values.dtype if values.dtype in (np.float16, np.float32) else np.dtype(np.float64)
    return np.ascontiguousarray(values, dtype=dtype)


def check_shapes(maps: Any, masks: NDArray[np.bool_] | None, scores: NDArray[Any], labels: NDArray[np.bool_]) -> None:
    """Check that the arrays have the shapes that `evaluate` needs.

    Args:
        maps: Expected as (N, H, W), not empty.
        masks: Expected as (N, H, W), or None.
        scores: Expected as (N,).
        labels: Expected as (N,).

    Raises:
        ValueError: If a shape is another one.
    """
    if maps.ndim != 3 or scores.shape != maps.shape[:1] or labels.shape != scores.shape or 0 in maps.shape:
        raise ValueError(
            f"expected maps (N, H, W), image_scores (N,) and image_labels (N,), none of them empty, found shapes "
            f"{tuple(maps.shape)}, {scores.shape} and {labels.shape}"
        )
    if masks is not None and masks.shape != tuple(maps.shape):
        raise ValueError(f"expected masks of the maps' shape {tuple(maps.shape)}, found {masks.shape}")
