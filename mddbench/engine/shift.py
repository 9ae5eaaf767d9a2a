"""Scores changed test images by a trained model: the seven metrics, and what thresholds from before do to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mddbench.data.changed import changed_split
from mddbench.data.dataset import Dataset, Split
from mddbench.detector import Detector
from mddbench.engine.evaluate import add_batch, fits_device
from mddbench.engine.inference import infer_split
from mddbench.metrics.names import MEAN, Engine
from mddbench.metrics.suite import CategoryMetrics, mean_over_categories, means_of_shared
from mddbench.metrics.thresholds import image_values
from mddbench.runs.thresholds import Thresholds
from mddbench.sizes import pixel_count

Values = dict[str, dict[str, float]]
"""'mean' and each category -> metric -> value, NaN where it is not defined."""
Point = tuple[str, int]
"""Name of a change and a level."""


@dataclass(frozen=True)
class Judge:
    """How changed images are judged.

    Attributes:
        engine: Name of the engine of the pixel metrics.
        precision: 'float32', 'bfloat16' or 'float16'.
        thresholds: Thresholds that were set on unchanged normal images; None if there are none.
        before: Called with each category before it is scored.
        per_model: Number of categories that share a model.
        sharing: Number of cells that run on the device at the same time.
    """

    engine: Engine
    precision: str
    thresholds: Thresholds | None
    before: Callable[[str], object]
    per_model: int
    sharing: int = 1


def score_changed(
    detector: Detector, dataset: Dataset, point: Point | None, judge: Judge, advance: Callable[[int], object]
) -> Values:
    """Score the test split with a change.

    A CellError is raised if a map or a score is NaN. It names the image.

    Args:
        detector: The trained model, in evaluation mode.
        dataset: The dataset, whose test split is used.
        point: The change and its level; None for the images as they are.
        judge: How they are judged.
        advance: Called with the number of images of each batch that is done.

    Returns:
        The seven metrics, and for each threshold of image scores what it does.
    """
    metrics, alarms = {}, {}
    for number, category in enumerate(dataset.categories):
        judge.before(category)
        split = dataset.test.of(category)
        found = _score(detector, split if point is None else changed_split(split, *point), number, judge, advance)
        metrics[category] = found.compute()
        limits = judge.thresholds.of_images(category) if judge.thresholds is not None else {}
        alarms[category] = image_values(*found.images.all(), limits)
    together = {category: metrics[category] | alarms[category] for category in metrics}
    return {MEAN: mean_over_categories(metrics) | means_of_shared(alarms), **together}


def _score(
    detector: Detector, split: Split, number: int, judge: Judge, advance: Callable[[int], object]
) -> CategoryMetrics:
    """Collect the maps and scores of one category."""
    metrics = CategoryMetrics(judge.engine)
    device = next(detector.parameters()).device
    on_device = fits_device(judge.sharing * 4 * len(split) * pixel_count(split.image_size), device)
    for batch in infer_split(detector, split, judge.precision, number % judge.per_model):
        add_batch(metrics, split, batch, on_device)
        advance(len(batch.maps))
    return metrics
