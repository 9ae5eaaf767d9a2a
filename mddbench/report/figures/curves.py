"""Figures of what lies behind the metrics: image scores of normal and defective images, and curves of the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import LABELS
from mddbench.report.figures.canvas import (
    ACCENT,
    TEXT,
    WIDTH,
    balanced,
    canvas,
    folded,
    legend,
    save,
    series,
    title,
    whole_numbers,
)
from mddbench.runs.evidence import Evidence
from mddbench.runs.records import Record

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
    rows, columns = balanced(len(evidence), 5)
    figure, axes = canvas((0.6 + 2.2 * columns, 0.5 + 1.35 * rows), (rows, columns))
    for axis, part in zip(axes, evidence, strict=False):
        finite = np.isfinite(part.scores)
        scores, labels = part.scores[finite].astype(np.float64), part.labels[finite]
        edges = np.histogram_bin_edges(scores, min(MOST_BINS, 2 * math.isqrt(len(part.scores))))
        axis.hist(scores[~labels], edges, color="#9db7d5", label="normal images")
        axis.hist(scores[labels], edges, histtype="step", color=ACCENT, linewidth=1.2, label="with a defect")
        value = f"{LABELS['i_auroc']} {100 * record.value(part.category, 'i_auroc'):.1f} %"
        value += "" if finite.all() else f", {len(finite) - len(scores)} infinite"
        _head(axis, f"{_folded(part.category, columns)}\n{value}")
        whole_numbers(axis.yaxis)
    _name_outer(axes, len(evidence), columns, "image score", "images")
    legend(figure, axes[: len(evidence)])
    title(figure, f"{label} on {record.dataset}, seed {record.seed}: image scores")
    save(figure, file)


def draw_curves(shown: Sequence[Shown], dataset: str, file: Path) -> None:
    """Write a picture of precision against recall and of region overlap against false-positive rate of the pixels: means over
    categories and seeds, the range over the seeds shaded.
    """
    figure, axes = canvas((WIDTH, 2.9), (1, len(KINDS)))
    for axis, (field, x_label, y_label, key) in zip(axes, KINDS, strict=True):
        for number, row in enumerate(shown):
            curves = [_mean_curve(run, field) for run in row.runs]
            xs, ys = curves[0][0], np.stack([curve[1] for curve in curves])
            style = series(number)
            axis.fill_between(xs, ys.min(axis=0), ys.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)
            axis.plot(xs, ys.mean(axis=0), linewidth=1.4, label=row.label, **style)
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel(x_label, fontsize=TEXT)
        axis.set_ylabel(y_label, fontsize=TEXT)
        _head(axis, f"area: {LABELS[key]}")
    legend(figure, axes)
    title(figure, f"{dataset}: curves of the pixels, means over categories")
    save(figure, file)


def draw_category_curves(shown: Sequence[Shown], dataset: str, kind: int, file: Path) -> None:
    """Write a picture of one of the KINDS of curves: a panel a category, a line a method, its first run's."""
    field, x_label, y_label, key = KINDS[kind]
    categories = [part.category for part in shown[0].runs[0] if np.isfinite(getattr(part, field)).all()]
    rows, columns = balanced(len(categories), 5)
    figure, axes = canvas((0.6 + 2.2 * columns, 0.3 + 1.25 * rows), (rows, columns), share_y=True)
    for axis, category in zip(axes, categories, strict=False):
        for number, row in enumerate(shown):
            found = next((part for part in row.runs[0] if part.category == category), None)
            if found is not None:
                axis.plot(*getattr(found, field), linewidth=1.1, label=row.label, **series(number))
        _head(axis, _folded(category, columns))
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[: max(len(categories) - columns, 0)]:
        axis.tick_params(labelbottom=False)
    _name_outer(axes, len(categories), columns, x_label, y_label)
    legend(figure, axes[: len(categories)])
    title(figure, f"{dataset}: {y_label} against {x_label} of the pixels (area: {LABELS[key]}), first seed")
    save(figure, file)


def has_curves(shown: Sequence[Shown]) -> bool:
    """Whether any category has curves: there are masks."""
    return any(np.isfinite(part.precision_recall).all() for row in shown for run in row.runs for part in run)


def _mean_curve(run: Sequence[Evidence], field: str) -> NDArray[np.float64]:
    """(2, P) the curve's x, and the mean of y over the categories that have it."""
    curves = np.stack([getattr(part, field) for part in run]).astype(np.float64)
    defined = curves[np.isfinite(curves).all(axis=(1, 2))]
    return np.asarray(defined.mean(axis=0))


def _folded(category: str, columns: int) -> str:
    """A category's name, no wider than one of so many panels."""
    return folded(category.replace("_", " "), (WIDTH - 0.6) / max(columns, 3), TEXT)


def _head(axis: Any, text: str) -> None:
    axis.set_title(text, fontsize=TEXT, parse_math=False)


def _name_outer(axes: Any, count: int, columns: int, x_label: str, y_label: str) -> None:
    """Name the axes of the lowest and the leftmost of so many panels, and hide the rest."""
    for axis in axes[max(count - columns, 0) : count]:
        axis.set_xlabel(x_label, fontsize=TEXT)
    for axis in axes[:count:columns]:
        axis.set_ylabel(y_label, fontsize=TEXT)
    for axis in axes[count:]:
        axis.set_visible(False)
