"""Measures maps, or a model of one's own, by the definitions and under the protocol of the suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mddbench.api.paths import OUT, PathName, path_of
from mddbench.data.dataset import Dataset, open_dataset, root_of
from mddbench.data.own import CACHE
from mddbench.errors import InputError
from mddbench.metrics.names import COLUMNS, MEAN, SEVEN
from mddbench.metrics.suite import CategoryMetrics, mean_over_categories
from mddbench.progress import reporter
from mddbench.sizes import ImageSize, demand_size

if TYPE_CHECKING:
    import pandas as pd
    import torch

ALL = "all"
"""Name of the category of maps that are not divided into categories."""


def evaluate(
    *,
    maps: ArrayLike,
    masks: ArrayLike | None,
    image_scores: ArrayLike | None = None,
    image_labels: ArrayLike | None = None,
    categories: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compute the seven metrics of anomaly maps, exactly, by the suite's definitions.

    Args:
        maps: (N, H, W) anomaly maps, higher is more anomalous.
        masks: (N, H, W) True on defects; None if there are no masks.
        image_scores: (N,) image scores; None for the maximum of each map.
        image_labels: (N,) True for defective images; None for those whose mask is not empty.
        categories: (N,) category of each image; None if they are all of one.

    Returns:
        A row for each category, and 'mean' for their unweighted mean. A metric is NaN where it is not defined.

    Raises:
        InputError: If shapes disagree, a map holds NaN, or there are neither masks nor labels.
    """
    values = np.asarray(maps)
    if masks is None and image_labels is None:
        raise InputError("evaluate: without masks, image_labels must say which images are defective")
    defects = None if masks is None else np.asarray(masks)
    if values.ndim != 3 or 0 in values.shape or (defects is not None and defects.shape != values.shape):
        shapes = str(values.shape) if defects is None else f"{values.shape} and {defects.shape}"
        raise InputError(f"evaluate: expected maps and masks (N, H, W), none of them empty, found {shapes}")
    scores = values.max(axis=(1, 2)) if image_scores is None else np.asarray(image_scores)
    of_masks = None if defects is None else defects.any(axis=(1, 2))
    labels: NDArray[Any] = np.asarray(of_masks if image_labels is None else image_labels)
    names = np.asarray([ALL] * len(values) if categories is None else list(categories))
    if not len(scores) == len(labels) == len(names) == len(values):
        raise InputError(
            f"evaluate: {len(values)} maps, {len(scores)} image_scores, {len(labels)} image_labels and "
            f"{len(names)} categories; expected one of each for every image"
        )
    metrics = {name: CategoryMetrics() for name in dict.fromkeys(names.tolist())}
    for name, category in metrics.items():
        chosen = names == name
        _add(
            category,
            values[chosen],
            None if defects is None else defects[chosen],
            scores[chosen],
            labels[chosen],
        )
    return _table({name: each.compute() for name, each in metrics.items()})


def dataset(
    name: str,
    *,
    data_root: PathName | None = None,
    image_size: ImageSize = 256,
    out: PathName = OUT,
    quiet: bool = True,
) -> Dataset:
    """Open a dataset: its files are read, checked, fingerprinted and decoded once.

    An InputError is raised for the first fault of the tree or of a file, and for a size that is none.

    Args:
        name: Name of the dataset, such as 'mini', 'mvtec' or 'folder'.
        data_root: The dataset's folder, or a folder that holds datasets under their names.
        image_size: The size of the decoded images in pixels: a side, or (height, width).
        out: Output folder of the runs, whose cache is used.
        quiet: False to show the progress on stderr.

    Returns:
        The dataset: `train.images` (N, H, W, 3) uint8, `train_categories` (N,), and the same for `test` with its masks.
    """
    cache = Path(out) / CACHE
    size = demand_size(image_size, f"image_size {image_size!r}")
    return open_dataset(name, root_of(name, path_of(data_root)), cache, size, reporter(quiet))


def evaluate_model(
    score: Callable[[NDArray[np.uint8]], ArrayLike | torch.Tensor], data: Dataset, *, batch_size: int = 32
) -> pd.DataFrame:
    """Measure a model of your own on the test images of a dataset, under the protocol of the suite.

    Args:
        score: Takes (B, S, S, 3) uint8 RGB and returns (B, S, S) anomaly maps. It learns neither category nor label.
            An image's score is the maximum of its map; to use another one, call `evaluate`.
        data: The dataset, from `dataset`.
        batch_size: Number of images at once.

    Returns:
        A row for each category, and 'mean' for their unweighted mean.

    Raises:
        InputError: If maps have another shape or hold NaN.
    """
    metrics = {}
    for category in data.categories:
        split, metrics[category] = data.test.of(category), CategoryMetrics()
        for start in range(0, len(split), batch_size):
            chosen = slice(start, start + batch_size)
            returned: Any = score(np.array(split.images[chosen]))
            maps = np.asarray(returned.detach().cpu() if hasattr(returned, "detach") else returned)
            expected = split.images[chosen].shape[:3]
            if maps.shape != expected:
                raise InputError(f"evaluate_model: expected maps of shape {expected}, found {maps.shape}")
            _add(
                metrics[category],
                maps,
                np.asarray(split.masks[chosen]) if split.has_masks else None,
                maps.max(axis=(1, 2)),
                np.array([sample.anomalous for sample in split.samples[chosen]]),
            )
    return _table({category: each.compute() for category, each in metrics.items()})


def _add(
    metrics: CategoryMetrics, maps: NDArray[Any], masks: NDArray[Any] | None, scores: NDArray[Any], labels: NDArray[Any]
) -> None:
    """Add images to the metrics of a category. Faults of a caller's arrays become an InputError."""
    try:
        metrics.update(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
    except ValueError as fault:
        raise InputError(f"evaluate: {fault}") from None


def _table(metrics: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Return metrics as a table: categories, then their mean; the mAD of a category is the mean of its seven metrics."""
    import pandas as pd

    rows = {
        name: {**values, COLUMNS[-1]: float(np.mean([values[key] for key in SEVEN]))}
        for name, values in metrics.items()
    }
    rows[MEAN] = mean_over_categories(metrics)
    table: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    table.index.name = "category"
    return table
