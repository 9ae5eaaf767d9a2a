"""The seven metrics of the field, and their mean: the one place where they are named.

Source: facts of the protocol shared by the multi-class papers; `mad` is the mean of the seven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Engine = Literal["exact", "histogram"]
METRIC_VERSIONS: dict[Engine, str] = {"exact": "exact-1", "histogram": "histogram-2"}
"""By engine; stored in every record. A version changes whenever the same maps give a value that differs by more than 1e-12."""


@dataclass(frozen=True)
class Metric:
    """A metric as records and tables know it; every value lies in [0, 1] and higher is better."""

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
"""The sample-level AUROC of datasets that show an item in several views; no part of the seven, nor of their mean."""
COLUMNS: tuple[str, ...] = (*SEVEN, MAD.key)
LABELS: dict[str, str] = {metric.key: metric.label for metric in (*METRICS, MAD, ITEM)}


def expected_keys(place: str) -> set[str]:
    """The metrics that a record must have of 'mean' or of a category; it may have ITEM's, too."""
    return {*SEVEN, MAD.key} if place == "mean" else set(SEVEN)
