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
LOW_RATES: tuple[Metric, ...] = (
    Metric("aupro_05", "AUPRO@0.05", "pixel"),
    Metric("aupro_01", "AUPRO@0.01", "pixel"),
    Metric("aupimo", "AUPIMO", "pixel"),
    Metric("aupimo_p05", "AUPIMO 5%", "pixel"),
    Metric("aupimo_p25", "AUPIMO 25%", "pixel"),
    Metric("aupimo_p50", "AUPIMO 50%", "pixel"),
    Metric("spro_05", "AU-sPRO@0.05", "pixel"),
)
"""Pixel metrics at low false-positive rates. They belong neither to the seven metrics nor to their mean."""
COLUMNS: tuple[str, ...] = (*SEVEN, MAD.key)
LABELS: dict[str, str] = {metric.key: metric.label for metric in (*METRICS, MAD, ITEM, *LOW_RATES)}
MEANINGS: dict[str, str] = {
    "i_auroc": "share of pairs of a defective and a normal image in the right order, by image score",
    "i_ap": "average precision of image scores, step by step",
    "i_f1max": "highest F1 of image scores over all thresholds",
    "p_auroc": "the same as I-AUROC over all pixels of a category",
    "p_ap": "average precision of pixel scores",
    "p_f1max": "highest F1 of pixel scores over all thresholds",
    "aupro": "mean overlap of defect regions at false-positive rates from 0 to 0.3 of the pixels",
    "mad": "mean of the seven metrics",
    "s_auroc": "AUROC of items that are shown in several images, by their highest score",
    "aupro_05": "AUPRO up to a rate of 0.05",
    "aupro_01": "AUPRO up to a rate of 0.01",
    "aupimo": "mean over defective images of the recall of their pixels at rates of normal images from 1e-5 to 1e-4",
    "spro_05": "AUPRO up to a rate of 0.05, where a region counts as found from a given area on",
    "auroc_pooled": "AUROC of the images of all categories as one list",
    "ap_pooled": "average precision of the same list",
    "f1max_pooled": "highest F1 of the same list",
    "f1_one": "mean F1 of the categories at the threshold with the best F1 of the list",
    "fpr95": "share of false alarms where 95 % of the defective images are found",
    "pg2": "share of normal images that pass where 2 % of the defective ones pass, too",
    "pb2": "share of defective images that are found where 2 % of the normal ones are false alarms",
}
"""Key of a metric -> what it is, in a few words. docs/metrics.md has the formulas."""


def expected_keys(category: str) -> set[str]:
    """Return the metrics that a record must hold for a category; it may also hold ITEM.

    Args:
        category: Name of a category, or 'mean' for the mean over categories.

    Returns:
        Metric keys.
    """
    return {*SEVEN, MAD.key} if category == "mean" else set(SEVEN)
