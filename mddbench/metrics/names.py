"""The names of the seven metrics of the field and of their mean `mad`.

The keys of metrics are defined here. Code that means one metric alone writes its key.

Source: facts of the protocol that the multi-class papers share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Engine = Literal["exact", "histogram"]
METRIC_VERSIONS: dict[Engine, str] = {"exact": "exact-1", "histogram": "histogram-2"}
"""Version of each engine, stored in every record.

A version changes whenever a value differs by more than 1e-12 for the same maps.
"""


MEAN = "mean"
"""Stands in place of a category: the mean over categories."""


@dataclass(frozen=True)
class Metric:
    """A metric; every value lies in [0, 1] and higher is better.

    Attributes:
        key: Name in records.
        label: Name in tables.
        level: What the metric compares: 'image', 'pixel', 'item', or 'both' for the mean of image and pixel metrics.
    """

    key: str
    label: str
    level: str


METRICS: tuple[Metric, ...] = (
    Metric("i_auroc", "I-AUROC", "image"),
    Metric("i_ap", "I-AP", "image"),
    Metric("i_f1max", "I-F1max", "image"),
    Metric("p_auroc", "P-AUROC", "pixel"),
    Metric("p_ap", "P-AP", "pixel"),
    Metric("p_f1max", "P-F1max", "pixel"),
    Metric("aupro", "AUPRO", "pixel"),
)
SEVEN: tuple[str, ...] = tuple(metric.key for metric in METRICS)
IMAGE_LEVEL: tuple[str, ...] = tuple(metric.key for metric in METRICS if metric.level == "image")
PIXEL_LEVEL: tuple[str, ...] = tuple(metric.key for metric in METRICS if metric.level == "pixel")
MAD = Metric("mad", "mAD", "both")
ITEM = Metric("s_auroc", "S-AUROC", "item")
"""The sample-level AUROC of datasets that show an item in several views.

It belongs neither to the seven metrics nor to their mean.
"""
COLUMNS: tuple[str, ...] = (*SEVEN, MAD.key)
LABELS: dict[str, str] = {metric.key: metric.label for metric in (*METRICS, MAD, ITEM)}


def expected_keys(category: str) -> set[str]:
    """Return the metrics that a record must hold for a category; it may also hold ITEM.

    Args:
        category: Name of a category, or 'mean' for the mean over categories.

    Returns:
        Metric keys.
    """
    return {*SEVEN, MAD.key} if category == "mean" else set(SEVEN)
