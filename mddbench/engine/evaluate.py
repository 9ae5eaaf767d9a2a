"""Evaluation, category by category: what is kept of a map is what exact metrics need, and the few that people look at."""

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
MOST_EXACT_PIXELS = 2**30


@dataclass(frozen=True)
class Evaluation:
    """metrics: 'mean' and each category -> the seven metrics, NaN where not defined, and S-AUROC where several images show one
    item; panels: images worth looking at; evidence: image scores and curves, category by category;
    metric_seconds: spent on metrics; bounds: category -> metric -> interval that holds the exact value, of the histogram
    engine; confidence: 'mean' and each category -> metric -> 95 % bootstrap interval, if resamples were asked for.
    """

    metrics: dict[str, dict[str, float]]
    panels: tuple[Panel, ...]
    evidence: tuple[Evidence, ...] = ()
    metric_seconds: float = 0.0
    bounds: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    confidence: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationOptions:
    """engine: of the pixel metrics; resamples: bootstrap samples, 0 for no intervals; seed: of the first category's samples;
    before: called with each category before it is evaluated; keeper: keeps all maps, if they are wanted;
    sharing: how many cells run on the device at once.
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
    """The seven metrics of each category of the test split, and their means.

    Raises CellError, naming the image, if a map or score is NaN.
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
            found, choice = CategoryMetrics(options.engine), PanelChoice(category, split)
            if options.keeper is not None:
                options.keeper.begin(
                    category, len(split), split.images.shape[1], split.masks if split.has_masks else None
                )
            needed = options.sharing * 4 * len(split) * split.images.shape[1] ** 2
            stays = _fits_device(needed, next(detector.parameters()).device)
            taker = _Taker(found, choice, options.keeper, stays)
            for part, maps, scores in _infer(detector, split, precision):
                metric_seconds += taker.take(part, maps, scores)
                task.advance(len(scores))
            started = time.perf_counter()
            metrics[category] = found.compute()
            if split.items is not None:
                metrics[category][ITEM.key] = found.images.item_auroc(split.items)
            if options.engine == "histogram":
                bounds[category] = found.bounds()
            if options.resamples:
                replicates[category] = found.replicates(options.resamples, options.seed + number)
            metric_seconds += time.perf_counter() - started
            panels += choice.panels()
            evidence.append(evidence_of(category, split.samples, found.images.all()[0], found.curves()))
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
    """The engine for a category of so many images: exact up to 4 GiB of scores, whatever the machine."""
    return "exact" if images * size**2 <= MOST_EXACT_PIXELS else "histogram"


def _fits_device(needed: int, device: torch.device) -> bool:
    """Whether so many bytes of maps may stay on the device: at most a quarter of its free memory; never that of the host."""
    return device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] // 4


@dataclass(frozen=True)
class _Taker:
    """Hands a category's batches on: to the metrics, the choice of panels and the keeper of maps. stays: whether the metrics
    take the maps where they lie, instead of on the host.
    """

    metrics: CategoryMetrics
    choice: PanelChoice
    keeper: MapKeeper | None
    stays: bool

    def take(self, part: slice, maps: torch.Tensor, scores: NDArray[np.floating]) -> float:
        """One batch; the metrics' seconds. Raises CellError, naming the image, for a NaN."""
        split, host = self.choice.split, maps.cpu()
        started = time.perf_counter()
        try:
            self.metrics.update(
                maps=maps if self.stays else host,
                masks=np.asarray(split.masks[part]) if split.has_masks else None,
                image_scores=scores,
                image_labels=np.array([sample.anomalous for sample in split.samples[part]]),
            )
        except BrokenScoreError as fault:
            sample = split.samples[fault.image]
            raise CellError(
                f"evaluating {self.choice.category}: the {fault.kind} of {sample.image.name} ({sample.defect}) holds NaN"
            ) from None
        seconds = time.perf_counter() - started
        if self.keeper is not None:
            self.keeper.keep(part, host.numpy())
        for offset, (values, score) in enumerate(zip(host.numpy(), scores, strict=True)):
            self.choice.see(part.start + offset, values, float(score))
        return seconds


def _widened(values: torch.Tensor) -> torch.Tensor:
    """float32 of half precision, which loses nothing; float64 stays, as rounding could make scores equal."""
    return values if values.dtype == torch.float64 else values.float()


@torch.inference_mode()
def _infer(
    detector: Detector, split: Split, precision: str
) -> Iterator[tuple[slice, torch.Tensor, NDArray[np.floating]]]:
    """Batches of a split in its order: which images, their anomaly maps (B, H, W) on the device, their scores (B,), both as the
    method gave them, but at least float32.
    """
    device = next(detector.parameters()).device
    for start in range(0, len(split), BATCH_SIZE):
        part = slice(start, min(start + BATCH_SIZE, len(split)))
        images = as_images(split.images[part], device)
        with autocast(device, precision):
            maps = _widened(detector.anomaly_maps(images))
            scores = _widened(detector.image_scores(maps))
        yield part, maps, scores.cpu().numpy()
