"""The seven metrics of one category: in one call, or from batches. The one interface between maps and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.bootstrap import PixelGrid, draw, image_replicates
from mddbench.metrics.curves import precision_recall, region_overlap
from mddbench.metrics.device import as_floats, images_with_nan, is_elsewhere, is_tensor, on_host
from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.histogram import HistogramPixels
from mddbench.metrics.images import ImageScores
from mddbench.metrics.names import ITEM, MAD, METRIC_VERSIONS, PIXEL_LEVEL, SEVEN, Engine
from mddbench.metrics.steps import steps_of_items
from mddbench.metrics.threads import in_threads, workers

if TYPE_CHECKING:
    from torch import Tensor

NAN = float("nan")


class BrokenScoreError(ValueError):
    """A map or an image score that is no number. image: its position among all images added; what: 'map' or 'score'."""

    def __init__(self, image: int, what: str) -> None:
        super().__init__(f"image {image}: its {what} holds NaN")
        self.image, self.what = image, what


def evaluate(
    *,
    maps: NDArray[np.floating] | Tensor,
    masks: NDArray[np.bool_] | None,
    image_scores: NDArray[np.floating],
    image_labels: NDArray[np.bool_],
) -> dict[str, float]:
    """The seven metrics of one category, each in [0, 1], exact; NaN where a metric is not defined.

    maps: (N, H, W) floats of any width, higher is more anomalous, infinities allowed; masks: (N, H, W) True (or not zero) on
    defects, None if the data set has no masks; image_scores: (N,); image_labels: (N,) True for defective, from the data set
    and never from a mask.

    A metric is not defined without at least one anomalous and one normal item (image or pixel).
    Raises ValueError if shapes disagree or there is no image, BrokenScoreError if a map or score is NaN.
    """
    metrics = CategoryMetrics()
    metrics.update(maps=maps, masks=masks, image_scores=image_scores, image_labels=image_labels, copy=False)
    return metrics.compute()


class CategoryMetrics:
    """The seven metrics of one category whose images come in batches, in any order.

    engine: 'exact' keeps 4 bytes of each pixel (2 of float16 maps, 8 of float64); 'histogram' stays below 100 MB whatever
    comes.
    """

    def __init__(self, engine: Engine = "exact") -> None:
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
        """Add images, as `evaluate` takes them; maps may also be a torch tensor, whose pixels then stay on its device.

        copy: if False the exact engine keeps views, and the maps must stay as they are. Raises as `evaluate` does, and then
        nothing was added; also ValueError if masks come with some batches only.
        """
        scores, labels = on_host(image_scores), on_host(image_labels).astype(bool)
        values = as_floats(maps) if is_elsewhere(maps) and self.engine == "exact" else floating(on_host(maps))
        marked = None if masks is None else on_host(masks).astype(bool, copy=False)
        check_shapes(values, marked, scores, labels)
        if self.has_masks not in (None, marked is not None):
            raise ValueError(
                "some batches have masks and some have none; give masks (empty ones for normal images) or None"
            )
        self._refuse_nan(values, "map")
        self._refuse_nan(scores, "score")
        if marked is not None:
            if isinstance(self.pixels, ExactPixels):
                self.pixels.add(values, marked, copy=copy)
            else:
                self.pixels.add(on_host(values), marked)
        self.has_masks = marked is not None
        self.images.add(scores, labels)

    def merge(self, other: CategoryMetrics) -> None:
        """Add all images of another one after one's own; the other is used up. Raises ValueError if the two do not go
        together.
        """
        if self.engine != other.engine:
            raise ValueError(f"an {self.engine} state cannot take up a {other.engine} one")
        if None not in (self.has_masks, other.has_masks) and self.has_masks != other.has_masks:
            raise ValueError("one state has masks and the other has none")
        self.pixels.merge(other.pixels)  # type: ignore[arg-type]
        self.images.merge(other.images)
        self.has_masks = other.has_masks if self.has_masks is None else self.has_masks

    def compute(self) -> dict[str, float]:
        """The seven metrics of all images so far, NaN where not defined. More may be added afterwards."""
        pixels = self.pixels.values() if self.has_masks else dict.fromkeys(PIXEL_LEVEL, NAN)
        values = {**self.images.values(), **pixels}
        return {key: values[key] for key in SEVEN}

    def bounds(self) -> dict[str, tuple[float, float]]:
        """For each metric an interval that certainly holds its exact value: the value itself, unless the engine is
        'histogram'.
        """
        values = self.compute()
        bounds = {key: (value, value) for key, value in values.items()}
        return (
            {**bounds, **self.pixels.bounds()}
            if self.has_masks and isinstance(self.pixels, HistogramPixels)
            else bounds
        )

    def curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision against recall, and region overlap against false-positive rate, of the pixels: (2, `curves.POINTS`) each,
        NaN where they are not defined.
        """
        steps = self.pixels.steps() if self.has_masks else steps_of_items(np.empty(0), np.empty(0, dtype=np.bool_))
        return precision_recall(steps), region_overlap(steps)

    def replicates(self, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Each metric on `resamples` bootstrap samples of the images: (resamples,) values, NaN where not defined.

        Normal and defective images are drawn separately, with replacement, as many as there are. For the pixel metrics see
        `bootstrap.PixelGrid`; they need the exact engine, and are NaN with the other.
        """
        grid = PixelGrid.of(self.pixels) if self.has_masks and isinstance(self.pixels, ExactPixels) else None
        blocks = []
        for draws in draw(self.images.all()[1], resamples, seed):
            pixels = dict.fromkeys(PIXEL_LEVEL, np.full(len(draws), NAN)) if grid is None else grid.replicates(draws)
            blocks.append({**image_replicates(self.images, draws), **pixels})
        return {key: np.concatenate([block[key] for block in blocks]) for key in SEVEN}

    def _refuse_nan(self, values: Any, what: str) -> None:
        """Raise BrokenScoreError for the first image with a NaN."""
        broken = with_nan(values)
        if broken.any():
            raise BrokenScoreError(len(self.images) + int(np.argmax(broken)), what)


def mean_over_categories(per_category: dict[str, dict[str, float]]) -> dict[str, float]:
    """The unweighted mean of each metric over the categories where it is defined, and `mad`, the mean of the seven.

    `mad` is NaN if any of the seven is. A further metric counts where all categories have it.
    """
    means: dict[str, float] = {}
    shared = [key for key in (ITEM.key,) if all(key in values for values in per_category.values())]
    for key in (*SEVEN, *shared):
        defined = [values[key] for values in per_category.values() if not np.isnan(values[key])]
        means[key] = float(np.mean(defined)) if defined else NAN
    return {**means, MAD.key: float(np.mean([means[key] for key in SEVEN]))}


def with_nan(values: Any) -> NDArray[np.bool_]:
    """(N,) whether each image's values hold NaN: its largest value is NaN if any is. values: (N, ...), an array or a tensor."""
    if is_tensor(values):
        return images_with_nan(values)
    parts = [part for part in np.array_split(values.reshape(len(values), -1), workers()) if len(part)]
    highest = np.concatenate(in_threads(lambda part: part.max(axis=1), parts))
    return np.asarray(np.isnan(highest))


def floating(values: NDArray[Any]) -> NDArray[np.floating]:
    """Native floats: whole numbers become float64, and so does what is longer. Raises ValueError for complex numbers."""
    if np.iscomplexobj(values):
        raise ValueError("expected real scores, found complex numbers")
    kind = values.dtype if values.dtype in (np.float16, np.float32) else np.dtype(np.float64)
    return np.ascontiguousarray(values, dtype=kind)


def check_shapes(maps: Any, masks: NDArray[np.bool_] | None, scores: NDArray[Any], labels: NDArray[np.bool_]) -> None:
    """Raise ValueError unless the arrays have the shapes that `evaluate` asks for."""
    if maps.ndim != 3 or scores.shape != maps.shape[:1] or labels.shape != scores.shape or 0 in maps.shape:
        raise ValueError(
            f"expected maps (N, H, W), image_scores (N,) and image_labels (N,), none of them empty, found shapes "
            f"{tuple(maps.shape)}, {scores.shape} and {labels.shape}"
        )
    if masks is not None and masks.shape != tuple(maps.shape):
        raise ValueError(f"expected masks of the maps' shape {tuple(maps.shape)}, found {masks.shape}")
