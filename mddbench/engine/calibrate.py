"""Sets the thresholds of a trained model on normal images that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mddbench.data.dataset import Dataset
from mddbench.detector import Detector
from mddbench.engine.inference import infer_split
from mddbench.errors import CellError
from mddbench.metrics.suite import with_nan
from mddbench.metrics.thresholds import PERCENTS, RULES, PixelSummary, conformal
from mddbench.progress import WARNING, Reporter
from mddbench.runs.bounds import LARGEST
from mddbench.runs.thresholds import Scoped, Thresholds
from mddbench.sizes import pixel_count


def find_thresholds(
    detector: Detector,
    dataset: Dataset,
    precision: str,
    reporter: Reporter,
    before: Callable[[str], object],
    within_model: Callable[[int], int] = int,
) -> Thresholds:
    """Set the thresholds, for all categories and for each. Thresholds that could not be set are reported.

    Args:
        detector: The trained model, in evaluation mode.
        dataset: The dataset, whose images of `calibration` are used, and no test image.
        precision: 'float32', 'bfloat16' or 'float16'.
        reporter: Shows the progress, and what could not be set.
        before: Called with each category before its images are scored.
        within_model: Returns the index of a category among those of its model, of its index in the dataset.

    Returns:
        The thresholds.

    Raises:
        CellError: If a map or a score holds NaN. The message names the image.
        ValueError: If the dataset has no such images.
    """
    images = dataset.calibration
    if images is None:
        raise ValueError("expected a dataset with held-out images")
    per_image = pixel_count(images.image_size)
    whole, of_category = PixelSummary(len(images) * per_image), {}
    scores: dict[str, NDArray[np.floating]] = {}
    with reporter.task("setting thresholds", len(images)) as task:
        for number, category in enumerate(dataset.categories):
            before(category)
            split = images.of(category)
            pixels, found = PixelSummary(len(split) * per_image), []
            for batch in infer_split(detector, split, precision, within_model(number)):
                host, image_scores = batch.wait()
                broken = with_nan(host) | np.isnan(image_scores)
                if broken.any():
                    name = split.samples[batch.indices.start + int(np.argmax(broken))].image.name
                    raise CellError(f"setting thresholds of {category}: the map or score of {name} holds NaN")
                for summary in (pixels, whole):
                    summary.add(host)
                found.append(image_scores)
                task.advance(len(image_scores))
            scores[category], of_category[category] = np.concatenate(found), pixels.thresholds()
    thresholds = _collected(dataset, scores, whole.thresholds(), of_category)
    for line in thresholds.refusals():
        reporter.say(f"{WARNING}{line}")
    return thresholds


def _collected(
    dataset: Dataset,
    scores: dict[str, NDArray[np.floating]],
    pixels: dict[str, float],
    pixels_of: dict[str, dict[str, float]],
) -> Thresholds:
    """Compute the thresholds from the scores of held-out images and the summaries of their pixels."""
    together = np.concatenate(list(scores.values()))
    image = {
        str(percent): Scoped(
            one=_finite(conformal(together, percent)),
            each={category: _finite(conformal(own, percent)) for category, own in scores.items()},
        )
        for percent in PERCENTS
    }
    pixel = {
        rule: Scoped(one=_finite(pixels[rule]), each={name: _finite(own[rule]) for name, own in pixels_of.items()})
        for rule in RULES
    }
    counts = {category: len(own) for category, own in scores.items()}
    return Thresholds(source=dataset.calibration_source, images=counts, image=image, pixel=pixel)


def _finite(threshold: float | None) -> float | None:
    """Return a threshold that can be written down and compared with, None in place of any other."""
    usable = threshold is not None and math.isfinite(threshold) and abs(threshold) <= LARGEST
    return threshold if usable else None
