"""The seven metrics of the field, and their mean: the one place where they are named.

Source: facts of the protocol shared by the multi-class papers; `mad` is the mean of the seven.
"""

from __future__ import annotations

from dataclasses import dataclass

METRIC_VERSION = "exact-1"
"""Changes whenever a metric's value for the same maps changes; stored in every record."""


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
MAD = Metric("mad", "mAD", "both")
LABELS: dict[str, str] = {metric.key: metric.label for metric in (*METRICS, MAD)}
