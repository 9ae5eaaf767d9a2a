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
from mddbench.metrics.names import IMAGE_LEVEL, PIXEL_LEVEL, SEVEN
from mddbench.metrics.steps import LIMIT, Steps, area_under_pro, auroc, average_precision, f1_max
from mddbench.metrics.threads import in_threads

Draws = NDArray[np.float64]
"""(resamples, images) how often each image was drawn: whole numbers, as floats for fast matrix products."""
Metric = Callable[[Steps], float]
BLOCK = 1000
"""Samples worked on at a time."""
GRID = 384
"""Edges at equal shares of the anomalous pixels, and as many at equal false-positive rates up to AUPRO's limit."""


def draw(labels: NDArray[np.bool_], resamples: int, seed: int) -> Iterator[Draws]:
    """Bootstrap samples of images, in blocks: normal and defective ones each drawn with replacement, as many as there are.

    labels: (N,) True for defective. Within each kind the images are drawn independently of any score.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        draws = np.zeros((min(BLOCK, resamples - start), len(labels)))
        for kind in (False, True):
            images = np.flatnonzero(labels == kind)
            if len(images):
                shares = np.full(len(images), 1 / len(images))
                draws[:, images] = generator.multinomial(len(images), shares, size=len(draws))
        yield draws


def image_replicates(images: ImageScores, draws: Draws) -> dict[str, NDArray[np.float64]]:
    """The image-level metrics of each sample, exact: (resamples,), NaN where not defined."""
    scores, labels = images.all()
    distinct, step = np.unique(scores[labels], return_inverse=True)
    order = np.argsort(scores[~labels], kind="stable")
    normals = scores[~labels][order]
    drawn = np.pad(draws[:, ~labels][:, order].cumsum(axis=1), ((0, 0), (1, 0)))
    negatives = drawn[:, -1:]
    of_defects = draws[:, labels][:, np.argsort(step, kind="stable")]
    first = np.flatnonzero(np.diff(np.sort(step), prepend=-1))
    hits = np.add.reduceat(of_defects, first, axis=1) if len(first) else of_defects
    above = negatives - drawn[:, np.searchsorted(normals, distinct, side="right")]
    at_least = negatives - drawn[:, np.searchsorted(normals, distinct, side="left")]
    parts = (hits[:, ::-1], above[:, ::-1], at_least[:, ::-1], np.zeros_like(hits))
    return _each(parts, negatives[:, 0], dict(zip(IMAGE_LEVEL, (auroc, average_precision, f1_max), strict=True)))


@dataclass(frozen=True)
class PixelGrid:
    """The pixels of each image counted on a grid of scores: all that samples of images need.

    found, normals, overlap: (images, cells) anomalous pixels, normal pixels and summed 1 / area of each cell, highest first;
    outside: (images,) normal pixels below the grid; regions: (images,); exact: the pixel metrics of all images.
    """

    found: NDArray[np.float64]
    normals: NDArray[np.float64]
    overlap: NDArray[np.float64]
    outside: NDArray[np.float64]
    regions: NDArray[np.int64]
    exact: dict[str, float]

    @classmethod
    def of(cls, pixels: ExactPixels) -> PixelGrid | None:
        """The grid of all pixels, with up to 2 GRID cells, whose edges the exact pass provides; None without both kinds of
        pixel.
        """
        thresholds, steps = pixels.ranked()
        if not steps.defined:
            return None
        cells = (np.diff(counts, axis=1, prepend=0.0) for counts in _on_grid(pixels, _edges(thresholds, steps)))
        found, normals, overlap = cells
        outside = np.concatenate(pixels.sizes) - found.sum(axis=1) - normals.sum(axis=1)
        return cls(found, normals, overlap, outside, np.concatenate(pixels.regions), pixels.values())

    def replicates(self, draws: Draws) -> dict[str, NDArray[np.float64]]:
        """The pixel-level metrics of each sample: (resamples,), NaN where not defined.

        A sample's counts are sums of rows. Within a cell pixels are taken to lie evenly mixed; what that alone changes on the
        images as they are (some 1e-4) is taken off every value.
        """
        as_they_are = self._values(np.ones((1, draws.shape[1])))
        return {key: values + (self.exact[key] - as_they_are[key][0]) for key, values in self._values(draws).items()}

    def _values(self, draws: Draws) -> dict[str, NDArray[np.float64]]:
        normals = draws @ self.normals
        at_least = normals.cumsum(axis=1)
        regions = np.maximum(draws @ self.regions, 1.0)[:, None]
        parts = (draws @ self.found, at_least - normals, at_least, draws @ self.overlap / regions)
        metrics = (auroc, _mixed, f1_max, area_under_pro)
        return _each(parts, at_least[:, -1] + draws @ self.outside, dict(zip(PIXEL_LEVEL, metrics, strict=True)))


def confidence(
    replicates: Mapping[str, Mapping[str, NDArray[np.float64]]], level: float = 0.95
) -> dict[str, dict[str, tuple[float, float]]]:
    """Percentile intervals of each metric for each category, for 'mean' over them, and of its `mad`; NaN where not defined.

    replicates: category -> metric -> (resamples,) values. Categories were drawn independently of each other.
    """
    means: dict[str, NDArray[np.float64]] = {
        key: _mean([values[key] for values in replicates.values()]) for key in SEVEN
    }
    means["mad"] = np.mean([means[key] for key in SEVEN], axis=0)
    ends = ((1 - level) / 2, (1 + level) / 2)

    def interval(values: NDArray[np.float64]) -> tuple[float, float]:
        low, high = np.quantile(np.clip(values, 0.0, 1.0), ends)  # NaN if any sample left the metric undefined
        return float(low), float(high)

    return {
        place: {key: interval(values) for key, values in metrics.items()}
        for place, metrics in {"mean": means, **replicates}.items()
    }


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean over the categories where the metric is defined; NaN if there is none."""
    defined = [category for category in values if not np.isnan(category).all()]
    return np.mean(defined, axis=0) if defined else np.full_like(values[0], np.nan)


def _mixed(steps: Steps) -> float:
    return mixed_average_precision(steps, np.zeros(len(steps.hits), dtype=np.bool_))


def _each(
    parts: tuple[NDArray[np.float64], ...], negatives: NDArray[np.float64], metrics: Mapping[str, Metric]
) -> dict[str, NDArray[np.float64]]:
    """Metrics of many samples. parts: hits, above, at_least, overlap, each (samples, T), highest score first; negatives:
    (samples,).
    """
    values = {key: np.empty(len(negatives)) for key in metrics}
    for sample, (hits, above, at_least, overlap) in enumerate(zip(*parts, strict=True)):
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
    """The lower edges of the grid's cells, highest first, the last being the lowest score of an anomalous pixel."""
    shares = np.searchsorted(np.cumsum(steps.hits), np.linspace(0, steps.positives, GRID + 1)[1:])
    rates = np.searchsorted(steps.at_least, np.linspace(0, LIMIT * steps.negatives, GRID + 1)[1:])
    chosen = np.unique(np.concatenate([shares, rates[rates < len(thresholds)], [len(thresholds) - 1]]))
    edges: NDArray[np.floating] = thresholds[chosen]
    return edges


def _on_grid(pixels: ExactPixels, edges: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    """For each image and edge the anomalous pixels, the normal pixels and the summed 1 / area at or above: (images, edges)
    each.
    """
    images = pixels.by_image()
    found, normals, overlap = np.zeros((3, len(images), len(edges)))

    def counted(index: int) -> None:
        scores, anomalous, areas = images[index]
        ordered = np.sort(on_host(scores).astype(edges.dtype, copy=False))
        ranks = np.argsort(anomalous)
        shares = np.append(0.0, np.cumsum(1.0 / areas[ranks][::-1]))
        found[index] = len(anomalous) - np.searchsorted(anomalous[ranks], edges, side="left")
        normals[index] = len(ordered) - np.searchsorted(ordered, edges, side="left") - found[index]
        overlap[index] = shares[found[index].astype(np.int64)]

    in_threads(counted, range(len(images)))
    return found, normals, overlap
