"""Evaluation of a trained model, one category after another.

Of the maps only the data for exact metrics stays in memory, and the few maps that people look at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.batch import as_images
from mddbench.data.dataset import Dataset, Split
from mddbench.detector import Detector
from mddbench.engine.device import autocast
from mddbench.errors import CellError
from mddbench.metrics.bootstrap import confidence
from mddbench.metrics.names import ITEM, Engine
from mddbench.metrics.suite import BrokenScoreError, CategoryMetrics, mean_over_categories
from mddbench.progress import WARNING, Reporter
from mddbench.runs.evidence import Evidence, evidence_of
from mddbench.runs.maps import MapKeeper
from mddbench.runs.panels import Panel, PanelChoice

BATCH_SIZE = 32
"""Number of images that are evaluated at once."""
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
    """

    metrics: dict[str, dict[str, float]]
    panels: tuple[Panel, ...]
    evidence: tuple[Evidence, ...] = ()
    metric_seconds: float = 0.0
    bounds: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    confidence: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)


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
    """

    engine: Engine = "exact"
    resamples: int = 0
    seed: int = 0
    before: Callable[[str], object] = lambda _: None
    keeper: MapKeeper | None = None
    sharing: int = 1


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
    metrics: dict[str, dict[str, float]] = {}
    bounds: dict[str, dict[str, tuple[float, float]]] = {}
    replicates: dict[str, dict[str, NDArray[np.float64]]] = {}
    panels: list[Panel] = []
    evidence: list[Evidence] = []
    metric_seconds = 0.0
    if options.resamples and options.engine == "histogram":
        reporter.say(f"{WARNING}the histogram engine has no confidence intervals of pixel metrics")
    with reporter.task("evaluating", len(dataset.test)) as task:
        for number, category in enumerate(dataset.categories):
            split = dataset.test.of(category)
            options.before(category)
            detector.told_category = min(number, detector.categories - 1) if detector.wants_test_labels else None
            measured, choice = CategoryMetrics(options.engine), PanelChoice(category, split)
            size = split.images.shape[1]
            if options.keeper is not None:
                options.keeper.begin(category, len(split), size, split.masks if split.has_masks else None)
            on_device = _fits_device(options.sharing * 4 * len(split) * size**2, next(detector.parameters()).device)
            consumer = _BatchConsumer(measured, choice, options.keeper, on_device)
            for indices, maps, scores in _infer(detector, split, precision):
                metric_seconds += consumer.add(indices, maps, scores)
                task.advance(len(scores))
            started = time.perf_counter()
            metrics[category] = measured.compute()
            if split.items is not None:
                metrics[category][ITEM.key] = measured.images.item_auroc(split.items)
            if options.engine == "histogram":
                bounds[category] = measured.bounds()
            if options.resamples:
                replicates[category] = measured.replicates(options.resamples, options.seed + number)
            metric_seconds += time.perf_counter() - started
            panels += choice.panels()
            evidence.append(evidence_of(category, split.samples, measured.images.all()[0], measured.curves()))
    detector.told_category = None
    return Evaluation(
        metrics={"mean": mean_over_categories(metrics), **metrics},
        panels=tuple(panels),
        evidence=tuple(evidence),
        metric_seconds=metric_seconds,
        bounds=bounds,
        confidence=confidence(replicates) if replicates else {},
    )


def choose_engine(images: int, size: int) -> Engine:
    """Choose the engine for a category: exact up to 4 GiB of scores, on every machine.

    Args:
        images: Number of images of the category.
        size: Side of the square images in pixels.

    Returns:
        'exact' or 'histogram'.
    """
    return "exact" if images * size**2 <= MOST_EXACT_PIXELS else "histogram"


def _fits_device(needed: int, device: torch.device) -> bool:
    """Return True if the device is a GPU and the bytes are at most a quarter of its free memory."""
    return device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] // 4


@dataclass(frozen=True)
class _BatchConsumer:
    """Passes the batches of a category on to the metrics, the choice of panels and the keeper of maps.

    Attributes:
        metrics: The metrics of the category.
        choice: The choice of panels.
        keeper: Writes all maps to disk; None if they are not wanted.
        on_device: True if the metrics take the maps on their device, False if they take a copy on the host.
    """

    metrics: CategoryMetrics
    choice: PanelChoice
    keeper: MapKeeper | None
    on_device: bool

    def add(self, indices: slice, maps: torch.Tensor, scores: NDArray[np.floating]) -> float:
        """Add one batch.

        Args:
            indices: Indices of the images in the split.
            maps: (B, H, W) anomaly maps.
            scores: (B,) image scores.

        Returns:
            Seconds that the metrics took.

        Raises:
            CellError: If a map or a score is NaN. The message names the image.
        """
        split, host = self.choice.split, maps.cpu()
        started = time.perf_counter()
        try:
            self.metrics.update(
                maps=maps if self.on_device else host,
                masks=np.asarray(split.masks[indices]) if split.has_masks else None,
                image_scores=scores,
                image_labels=np.array([sample.anomalous for sample in split.samples[indices]]),
            )
        except BrokenScoreError as fault:
            sample = split.samples[fault.image]
            image = f"{sample.image.name} ({sample.defect})"
            raise CellError(f"evaluating {self.choice.category}: the {fault.kind} of {image} holds NaN") from None
        seconds = time.perf_counter() - started
        if self.keeper is not None:
            self.keeper.keep(indices, host.numpy())
        for offset, (values, score) in enumerate(zip(host.numpy(), scores, strict=True)):
            self.choice.see(indices.start + offset, values, float(score))
        return seconds


def _at_least_single(values: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32 without loss; keep float64, because rounding could make scores equal."""
    return values if values.dtype == torch.float64 else values.float()


@torch.inference_mode()
def _infer(
    detector: Detector, split: Split, precision: str
) -> Iterator[tuple[slice, torch.Tensor, NDArray[np.floating]]]:
    """Compute the maps and scores of a split, batch by batch, in its order.

    Args:
        detector: The trained model, in evaluation mode.
        split: The images.
        precision: 'float32', 'bfloat16' or 'float16'.

    Yields:
        Indices of the images, anomaly maps (B, H, W) on the device, and image scores (B,) on the host.
        Maps and scores are as the method returned them, but at least float32.
    """
    device = next(detector.parameters()).device
    for start in range(0, len(split), BATCH_SIZE):
        indices = slice(start, min(start + BATCH_SIZE, len(split)))
        images = as_images(split.images[indices], device)
        with autocast(device, precision):
            maps = _at_least_single(detector.anomaly_maps(images))
            scores = _at_least_single(detector.image_scores(maps))
        yield indices, maps, scores.cpu().numpy()
