"""Metrics written plainly from their definitions, and drawn maps: what the tests and the benchmarks compare with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mddbench.metrics.names import PIXEL_LEVEL


def naive_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected regions by flood fill."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    regions = []
    while left:
        todo = [left.pop()]
        region = set(todo)
        while todo:
            y, x = todo.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            region |= near
            todo.extend(near)
        regions.append(region)
    return regions


def naive_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """PRO at every distinct threshold, one after the other; trapezoids up to the limit."""
    regions = [(index, region) for index, mask in enumerate(masks) for region in naive_regions(mask)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        hit = maps >= threshold
        rate = float(hit[~masks].sum() / (~masks).sum())
        overlap = np.mean([np.mean([hit[index][place] for place in region]) for index, region in regions])
        points.append((rate, float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit:
            end = min(x1, limit)
            height = y1 if x1 == end else y0 + (end - x0) / (x1 - x0) * (y1 - y0)
            area += (end - x0) * (y0 + height) / 2
    return area / limit


def sorted_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """The algorithm of MVTec's evaluation code, in float64: all pixels sorted once, every distinct threshold a point."""
    weights, regions = np.zeros(masks.shape), 0
    for mask, weight in zip(masks, weights, strict=True):
        labelled, found = label(mask, structure=np.ones((3, 3)))
        if found:
            areas = np.bincount(labelled.reshape(-1)).astype(np.float64)
            areas[0] = np.inf
            weight[...] = (1 / areas)[labelled]
            regions += found
    scores = maps.reshape(-1)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    rate = np.append(0.0, np.cumsum(~masks.reshape(-1)[order])[last] / np.count_nonzero(~masks))
    overlap = np.append(0.0, np.cumsum(weights.reshape(-1)[order])[last] / regions)
    within = int(np.searchsorted(rate, limit, side="right"))
    rates = np.append(rate[:within], limit)
    overlaps = np.append(overlap[:within], np.interp(limit, rate, overlap))
    return float(np.sum(np.diff(rates) * (overlaps[1:] + overlaps[:-1])) / 2 / limit)


def sklearn_f1_max(truth: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())


def reference_pixel_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """The four pixel metrics by scikit-learn and `sorted_aupro`."""
    truth, scores = masks.reshape(-1), maps.reshape(-1).astype(np.float64)
    found = (
        roc_auc_score(truth, scores),
        average_precision_score(truth, scores),
        sklearn_f1_max(truth, scores),
        sorted_aupro(maps.astype(np.float64), masks),
    )
    return dict(zip(PIXEL_LEVEL, map(float, found), strict=True))


def drawn_maps(images: int, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Smooth noise in float32 with raised ellipses in 70 % of the images: what `evaluate` takes."""
    generator = np.random.default_rng(seed)
    maps, masks = np.empty((images, size, size), np.float32), np.zeros((images, size, size), bool)
    rows, columns = np.mgrid[:size, :size]
    for values, mask in zip(maps, masks, strict=True):
        noise = gaussian_filter(generator.normal(size=(size, size)), 4, mode="wrap")
        noise /= noise.std()
        for _ in range(generator.integers(1, 5) if generator.random() < 0.7 else 0):
            y, x = generator.uniform(0.1 * size, 0.9 * size, 2)
            long, short = generator.uniform(0.02 * size, 0.1 * size, 2)
            turn = generator.uniform(0, np.pi)
            along = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
            across = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
            ellipse = np.square(along / long) + np.square(across / short) <= 1
            mask[ellipse] = True
            noise[ellipse] += generator.uniform(1, 3)
        values[...] = noise
    labels = masks.any(axis=(1, 2))
    return {"maps": maps, "masks": masks, "image_scores": maps.max(axis=(1, 2)), "image_labels": labels}


def naive_aupimo(maps: np.ndarray, masks: np.ndarray, labels: np.ndarray, low: float, high: float) -> list[float]:
    """Each defective image's recall and the normal images' rate at every threshold; trapezoids over log(rate)."""
    normal, values = maps[~labels], []
    for scores, mask in zip(maps[labels], masks[labels], strict=True):
        if not mask.any():
            values.append(float("nan"))
            continue
        area, rate, recall = 0.0, 0.0, 0.0
        for threshold in np.unique(maps)[::-1]:
            next_rate = float(np.mean([np.mean(image >= threshold) for image in normal]))
            next_recall = float(np.mean(scores[mask] >= threshold))
            start, end = max(rate, low), min(next_rate, high)
            if start < end:
                ends = [next_recall, next_recall]  # from rate 0, which has no logarithm
                if rate > 0:
                    slope = (next_recall - recall) / np.log(next_rate / rate)
                    ends = [recall + slope * np.log(x / rate) for x in (start, end)]
                area += np.log(end / start) * sum(ends) / 2
            rate, recall = next_rate, next_recall
        values.append(float(area / np.log(high / low)))
    return values


def naive_spro(
    maps: np.ndarray, masks: np.ndarray, regions: list[list[tuple[np.ndarray, float]]], limit: float
) -> float:
    """Mean of min(found / saturation area, 1) over (mask, share) of all images, at every distinct threshold."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        rate = float((maps[~masks] >= threshold).mean())
        overlaps = [
            min((scores[mask] >= threshold).sum() / (share * mask.sum()), 1.0)
            for scores, of_image in zip(maps, regions, strict=True)
            for mask, share in of_image
        ]
        points.append((rate, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        end = min(x1, limit)
        if x0 < end:
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit
