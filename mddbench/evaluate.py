"""Evaluation: category by category, never holding the maps of more than one."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.batch import as_images
from mddbench.data.dataset import Dataset, Split
from mddbench.detector import Detector
from mddbench.metrics.suite import evaluate as seven_metrics
from mddbench.metrics.suite import mean_over_categories
from mddbench.panels import Panel, choose_panels
from mddbench.progress import Reporter, Task
from mddbench.train import autocast, synchronize

BATCH_SIZE = 32


@dataclass(frozen=True)
class Evaluation:
    """metrics: 'mean' and each category -> the seven metrics, NaN where not defined; panels: images worth looking at;
    seconds: inference alone, without the first batch; images: how many those seconds were for.
    """

    metrics: dict[str, dict[str, float]]
    panels: tuple[Panel, ...]
    seconds: float
    images: int


class _Clock:
    """Adds up inference time, leaving out the first batch, which warms up."""

    def __init__(self) -> None:
        self.seconds, self.images, self.warm = 0.0, 0, False

    def add(self, seconds: float, images: int) -> None:
        if self.warm:
            self.seconds, self.images = self.seconds + seconds, self.images + images
        self.warm = True


def evaluate(detector: Detector, dataset: Dataset, precision: str, reporter: Reporter) -> Evaluation:
    """The seven metrics of each category of the test split, and their means."""
    detector.eval()
    clock = _Clock()
    metrics: dict[str, dict[str, float]] = {}
    panels: list[Panel] = []
    with reporter.task("evaluating", len(dataset.test)) as task:
        for category in dataset.categories:
            split = dataset.test.of(category)
            maps, scores = _infer(detector, split, precision, clock, task)
            labels = np.array([sample.anomalous for sample in split.samples])
            masks = np.asarray(split.masks) if split.has_masks else None
            metrics[category] = seven_metrics(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
            panels += choose_panels(category, split, maps, scores)
    return Evaluation({"mean": mean_over_categories(metrics), **metrics}, tuple(panels), clock.seconds, clock.images)


@torch.inference_mode()
def _infer(
    detector: Detector, split: Split, precision: str, clock: _Clock, task: Task
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Anomaly maps (N, H, W) and image scores (N,) of a split, in its order."""
    device = next(detector.parameters()).device
    maps = np.empty(split.images.shape[:3], dtype=np.float32)
    scores = np.empty(len(split), dtype=np.float32)
    for start in range(0, len(split), BATCH_SIZE):
        part = slice(start, min(start + BATCH_SIZE, len(split)))
        images = as_images(split.images[part], device)
        synchronize(device)
        started = time.perf_counter()
        with autocast(device, precision):
            found = detector.anomaly_maps(images).float()
            scored = detector.image_scores(found).float()
        synchronize(device)
        clock.add(time.perf_counter() - started, len(images))
        maps[part], scores[part] = found.cpu().numpy(), scored.cpu().numpy()
        task.advance(len(images))
    return maps, scores
