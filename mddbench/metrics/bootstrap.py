"""Bootstrap over images: how far a metric would move with other test images of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.device import on_host
from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.images import ImageScores
from mddbench.metrics.intervals import mixed_average_precision
from mddbench.metrics.names import IMAGE_LEVEL, MAD, MEAN, PIXEL_LEVEL, SEVEN
from mddbench.metrics.steps import LIMIT, Steps, area_under_pro, auroc, average_precision, f1_max
from mddbench.metrics.threads import in_threads

Draws = NDArray[np.float64]
"""How often each image was drawn in each sample: (samples, images).

The values are whole numbers. They are stored as floats for fast matrix products.
"""
Metric = Callable[[Steps], float]
BLOCK = 1000
"""Number of samples that are computed at a time."""
GRID = 384
"""Number of edges of each kind in a pixel grid.

GRID edges lie at equal shares of the anomalous pixels.
Another GRID edges lie at equal false-positive rates up to the limit of AUPRO.
"""


def draw(labels: NDArray[np.bool_], resamples: int, seed: int) -> Iterator[Draws]:
    """Draw bootstrap samples of the images, in blocks of at most BLOCK samples.

    Normal and defective images are drawn separately and with replacement, as many of each kind as there are.
    Within each kind the images are drawn independently of any score.

    Args:
        labels: (N,) bool, True for a defective image.
        resamples: Number of samples to draw.
        seed: Seed of the random generator.

    Yields:
        (samples, N) how often each image was drawn in each sample of the block.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        draws = np.zeros((min(BLOCK, resamples - start), len(labels)))
        for label in (False, True):
            images = np.flatnonzero(labels == label)
            if len(images):
                probabilities = np.full(len(images), 1 / len(images))
                draws[:, images] = generator.multinomial(len(images), probabilities, size=len(draws))
        yield draws


def image_replicates(images: ImageScores, draws: Draws) -> dict[str, NDArray[np.float64]]:
    """Compute the image-level metrics of each sample; the values are exact.

    Args:
        images: Scores and labels of all N images of the category.
        draws: (samples, N) how often each image was drawn in each sample.

    Returns:
        Metric key -> (samples,) values, NaN where a metric is not defined.
    """
    scores, labels = images.all()
    distinct, step = np.unique(scores[labels], return_inverse=True)
    order = np.argsort(scores[~labels], kind="stable")
    normals = scores[~labels][order]
    cumulative = np.pad(draws[:, ~labels][:, order].cumsum(axis=1), ((0, 0), (1, 0)))
    negatives = cumulative[:, -1:]
    defect_draws = draws[:, labels][:, np.argsort(step, kind="stable")]
    first = np.flatnonzero(np.diff(np.sort(step), prepend=-1))
    hits = np.add.reduceat(defect_draws, first, axis=1) if len(first) else defect_draws
    above = negatives - cumulative[:, np.searchsorted(normals, distinct, side="right")]
    at_least = negatives - cumulative[:, np.searchsorted(normals, distinct, side="left")]
    counts = (hits[:, ::-1], above[:, ::-1], at_least[:, ::-1], np.zeros_like(hits))
    metrics = (auroc, average_precision, f1_max)
    return _metrics_of_samples(counts, negatives[:, 0], dict(zip(IMAGE_LEVEL, metrics, strict=True)))


@dataclass(frozen=True)
class PixelGrid:
    """Pixel counts of each image on a grid of scores, which is all that samples of images need.

    Attributes:
        anomalous: (images, cells) number of anomalous pixels in each cell, highest scores first.
        normals: (images, cells) number of normal pixels in each cell, highest scores first.
        overlap: (images, cells) sum of 1 / region area over the anomalous pixels of each cell, highest scores first.
        below: (images,) number of normal pixels that score below the grid.
        regions: (images,) number of ground-truth regions.
        exact: Metric key -> exact pixel metric of all images as they are.
    """

    anomalous: NDArray[np.float64]
    normals: NDArray[np.float64]
    overlap: NDArray[np.float64]
    below: NDArray[np.float64]
    regions: NDArray[np.int64]
    exact: dict[str, float]

    @classmethod
    def of(cls, pixels: ExactPixels) -> PixelGrid | None:
        """Count all pixels on a grid, whose edges come from the exact pass.

        Args:
            pixels: All pixels of one category.

        Returns:
            A grid of at most 2 GRID cells; None unless both kinds of pixel exist.
        """
        thresholds, steps = pixels.ranked()
        if not steps.defined:
            return None
        cells = (np.diff(counts, axis=1, prepend=0.0) for counts in _on_grid(pixels, _edges(thresholds, steps)))
        anomalous, normals, overlap = cells
        below = np.concatenate(pixels.sizes) - anomalous.sum(axis=1) - normals.sum(axis=1)
        return cls(anomalous, normals, overlap, below, np.concatenate(pixels.regions), pixels.values())

    def replicates(self, draws: Draws) -> dict[str, NDArray[np.float64]]:
        """Compute the pixel-level metrics of each sample.

        The counts of a sample are sums over the rows of the grid.
        Within a cell, anomalous and normal pixels are assumed to be evenly mixed.
        On the original images this assumption alone changes a value by some 1e-4.
        This change is subtracted from the values of all samples.

        Args:
            draws: (samples, images) how often each image was drawn in each sample.

        Returns:
            Metric key -> (samples,) values, NaN where a metric is not defined.
        """
        original = self._values(np.ones((1, draws.shape[1])))
        return {key: values + (self.exact[key] - original[key][0]) for key, values in self._values(draws).items()}

    def _values(self, draws: Draws) -> dict[str, NDArray[np.float64]]:
        normals = draws @ self.normals
        at_least = normals.cumsum(axis=1)
        regions = np.maximum(draws @ self.regions, 1.0)[:, None]
        counts = (draws @ self.anomalous, at_least - normals, at_least, draws @ self.overlap / regions)
        negatives = at_least[:, -1] + draws @ self.below
        metrics = (auroc, _mixed, f1_max, area_under_pro)
        return _metrics_of_samples(counts, negatives, dict(zip(PIXEL_LEVEL, metrics, strict=True)))


def confidence(
    replicates: Mapping[str, Mapping[str, NDArray[np.float64]]], level: float = 0.95
) -> dict[str, dict[str, tuple[float, float]]]:
    """Compute percentile intervals of each metric for each category and for the mean over the categories.

    Args:
        replicates: Category -> metric key -> (samples,) values. The categories were drawn independently of each other.
        level: Share of the samples that lie within an interval, in (0, 1).

    Returns:
        Category or 'mean' -> metric key -> (low, high) in [0, 1], NaN where a metric is not defined.
        Only 'mean' has the key 'mad', the mean of the seven metrics.
    """
    means: dict[str, NDArray[np.float64]] = {
        key: _mean([values[key] for values in replicates.values()]) for key in SEVEN
    }
    means[MAD.key] = np.mean([means[key] for key in SEVEN], axis=0)
    ends = ((1 - level) / 2, (1 + level) / 2)

    def interval(values: NDArray[np.float64]) -> tuple[float, float]:
        low, high = np.quantile(np.clip(values, 0.0, 1.0), ends)  # NaN if the metric is undefined in any sample
        return float(low), float(high)

    return {
        category: {key: interval(values) for key, values in metrics.items()}
        for category, metrics in {MEAN: means, **replicates}.items()
    }


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean over the categories where the metric is defined; NaN if there is none."""
    defined = [category for category in values if not np.isnan(category).all()]
    return np.mean(defined, axis=0) if defined else np.full_like(values[0], np.nan)


def _mixed(steps: Steps) -> float:
    return mixed_average_precision(steps, np.zeros(len(steps.hits), dtype=np.bool_))


def _metrics_of_samples(
    counts: tuple[NDArray[np.float64], ...], negatives: NDArray[np.float64], metrics: Mapping[str, Metric]
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of each sample.

    Args:
        counts: `Steps.hits`, `above`, `at_least` and `overlap`, each (samples, T) with the highest score first.
        negatives: (samples,) number of normal items.
        metrics: Metric key -> function that computes the metric.

    Returns:
        Metric key -> (samples,) values.
    """
    values = {key: np.empty(len(negatives)) for key in metrics}
    for sample, (hits, above, at_least, overlap) in enumerate(zip(*counts, strict=True)):
        drawn = hits > 0
        steps = Steps(
            hits=hits[drawn].astype(np.int64),
            above=above[drawn].astype(np.int64),
            at_least=at_least[drawn].astype(np.int64),
            negatives=int(negatives[sample]),
            overlap=overlap[drawn],
        )
        for key, metric in metrics.items():
            values[key][sample] = metric(steps)
    return values


def _edges(thresholds: NDArray[np.floating], steps: Steps) -> NDArray[np.floating]:
    """Return the lower edges of the cells, highest first; the last is the lowest score of an anomalous pixel."""
    shares = np.searchsorted(np.cumsum(steps.hits), np.linspace(0, steps.positives, GRID + 1)[1:])
    rates = np.searchsorted(steps.at_least, np.linspace(0, LIMIT * steps.negatives, GRID + 1)[1:])
    chosen = np.unique(np.concatenate([shares, rates[rates < len(thresholds)], [len(thresholds) - 1]]))
    edges: NDArray[np.floating] = thresholds[chosen]
    return edges


def _on_grid(pixels: ExactPixels, edges: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    """Count the pixels of each image at or above each edge.

    Args:
        pixels: All pixels of one category.
        edges: (edges,) lower edges of the cells.

    Returns:
        Anomalous pixels, normal pixels and summed 1 / region area at or above each edge: (images, edges) each.
    """
    images = pixels.by_image()
    anomalous, normals, overlap = np.zeros((3, len(images), len(edges)))

    def count_image(index: int) -> None:
        scores, anomalous_scores, areas = images[index]
        ordered = np.sort(on_host(scores).astype(edges.dtype, copy=False))
        order = np.argsort(anomalous_scores)
        cumulative = np.append(0.0, np.cumsum(1.0 / areas[order][::-1]))
        anomalous[index] = len(anomalous_scores) - np.searchsorted(anomalous_scores[order], edges, side="left")
        normals[index] = len(ordered) - np.searchsorted(ordered, edges, side="left") - anomalous[index]
        overlap[index] = cumulative[anomalous[index].astype(np.int64)]

    in_threads(count_image, range(len(images)))
    return anomalous, normals, overlap
