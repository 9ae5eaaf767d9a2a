"""Evaluation of a trained model, one category after another.

Of the maps only the data for exact metrics stays in memory, and the few maps that people look at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.data.dataset import Dataset, Split
from mddbench.detector import Detector
from mddbench.engine.calibrate import find_thresholds
from mddbench.engine.inference import Scored, infer_split
from mddbench.errors import CellError, InputError
from mddbench.metrics.bootstrap import confidence
from mddbench.metrics.names import ITEM, LABELS, MEAN, Engine
from mddbench.metrics.saturated import ImageRegions
from mddbench.metrics.suite import BrokenScoreError, CategoryMetrics, mean_over_categories, means_of_shared
from mddbench.metrics.thresholds import PixelCounts, image_values
from mddbench.progress import WARNING, Reporter
from mddbench.runs.evidence import Evidence, evidence_of
from mddbench.runs.maps import MapKeeper
from mddbench.runs.panels import Panel, PanelChoice
from mddbench.runs.thresholds import Thresholds
from mddbench.sizes import ImageSize, pixel_count

MOST_EXACT_PIXELS = 2**30
"""Greatest number of pixels of a category for which the exact engine is used."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        metrics: 'mean' and each category -> the seven metrics, NaN where a metric is not defined.
            They include S-AUROC where several images show one item.
        panels: Images worth looking at.
        evidence: Image scores and curves of each category.
        metric_seconds: Seconds that the computation of metrics took.
        bounds: Category -> metric -> interval that contains the exact value. Only for the histogram engine.
        confidence: 'mean' and each category -> metric -> 95 % bootstrap interval; empty without resamples.
        further: 'mean' and each category -> further metric -> value, NaN where it is not defined.
        thresholds: Thresholds that were set without test labels; None if no images were held out for them.
    """

    metrics: dict[str, dict[str, float]]
    panels: tuple[Panel, ...]
    evidence: tuple[Evidence, ...] = ()
    metric_seconds: float = 0.0
    bounds: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    confidence: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    further: dict[str, dict[str, float]] = field(default_factory=dict)
    thresholds: Thresholds | None = None


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        engine: Name of the engine of the pixel metrics.
        resamples: Number of bootstrap samples, 0 for no confidence intervals.
        seed: Seed for the bootstrap samples of the first category. The next category has the next number.
        before: Called with each category before it is evaluated.
        keeper: Writes all maps to disk; None if they are not wanted.
        sharing: Number of cells that run on the device at the same time.
        further: True to compute further metrics beside the seven.
        all_images: True to keep every test image as a panel.
        per_model: Number of categories that share a model; None for all of them.
    """

    engine: Engine = "exact"
    resamples: int = 0
    seed: int = 0
    before: Callable[[str], object] = lambda _: None
    keeper: MapKeeper | None = None
    sharing: int = 1
    further: bool = True
    all_images: bool = False
    per_model: int | None = None

    def within_model(self, number: int) -> int:
        """Return the index of a category among those of its model, of its index in the dataset."""
        return number if self.per_model is None else number % self.per_model


def evaluate(
    detector: Detector, dataset: Dataset, precision: str, reporter: Reporter, options: EvaluationOptions
) -> Evaluation:
    """Compute the seven metrics of each category of the test split, and their means.

    A CellError is raised if a map or a score is NaN. It names the image.

    Args:
        detector: The trained model. It is set to evaluation mode.
        dataset: The dataset, whose test split is used.
        precision: 'float32', 'bfloat16' or 'float16'.
        reporter: Shows the progress.
        options: Options of the evaluation.

    Returns:
        The results.
    """
    detector.eval()
    if options.resamples and options.engine == "histogram":
        reporter.say(f"{WARNING}the histogram engine has no confidence intervals of pixel metrics")
    thresholds = None
    if options.further and dataset.calibration is not None:
        thresholds = find_thresholds(detector, dataset, precision, reporter, options.before, options.within_model)
    results: dict[str, CategoryResults] = {}
    with reporter.task("evaluating", len(dataset.test)) as task:
        for number, category in enumerate(dataset.categories):
            options.before(category)
            split = dataset.test.of(category)
            evaluation = CategoryEvaluation(detector, category, number, split, options)
            evaluation.regions = _regions(dataset, category, options, reporter)
            evaluation.judge(thresholds)
            results[category] = evaluation.run(precision, task.advance)
    metrics = {category: each.metrics for category, each in results.items()}
    further = {category: each.further for category, each in results.items() if options.further}
    replicates = {category: each.replicates for category, each in results.items() if each.replicates}
    return Evaluation(
        metrics={MEAN: mean_over_categories(metrics), **metrics},
        panels=tuple(panel for each in results.values() for panel in each.panels),
        evidence=tuple(each.evidence for each in results.values()),
        metric_seconds=sum(each.metric_seconds for each in results.values()),
        bounds={category: each.bounds for category, each in results.items() if each.bounds},
        confidence=confidence(replicates) if replicates else {},
        further={MEAN: means_of_shared(further), **further} if further else {},
        thresholds=thresholds,
    )


def _regions(
    dataset: Dataset, category: str, options: EvaluationOptions, reporter: Reporter
) -> list[ImageRegions] | None:
    """Read the regions of the test images of a category; None, with a warning, if they cannot be read."""
    if dataset.regions is None or not options.further or options.engine != "exact":
        return None
    try:
        return dataset.regions.of(dataset.test.of(category).samples)
    except InputError as fault:
        reporter.say(f"{WARNING}{category}: {LABELS['spro_05']} is not measured: {fault}")
        return None


def choose_engine(images: int, size: ImageSize) -> Engine:
    """Choose the engine for a category: exact up to 4 GiB of scores, on every machine.

    Args:
        images: Number of images of the category.
        size: The size of the images.

    Returns:
        'exact' or 'histogram'.
    """
    return "exact" if images * pixel_count(size) <= MOST_EXACT_PIXELS else "histogram"


def add_batch(
    metrics: CategoryMetrics, split: Split, batch: Scored, on_device: bool
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
    """Add the maps and scores of a batch to the metrics of a category.

    Args:
        metrics: The metrics.
        split: The images of the category.
        batch: Its maps and scores.
        on_device: True to take the maps where they were computed.

    Returns:
        The masks of the batch, (B, H, W), and its labels, (B,). The masks are None for a split without masks.

    Raises:
        CellError: If a map or a score is NaN. The message names the image.
    """
    host, scores = batch.wait()
    masks = np.asarray(split.masks[batch.indices]) if split.has_masks else None
    labels = np.array([sample.anomalous for sample in split.samples[batch.indices]])
    try:
        taken = batch.maps if on_device else host
        metrics.update(maps=taken, masks=masks, image_scores=scores, image_labels=labels)
    except BrokenScoreError as fault:
        sample = split.samples[fault.image]
        image = f"{sample.image.name} ({sample.defect})"
        raise CellError(f"evaluating {sample.category}: the {fault.kind} of {image} holds NaN") from None
    return masks, labels


def fits_device(needed: int, device: torch.device) -> bool:
    """Return True if the device is a GPU and the bytes are at most a quarter of its free memory."""
    return device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] // 4


@dataclass(frozen=True)
class CategoryResults:
    """The results of one category.

    Attributes:
        metrics: The seven metrics, and S-AUROC where several images show one item.
        panels: Images worth looking at.
        evidence: Image scores and curves.
        metric_seconds: Seconds that the computation of metrics took.
        bounds: Metric -> interval that contains the exact value; empty for the exact engine.
        replicates: Metric -> its values on bootstrap samples; empty without resamples.
        further: Further metric -> value.
    """

    metrics: dict[str, float]
    panels: Sequence[Panel]
    evidence: Evidence
    metric_seconds: float
    bounds: dict[str, tuple[float, float]]
    replicates: dict[str, NDArray[np.float64]]
    further: dict[str, float]


class CategoryEvaluation:
    """The evaluation of one category: it takes the maps of its images, batch by batch, and then gives the results.

    Attributes:
        detector: The trained model, in evaluation mode.
        category: Name of the category.
        number: Its index in the dataset.
        split: Its test images.
        options: Options of the evaluation.
        regions: The regions of its test images; None if they are not known.
        thresholds: Thresholds that were set without test labels; None if there are none.
        counts: What the thresholds of pixels do to its maps.
        device: Device of the model.
        metrics: The metrics of the category.
        choice: The choice of panels.
        on_device: True if the metrics take the maps on their device, False if they take a copy on the host.
        metric_seconds: Seconds that the metrics have taken so far.
    """

    def __init__(
        self, detector: Detector, category: str, number: int, split: Split, options: EvaluationOptions
    ) -> None:
        """Prepare the evaluation.

        Args:
            detector: The trained model, in evaluation mode.
            category: Name of the category.
            number: Its index in the dataset.
            split: Its test images.
            options: Options of the evaluation.
        """
        self.detector, self.category, self.number = detector, category, number
        self.split, self.options = split, options
        self.regions: list[ImageRegions] | None = None
        self.thresholds: Thresholds | None = None
        self.counts = PixelCounts({})
        self.device = next(detector.parameters()).device
        self.metrics, self.choice = CategoryMetrics(options.engine), PanelChoice(category, split, options.all_images)
        size = split.image_size
        self.on_device = fits_device(options.sharing * 4 * len(split) * pixel_count(size), self.device)
        self.metric_seconds = 0.0
        if options.keeper is not None:
            options.keeper.begin(category, len(split), size, split.masks if split.has_masks else None)

    def judge(self, thresholds: Thresholds | None) -> None:
        """Prepare to judge the images by thresholds; None for no thresholds."""
        self.thresholds = thresholds
        self.counts = PixelCounts(thresholds.of_pixels(self.category) if thresholds else {})

    def run(self, precision: str, advance: Callable[[int], object]) -> CategoryResults:
        """Evaluate all images of the category.

        Args:
            precision: 'float32', 'bfloat16' or 'float16'.
            advance: Called with the number of images of each batch that is done.

        Returns:
            The results.
        """
        for batch in infer_split(self.detector, self.split, precision, self.options.within_model(self.number)):
            self._add(batch)
            advance(len(batch.maps))
        started = time.perf_counter()
        values = self.metrics.compute()
        if self.split.items is not None:
            values[ITEM.key] = self.metrics.images.item_auroc(self.split.items)
        further = self._further() if self.options.further else {}
        bounds = self.metrics.bounds() if self.options.engine == "histogram" else {}
        resamples, seed = self.options.resamples, self.options.seed + self.number
        replicates = self.metrics.replicates(resamples, seed) if resamples else {}
        seconds = self.metric_seconds + time.perf_counter() - started
        evidence = evidence_of(self.category, self.split.samples, self.metrics.images.all()[0], self.metrics.curves())
        return CategoryResults(values, self.choice.panels(), evidence, seconds, bounds, replicates, further)

    def _further(self) -> dict[str, float]:
        """Compute the metrics beside the seven."""
        values = self.metrics.low_rates(self.regions)
        if self.thresholds is not None:
            values |= image_values(*self.metrics.images.all(), self.thresholds.of_images(self.category))
            values |= self.counts.values()
        return values

    def _add(self, batch: Scored) -> None:
        """Pass the maps and scores of one batch on to the metrics, the choice of panels and the keeper of maps."""
        (host, scores), indices, started = batch.wait(), batch.indices, time.perf_counter()
        masks, labels = add_batch(self.metrics, self.split, batch, self.on_device)
        self.counts.add(host, masks, labels)
        self.metric_seconds += time.perf_counter() - started
        if self.options.keeper is not None:
            self.options.keeper.keep(indices, host)
        for offset, (values, score) in enumerate(zip(host, scores, strict=True)):
            self.choice.see(indices.start + offset, values, float(score))
