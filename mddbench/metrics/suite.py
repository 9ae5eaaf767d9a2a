"""The seven metrics of one category. The one interface between maps and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mddbench.metrics import counts
from mddbench.metrics.names import SEVEN


def evaluate(
    *,
    maps: NDArray[np.floating],
    masks: NDArray[np.bool_] | None,
    image_scores: NDArray[np.floating],
    image_labels: NDArray[np.bool_],
) -> dict[str, float]:
    """The seven metrics of one category, each in [0, 1], exact; NaN where a metric is not defined.

    maps: (N, H, W) floats, higher is more anomalous; masks: (N, H, W) True on defects, None if the data set has no masks;
    image_scores: (N,); image_labels: (N,) True for defective, from the data set and never from a mask.

    A metric is not defined without at least one anomalous and one normal item (image or pixel).
    Raises ValueError if shapes disagree or a map or score is NaN (the image is named).
    """
    labels = np.asarray(image_labels, dtype=bool)
    _check(maps, masks, image_scores, labels)
    images = counts.count(np.asarray(image_scores), labels)
    values = [counts.auroc(images), counts.average_precision(images), counts.f1_max(images)]
    if masks is None:
        values += [float("nan")] * 4
    else:
        pixels = counts.count(np.asarray(maps).reshape(-1), np.asarray(masks, bool).reshape(-1), region_weights(masks))
        values += [
            counts.auroc(pixels),
            counts.average_precision(pixels),
            counts.f1_max(pixels),
            counts.area_under_pro(pixels),
        ]
    return dict(zip(SEVEN, values, strict=True))


def region_weights(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N*H*W,) 1 / (area of the pixel's region x number of regions); regions are 8-connected and lie within one image."""
    weights = np.zeros(masks.shape, dtype=np.float64)
    regions = 0
    for mask, weight in zip(masks, weights, strict=True):
        labelled, found = ndimage.label(mask, structure=np.ones((3, 3)))
        if found:
            areas = np.bincount(labelled.reshape(-1)).astype(np.float64)
            areas[0] = np.inf
            weight[...] = (1.0 / areas)[labelled]
            regions += found
    return weights.reshape(-1) / max(regions, 1)


def mean_over_categories(per_category: dict[str, dict[str, float]]) -> dict[str, float]:
    """The unweighted mean of each metric over the categories where it is defined, and `mad`, the mean of the seven.

    `mad` is NaN if any of the seven is.
    """
    means: dict[str, float] = {}
    for key in SEVEN:
        defined = [values[key] for values in per_category.values() if not np.isnan(values[key])]
        means[key] = float(np.mean(defined)) if defined else float("nan")
    means["mad"] = float(np.mean([means[key] for key in SEVEN]))
    return means


def _check(maps: Any, masks: Any, scores: Any, labels: NDArray[np.bool_]) -> None:
    if maps.ndim != 3 or len(maps) != len(scores) or labels.shape != np.shape(scores) or len(maps) == 0:
        raise ValueError(
            f"expected maps (N, H, W), image_scores (N,) and image_labels (N,) with N > 0, found shapes "
            f"{maps.shape}, {np.shape(scores)} and {labels.shape}"
        )
    if masks is not None and masks.shape != maps.shape:
        raise ValueError(f"expected masks of the maps' shape {maps.shape}, found {masks.shape}")
    for what, array in (("map", maps), ("score", scores)):
        broken = np.isnan(array).reshape(len(maps), -1).any(axis=1)
        if broken.any():
            raise ValueError(f"image {int(np.argmax(broken))}: its {what} holds NaN")
