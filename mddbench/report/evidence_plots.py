"""Figures of what lies behind the metrics: image scores of normal and defective images, and curves of the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.evidence import Evidence
from mddbench.metrics.names import LABELS
from mddbench.records import Record
from mddbench.report.canvas import canvas, save, series

MOST_BINS = 24
KINDS = (
    ("precision_recall", "recall", "precision", "p_ap"),
    ("region_overlap", "false-positive rate", "region overlap", "aupro"),
)
"""For each curve: its field, its axes, and the metric whose area it is."""


@dataclass(frozen=True)
class Shown:
    """A method's row with the evidence of those of its runs that have it, category by category."""

    label: str
    runs: tuple[tuple[Evidence, ...], ...]


def draw_scores(record: Record, label: str, evidence: Sequence[Evidence], file: Path) -> None:
    """Write a picture of one run's image scores: a panel a category, normal images filled, defective ones as an outline."""
    columns = min(len(evidence), 5)
    rows = -(-len(evidence) // columns)
    figure, axes = canvas((1.0 + 2.1 * columns, 0.7 + 1.7 * rows), (rows, columns))
    for axis, part in zip(axes, evidence, strict=False):
        bins = min(MOST_BINS, 2 * math.isqrt(len(part.scores)))
        edges = np.histogram_bin_edges(part.scores.astype(np.float64), bins)
        axis.hist(part.scores[~part.labels], edges, color="#9db7d5", label="normal images")
        axis.hist(
            part.scores[part.labels], edges, histtype="step", color="#1b1b1b", linewidth=1.4, label="with a defect"
        )
        value = f"{LABELS['i_auroc']} {100 * record.value(part.category, 'i_auroc'):.1f} %"
        axis.set_title(f"{part.category.replace('_', ' ')}, {value}", fontsize=8, parse_math=False)
        axis.tick_params(labelsize=7)
    for axis in axes[len(evidence) :]:
        axis.set_visible(False)
    for axis in axes[:: columns or 1]:
        axis.set_ylabel("images", fontsize=8)
    for axis in axes[max(len(evidence) - columns, 0) : len(evidence)]:
        axis.set_xlabel("image score", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(f"{label} on {record.dataset}, seed {record.seed}: image scores", fontsize=10, parse_math=False)
    save(figure, file)


def draw_curves(shown: Sequence[Shown], dataset: str, file: Path) -> None:
    """Write a picture of precision against recall and of region overlap against false-positive rate of the pixels: means over
    categories and seeds, the range over the seeds shaded.
    """
    figure, axes = canvas((9.0, 3.8), (1, len(KINDS)))
    for axis, (field, x_label, y_label, key) in zip(axes, KINDS, strict=True):
        for number, row in enumerate(shown):
            curves = [_mean_curve(run, field) for run in row.runs]
            ys = np.stack([curve[1] for curve in curves])
            style = series(number)
            axis.fill_between(
                curves[0][0], ys.min(axis=0), ys.max(axis=0), color=style["color"], alpha=0.18, linewidth=0
            )
            axis.plot(curves[0][0], ys.mean(axis=0), linewidth=1.5, label=row.label, **style)
        _name_axes(axis, x_label, y_label)
        axis.set_title(f"area: {LABELS[key]}", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"{dataset}: curves of the pixels, means over categories", fontsize=10, parse_math=False)
    save(figure, file)


def draw_category_curves(shown: Sequence[Shown], dataset: str, kind: int, file: Path) -> None:
    """Write a picture of one of the KINDS of curves: a panel a category, a line a method, its first run's."""
    field, x_label, y_label, key = KINDS[kind]
    categories = [part.category for part in shown[0].runs[0] if np.isfinite(getattr(part, field)).all()]
    columns = min(len(categories), 5)
    rows = -(-len(categories) // columns)
    figure, axes = canvas((1.0 + 2.1 * columns, 0.8 + 1.9 * rows), (rows, columns), share_y=True)
    for axis, category in zip(axes, categories, strict=False):
        for number, row in enumerate(shown):
            found = next((part for part in row.runs[0] if part.category == category), None)
            if found is not None:
                axis.plot(*getattr(found, field), linewidth=1.2, label=row.label, **series(number))
        axis.set_title(category.replace("_", " "), fontsize=8, parse_math=False)
        axis.tick_params(labelsize=7)
        _name_axes(axis, x_label, "")
    for axis in axes[:: columns or 1]:
        axis.set_ylabel(y_label, fontsize=8)
    for axis in axes[len(categories) :]:
        axis.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    title = f"{dataset}: {y_label} against {x_label} of the pixels (area: {LABELS[key]}), first seed"
    figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, file)


def has_curves(shown: Sequence[Shown]) -> bool:
    """Whether any category has curves: there are masks."""
    return any(np.isfinite(part.precision_recall).all() for row in shown for run in row.runs for part in run)


def _mean_curve(run: Sequence[Evidence], field: str) -> NDArray[np.float64]:
    """(2, P) the curve's x, and the mean of y over the categories that have it."""
    curves = np.stack([getattr(part, field) for part in run]).astype(np.float64)
    defined = curves[np.isfinite(curves).all(axis=(1, 2))]
    return np.asarray(defined.mean(axis=0))


def _name_axes(axis: Any, x_label: str, y_label: str) -> None:
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel(x_label, fontsize=8)
    if y_label:
        axis.set_ylabel(y_label, fontsize=8)
